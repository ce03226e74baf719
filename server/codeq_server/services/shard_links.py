"""Links from a process that serves one shard to those of the others.

A call that belongs to another shard takes one hop: its process executes it and routes it no further. Each process
authenticates the caller itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Final

import grpc.aio
from codeq_gateway.dispatch import Call, CallFailed
from codeq_gateway.links import Link, LostError, Messages, NotSentError, open_channel
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

from codeq_server.core.errors import Reason, Rejection

from .calls import Calls
from .routing.placing import has_limits
from .routing.router import CLAIMS
from .shard_service import SHARD
from .shards import Caller

CALL_SECONDS: Final = 30.0
"""Time for a shard to answer a call that does not wait for anything."""
AGAIN_SECONDS: Final = 6.0
"""Time after the end of a process during which calls wait for it: one that starts again serves sooner."""
PROBE_SECONDS: Final = 2.0
"""Time for a process to answer with its metrics."""
CHANNELS: Final = 8
"""Connections to each other process for the streams of workers: one carries 1,000 streams, and a process has up to
6,000 workers."""
LOOPBACK: Final = "127.0.0.1"


class ShardLinks:
    """Reaches each shard; must be created within the event loop.

    Args:
        mine: Index of the shard of this process.
        ports: Loopback port of each shard's process, for the others.
        secret: Secret that the processes share.
        calls: Executes the calls of this process.

    Attributes:
        count: Number of shards.
        mine: Index of the shard of this process.
        secret: Secret that the processes share.
    """

    def __init__(self, mine: int, ports: tuple[int, ...], secret: str, calls: Calls) -> None:
        self.mine, self.count, self.secret = mine, len(ports), secret
        self._calls = calls
        pool = descriptor_pool.Default()
        messages = Messages(pool)
        addresses = {index: f"{LOOPBACK}:{port}" for index, port in enumerate(ports) if index != mine}
        self._down = dict.fromkeys(addresses, asyncio.get_running_loop().time())
        """Since when each process that cannot be reached cannot be."""
        self._links = {
            index: Link(address, secret, messages, partial(self._on_change, index))
            for index, address in addresses.items()
        }
        self._channels = {
            index: [open_channel(address, alone=True) for _ in range(CHANNELS)] for index, address in addresses.items()
        }
        self._turn = 0
        self._messages = messages
        self._changed = asyncio.Event()
        self._responses: dict[str, type[Message]] = {}

    def is_up(self, shard: int) -> bool:
        """Returns whether calls can be sent to a shard."""
        return shard == self.mine or self._links[shard].is_up

    async def reach_all(self, seconds: float) -> None:
        """Waits until calls can be sent to every shard, for at most `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not all(link.is_up for link in self._links.values()):
                    self._changed.clear()
                    await self._changed.wait()

    async def _is_back(self, shard: int) -> bool:
        """Waits for a process that has ended a short while ago; returns whether it can be reached."""
        link, since = self._links[shard], self._down.setdefault(shard, asyncio.get_running_loop().time())
        with suppress(TimeoutError):
            async with asyncio.timeout_at(since + AGAIN_SECONDS):
                while not link.is_up:
                    self._changed.clear()
                    await self._changed.wait()
        return link.is_up

    def _on_change(self, shard: int) -> None:
        if self._links[shard].is_up:
            self._down.pop(shard, None)
        else:
            self._down.setdefault(shard, asyncio.get_running_loop().time())
        self._changed.set()

    def channel(self, shard: int) -> grpc.aio.Channel:
        """Returns a channel to the process of another shard, each of CHANNELS in turn."""
        self._turn = (self._turn + 1) % CHANNELS
        return self._channels[shard][self._turn]

    def limits_queue(self, tenant: str, command: str) -> bool:
        """Returns whether the policy of a command limits or orders its tasks; see `placing`.

        Raises:
            Rejection: This process does not serve its shard.
        """
        return has_limits(self._calls.shards.current().runner.shard.policies, tenant, command)

    async def call(
        self,
        shard: int,
        method: str,
        request: Message,
        caller: Caller,
        *,
        part: bool = False,
        seconds: float = CALL_SECONDS,
    ) -> Message:
        """Returns the response of a call that one shard executes. Cancelling the caller cancels the call there.

        Args:
            shard: Index of the shard.
            method: Full name of the method.
            request: Its request.
            caller: Who calls.
            part: Whether the call is a part of one that another shard charges and records.
            seconds: Time for the reply, if another process serves the shard.

        Raises:
            Rejection: The shard rejected the call; SERVER_UNREACHABLE: its process does not run, so the call was not
                executed, nor within AGAIN_SECONDS of its end, for which calls other than claims wait; OUTCOME_UNKNOWN:
                its process ended before the reply.
        """
        claims, authorization, origin = caller
        if shard == self.mine:
            return await self._calls.carry_out(
                method, claims, request, authorization, origin=origin, here=True, part=part
            )
        call = Call(method, request, authorization, "", seconds, origin=origin, shard=shard, part=part)
        while (content := await self._sent(shard, call)) is None:
            # Claims find tasks in other shards.
            if method in CLAIMS or method.startswith(f"/{SHARD}/") or not await self._is_back(shard):
                raise unreachable(shard)
        return self._response_class(method).FromString(content)

    async def _sent(self, shard: int, call: Call) -> bytes | None:
        """Returns the response of a call to another process; None: it was not executed, or only read.

        Raises:
            Rejection: As `call`.
        """
        try:
            return await self._links[shard].call(call)
        except CallFailed as failure:
            raise _rejection_of(failure) from None
        except NotSentError:
            return None
        except LostError:
            if self._calls.methods[call.method].reads:
                return None
            text = f"the process of shard {shard} ended before its reply; the call may have been executed"
            raise Rejection(Reason.OUTCOME_UNKNOWN, text) from None

    def _response_class(self, method: str) -> type[Message]:
        known = self._responses.get(method)
        if known is None:
            known = message_factory.GetMessageClass(self._calls.methods[method].descriptor.output_type)
            self._responses[method] = known
        return known

    async def metrics(self) -> Mapping[int, bytes]:
        """Returns the metrics of each other shard whose process answers."""
        answers = await asyncio.gather(*[self._metrics_of(index) for index in self._links])
        return {index: text for index, text in zip(self._links, answers, strict=True) if text}

    async def _metrics_of(self, shard: int) -> bytes:
        messages = self._messages
        try:
            answer = await self._links[shard].ask(
                "GetMetrics", messages.metrics_request(own=True), messages.metrics_response, PROBE_SECONDS
            )
        except grpc.aio.AioRpcError:
            return b""
        text: bytes = answer.text
        return text

    async def close(self) -> None:
        """Closes every link; calls in flight fail."""
        await asyncio.gather(*[link.close() for link in self._links.values()])
        await asyncio.gather(*[channel.close() for channels in self._channels.values() for channel in channels])


def unreachable(shard: int) -> Rejection:
    """Returns the rejection of a call on a shard whose process does not run."""
    text = f"the process of shard {shard} does not run; it is started again, and the server's log says why it ended"
    return Rejection(Reason.SERVER_UNREACHABLE, text)


def _rejection_of(failure: CallFailed) -> Rejection:
    """Returns the rejection that another process gave."""
    reason = Reason(failure.reason)
    return Rejection(reason, failure.message, failure.violations, metadata=dict(failure.metadata))
