"""Links from the owner of one shard to those of the others: processes of the same server, or other nodes.

A call that belongs to another shard takes one hop: its process executes it and routes it no further. Each process
authenticates the caller itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import grpc.aio
import structlog
from codeq_gateway.dispatch import Call, CallFailed
from codeq_gateway.links import Credentials, Link, LostError, Messages, NotSentError, open_channel, plaintext
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.ids import hash_of

from .calls import Calls
from .internal_callers import Owner
from .routing.placing import has_limits
from .routing.router import CLAIMS
from .shard_service import SHARD
from .shards import Caller

_log = structlog.get_logger()

CALL_SECONDS: Final = 30.0
"""Time for a shard to answer a call that does not wait for anything."""
AGAIN_SECONDS: Final = 6.0
"""Time after the end of a process during which calls wait for it: one that starts again serves sooner."""
PROBE_SECONDS: Final = 2.0
"""Time for a process to answer with its metrics."""
CHANNELS: Final = 8
"""Connections to each other process for the streams of workers: one carries 1,000 streams, and a process has up to
6,000 workers."""
FORMER_SECONDS: Final = 60.0
"""Time for streams over connections with replaced credentials to end."""

Moved = Callable[[int], int | None]
"""Returns the shard of a task that does not live in that of its id, given the id's hash."""


class ShardLinks:
    """Reaches each shard; must be created within the event loop.

    Args:
        owner: This process.
        names: The owner of each shard, in words.
        addresses: Address of each owner.
        calls: Executes the calls of this process.
        credentials: Returns credentials for connections; new ones take effect when a connection is opened again.
        patience_seconds: How long after the loss of an owner calls wait for it, unless they are claims.
        moved: Returns the shard of a task that does not live in that of its id, given the id's hash; None: none does.

    Attributes:
        count: Number of shards.
        mine: Index of the shard of this process.
    """

    def __init__(
        self,
        owner: Owner,
        names: Sequence[str],
        addresses: Sequence[str],
        calls: Calls,
        *,
        credentials: Credentials = plaintext,
        patience_seconds: float = AGAIN_SECONDS,
        moved: Moved | None = None,
    ) -> None:
        self.mine, self.count, self.metadata = owner.shard, owner.shards, owner.says_to
        self._names, self._calls, self._patience, self._moved = names, calls, patience_seconds, moved
        self._credentials, self._current = credentials, credentials()
        pool = descriptor_pool.Default()
        messages = Messages(pool)
        self._addresses = {index: address for index, address in enumerate(addresses) if index != self.mine}
        self._down = dict.fromkeys(self._addresses, asyncio.get_running_loop().time())
        """Since when each process that cannot be reached cannot be."""
        self._links = {
            index: Link(
                address, self.metadata(index), messages, partial(self._on_change, index), credentials, _log_refused
            )
            for index, address in self._addresses.items()
        }
        self._channels = self._new_channels()
        self._former: set[asyncio.Task[None]] = set()
        """Close the channels with credentials that were replaced."""
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
            async with asyncio.timeout_at(since + self._patience):
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
        """Returns a channel to the owner of another shard, each of CHANNELS in turn."""
        if (credentials := self._credentials()) is not self._current:
            self._current = credentials
            former, self._channels = self._channels, self._new_channels()
            closing = asyncio.get_running_loop().create_task(_close(former, FORMER_SECONDS), name="former-channels")
            self._former.add(closing)
            closing.add_done_callback(self._former.discard)
        self._turn = (self._turn + 1) % CHANNELS
        return self._channels[shard][self._turn]

    def shard_of(self, task_id: str) -> int:
        """See `Shards.shard_of`."""
        hashed = hash_of(task_id)
        shard = None if self._moved is None else self._moved(hashed)
        return hashed % self.count if shard is None else shard

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
            Rejection: The shard rejected the call; SERVER_UNREACHABLE: its owner cannot be reached, so the call was not
                executed; calls other than claims wait for the patience of the links; OUTCOME_UNKNOWN: its owner was
                lost before the reply.
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
                raise self._unreachable(shard)
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
            text = f"{self._names[shard]} was lost before its reply; the call may have been executed"
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
        for closing in self._former:
            closing.cancel()
        await asyncio.gather(*self._former, return_exceptions=True)
        await _close(self._channels, None)

    def _new_channels(self) -> dict[int, list[grpc.aio.Channel]]:
        return {
            index: [open_channel(address, self._current, alone=True) for _ in range(CHANNELS)]
            for index, address in self._addresses.items()
        }

    def _unreachable(self, shard: int) -> Rejection:
        """Returns the rejection of a call on a shard whose owner cannot be reached."""
        why = "it is started again" if self._patience else "it is away, or refuses this node"
        return Rejection(Reason.SERVER_UNREACHABLE, f"{self._names[shard]} cannot be reached: {why}; see the log")


def _log_refused(address: str, reason: str) -> None:
    _log.error("owner_refused", server=address, error=reason)


async def _close(channels: Mapping[int, Sequence[grpc.aio.Channel]], seconds: float | None) -> None:
    """Closes channels, once their calls have ended or after some seconds."""
    await asyncio.gather(*[channel.close(seconds) for each in channels.values() for channel in each])


def _rejection_of(failure: CallFailed) -> Rejection:
    """Returns the rejection that another process gave."""
    reason = Reason(failure.reason)
    return Rejection(reason, failure.message, failure.violations, metadata=dict(failure.metadata))
