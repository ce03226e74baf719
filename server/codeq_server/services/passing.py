"""What a process does for clients while it does not lead the group of its shard: it passes everything on.

A call or stream goes, as it came, to a process that leads the group of its own shard, if possible one of the same
node. That process routes it, and never passes it on again. So routing happens only where a shard is at hand, with its
policies and limits. What is passed on is logged and counted here alone, where the client's connection is.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any

import grpc.aio
from codeq_gateway.dispatch import Call
from codeq_gateway.finishing import finish
from google.protobuf.message import Message

from codeq_server.core.errors import Reason, Rejection

from .methods import call_seconds
from .part_links import rejection_of
from .shard_links import AGAIN_SECONDS, ShardLinks, Tries
from .shards import PASSED_KEY, Caller, Codec


class PassingOn:
    """Passes calls and streams on.

    Args:
        links: Reach the processes that lead.
    """

    def __init__(self, links: ShardLinks) -> None:
        self._links = links
        self._streams: set[Any] = set()
        """The calls of streams to other processes."""

    @property
    def reaches_any(self) -> bool:
        """See `Passing`."""
        return self._links.nearest() is not None

    async def call(self, method: str, request: Message, caller: Caller) -> Message:
        """See `Passing`."""
        seconds = call_seconds(request)
        call = Call(method, request, caller.authorization, "", seconds, origin=caller.origin)
        tries = Tries(request)
        while True:
            shard = self._links.nearest()
            if shard is not None and (content := await self._links.sent(shard, call)) is not None:
                return self._links.response(method, content)
            call = call._replace(request=tries.next(AGAIN_SECONDS))
            left = tries.give_up - asyncio.get_running_loop().time()
            if left <= 0:
                raise Rejection(Reason.SERVER_UNREACHABLE, "no shard has a leader that this node reaches; try again")
            await self._links.reach_any(left)

    async def stream(self, name: str, context: Any, codec: Codec) -> None:
        """See `Passing`."""
        metadata = dict(context.invocation_metadata())
        shard = None if PASSED_KEY in metadata else await self._links.reach_any(AGAIN_SECONDS)
        if shard is None:
            raise Rejection(Reason.NOT_LEADER, "no leader is known; try again")
        encode, decode = codec
        exchange: Any = self._links.channel(shard).stream_stream(
            name, request_serializer=encode, response_deserializer=decode
        )
        shown = metadata.get("authorization", "")
        rpc = exchange(metadata=(("authorization", shown), (PASSED_KEY, "1")))
        loop = asyncio.get_running_loop()
        answers = _Answers(context)
        nothing = b"" if decode is None else decode(b"")
        sending = loop.create_task(_send(context, rpc, answers, nothing), name="passed-requests")
        receiving = loop.create_task(_receive(rpc, answers), name="passed-responses")
        self._streams.add(rpc)
        await finish(self._watch(receiving), partial(self._stop, rpc, sending, receiving))

    async def _watch(self, receiving: asyncio.Task[None]) -> None:
        """Waits for the end of a stream.

        Raises:
            Rejection: Why it ended; DRAINING: this process ended it.
        """
        await asyncio.wait((receiving,))
        if receiving.cancelled():
            raise Rejection(Reason.DRAINING, "the server is stopping")
        receiving.result()

    async def _stop(self, rpc: Any, *sides: asyncio.Task[None]) -> None:
        self._streams.discard(rpc)
        rpc.cancel()
        for side in sides:
            side.cancel()
        await asyncio.gather(*sides, return_exceptions=True)

    def end(self) -> None:
        """See `Passing`."""
        for rpc in self._streams:
            rpc.cancel()  # not the tasks: a write to the client that is cut off would leave it without a status


class _Answers:
    """What goes to the client, one message at a time."""

    def __init__(self, context: Any) -> None:
        self._context, self._writing = context, asyncio.Lock()

    async def write(self, response: Any) -> None:
        async with self._writing:
            await self._context.write(response)


async def _send(context: Any, rpc: Any, answers: _Answers, nothing: Any) -> None:
    """Sends what the client sends, and half-closes if the client has.

    Reading ends in the same way if the client's call broke. A write tells them apart, because it fails or is cancelled
    then: a worker keeps its leases if its call breaks, but not if it half-closes.
    """
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the receiver learns why
        while (request := await context.read()) is not grpc.aio.EOF:
            await rpc.write(request)
        await answers.write(nothing)
        await rpc.done_writing()


async def _receive(rpc: Any, context: _Answers) -> None:
    """Returns to the client what the other process sends.

    Raises:
        Rejection: Why the other process ended the stream.
    """
    try:
        while (response := await rpc.read()) is not grpc.aio.EOF:
            await context.write(response)
    except grpc.aio.AioRpcError as problem:
        raise rejection_of(problem) from None
