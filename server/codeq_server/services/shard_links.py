"""Links from the owner of one shard to those of the others: processes of the same server, or other nodes.

A call that belongs to another shard takes one hop: its process executes it and routes it no further. Each process
authenticates the caller itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import grpc.aio
import structlog
from codeq_gateway.dispatch import Call, CallFailed
from codeq_gateway.links import Credentials, Link, LostError, Messages, NotSentError, Reach, open_channel, plaintext
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.ids import hash_of

from .calls import Calls
from .internal_callers import Owner
from .leader_seeker import LeaderSeeker
from .methods import CALL_SECONDS, WAIT_FIELD
from .routing.placing import has_limits
from .routing.router import CLAIMS
from .shard_service import SHARD
from .shards import Caller

_log = structlog.get_logger()

AGAIN_SECONDS: Final = 6.0
"""Time after the end of a process during which calls wait for it: one that starts again serves sooner."""
LEADER_PAUSE_SECONDS: Final = 0.05
"""Pause before a call is made again, whose process has just ceased to lead its group, or is about to."""
CHANNELS: Final = 8
"""Connections to each other process for the streams of workers: one carries 1,000 streams, and a process has up to
6,000 workers."""
FORMER_SECONDS: Final = 60.0
"""Time for streams over connections with replaced credentials to end."""

_ELSEWHERE: Final = frozenset({Reason.NOT_LEADER, Reason.DRAINING})
"""Why a process refuses calls that it has not executed, and that the next leader of its group will take."""

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
        seekers: For each shard, which of several processes owns it at the time; `addresses` are not used then, and this
            process may not own its shard. None: owners do not change.
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
        seekers: Sequence[LeaderSeeker] = (),
        moved: Moved | None = None,
    ) -> None:
        self.mine, self.count, self.metadata = owner.shard, owner.shards, owner.says_to
        self._names, self._calls, self._patience, self._moved = names, calls, patience_seconds, moved
        self._credentials, self._seekers = credentials, seekers
        messages = Messages(descriptor_pool.Default())
        self._addresses = {index: each for index, each in enumerate(addresses) if seekers or index != self.mine}
        self._down = dict.fromkeys(self._addresses, asyncio.get_running_loop().time())
        """Since when each process that cannot be reached cannot be."""
        self._links = {
            index: Link(
                address,
                self.metadata(index),
                messages,
                partial(self._on_change, index),
                credentials,
                _log_refused,
                seekers[index] if seekers else None,
            )
            for index, address in self._addresses.items()
        }
        self._channels: dict[int, tuple[Reach, list[grpc.aio.Channel]]] = {}
        self._former: set[asyncio.Task[None]] = set()
        """Close the channels to former owners, or with credentials that were replaced."""
        self._turn = 0
        self._changed = asyncio.Event()
        self._responses: dict[str, type[Message]] = {}
        self.on_change: Callable[[], None] = _nothing

    def is_up(self, shard: int) -> bool:
        """Returns whether calls can be sent to a shard."""
        return self._is_here(shard) or self._links[shard].is_up

    def nearest(self) -> int | None:
        """Returns a shard whose owner can be reached, if possible one of this node; None: there is none.

        It is the same one until leaders change, so that the tasks of one connection stay in order.
        """
        up = [shard for shard, link in self._links.items() if link.is_up]
        near = [shard for shard in up if self._seekers and self._seekers[shard].is_near]
        chosen = near or up
        return chosen[self.mine % len(chosen)] if chosen else None

    async def reach_any(self, seconds: float) -> int | None:
        """Returns `nearest`; waits until there is one, for at most `seconds`."""
        await self._until(lambda: self.nearest() is not None, asyncio.get_running_loop().time() + seconds)
        return self.nearest()

    async def _until(self, holds: Callable[[], bool], end: float) -> bool:
        """Waits until something holds that depends on which processes can be reached; returns whether it does.

        Args:
            holds: Says so.
            end: Time of the event loop at which to wait no longer.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
        return holds()

    def _is_here(self, shard: int) -> bool:
        """Returns whether this process owns a shard."""
        return shard == self.mine and (not self._seekers or self._calls.shards.serving is not None)

    async def reach_all(self, seconds: float) -> None:
        """Waits until calls can be sent to every shard, for at most `seconds`."""
        links = self._links.values()
        await self._until(lambda: all(link.is_up for link in links), asyncio.get_running_loop().time() + seconds)

    async def _is_back(self, shard: int, give_up: float) -> bool:
        """Waits for an owner that was lost a short while ago; returns whether it can be reached.

        Args:
            shard: Its shard.
            give_up: Time of the event loop at which a call gives up which owner after owner has refused.
        """
        now = asyncio.get_running_loop().time()
        if self.is_up(shard):
            return not self._seekers or now < give_up
        return await self._until(lambda: self.is_up(shard), self._down.setdefault(shard, now) + self._patience)

    def _on_change(self, shard: int) -> None:
        if self._links[shard].is_up:
            self._down.pop(shard, None)
        else:
            self._down.setdefault(shard, asyncio.get_running_loop().time())
        self._changed.set()
        self.on_change()

    def channel(self, shard: int) -> grpc.aio.Channel:
        """Returns a channel to the owner of another shard, each of CHANNELS in turn."""
        wanted = self._seekers[shard].reach() if self._seekers else Reach(self._addresses[shard], self._credentials())
        reach, channels = self._channels.get(shard, (None, []))
        if reach != wanted:
            if channels:
                work = _close(channels, FORMER_SECONDS)
                closing = asyncio.get_running_loop().create_task(work, name="former-channels")
                self._former.add(closing)
                closing.add_done_callback(self._former.discard)
            address, credentials, more = wanted
            channels = [open_channel(address, credentials, alone=True, more=more) for _ in range(CHANNELS)]
            self._channels[shard] = wanted, channels
        self._turn += 1
        return channels[self._turn % CHANNELS]

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
        call = Call(method, request, authorization, "", seconds, origin=origin, shard=shard, part=part)
        tries = Tries(request)
        while True:
            if self._is_here(shard):
                try:
                    return await self._calls.carry_out(
                        method, claims, call.request, authorization, origin=origin, here=True, part=part
                    )
                except Rejection as refusal:
                    # If it drains, this whole process is about to stop, and its clients ask another one.
                    if not self._seekers or refusal.reason is not Reason.NOT_LEADER:
                        raise
                await asyncio.sleep(LEADER_PAUSE_SECONDS)
            elif (content := await self.sent(shard, call)) is not None:
                return self.response(method, content)
            call = call._replace(request=tries.next(self._patience))
            # Claims find tasks in other shards.
            if method in CLAIMS or method.startswith(f"/{SHARD}/") or not await self._is_back(shard, tries.give_up):
                raise self._unreachable(shard)

    async def sent(self, shard: int, call: Call) -> bytes | None:
        """Returns the response of a call to another process; None: it was not executed, or only read.

        Raises:
            Rejection: As `call`.
        """
        try:
            return await self._links[shard].call(call)
        except CallFailed as failure:
            refusal = _rejection_of(failure)
            if not self._seekers or refusal.reason not in _ELSEWHERE:
                raise refusal from None
            await asyncio.sleep(LEADER_PAUSE_SECONDS)
            return None
        except NotSentError:
            return None
        except LostError:
            if self._calls.methods[call.method].reads:
                return None
            text = f"{self._names[shard]} was lost before its reply; the call may have been executed"
            raise Rejection(Reason.OUTCOME_UNKNOWN, text) from None

    def response(self, method: str, content: bytes) -> Message:
        """Parses the response of a method."""
        return self._response_class(method).FromString(content)

    def _response_class(self, method: str) -> type[Message]:
        known = self._responses.get(method)
        if known is None:
            known = message_factory.GetMessageClass(self._calls.methods[method].descriptor.output_type)
            self._responses[method] = known
        return known

    async def close(self) -> None:
        """Closes every link; calls in flight fail."""
        await asyncio.gather(*[link.close() for link in self._links.values()])
        for closing in self._former:
            closing.cancel()
        await asyncio.gather(*self._former, return_exceptions=True)
        await asyncio.gather(*[_close(channels, None) for _, channels in self._channels.values()])

    def _unreachable(self, shard: int) -> Rejection:
        """Returns the rejection of a call on a shard whose owner cannot be reached."""
        why = "it is started again" if self._patience else "it is away, or refuses this node"
        if self._seekers:
            why = "its group has no leader that this node reaches"
        return Rejection(Reason.SERVER_UNREACHABLE, f"{self._names[shard]} cannot be reached: {why}; see the log")


class Tries:
    """The tries of a call that one process after the other has not executed; must be created when the call begins.

    Attributes:
        give_up: Time of the event loop at which no further process is tried; set by `next`.

    Args:
        request: Request of the call.
    """

    def __init__(self, request: Message) -> None:
        self._request = request
        self._begun = asyncio.get_running_loop().time()
        self.give_up = 0.0

    def next(self, patience_seconds: float) -> Message:
        """Returns the request for the next try, which waits for what is left of its time.

        Args:
            patience_seconds: Time to try, from the first refusal on: a call that waits may be refused late.
        """
        now = asyncio.get_running_loop().time()
        self.give_up = self.give_up or now + patience_seconds
        wait = getattr(self._request, WAIT_FIELD, 0)
        if not wait:
            return self._request
        again = type(self._request)()
        again.CopyFrom(self._request)
        setattr(again, WAIT_FIELD, max(0, wait - int(now - self._begun)))
        return again


def _log_refused(address: str, reason: str) -> None:
    _log.error("owner_refused", server=address, error=reason)


def _nothing() -> None:
    """Ignores a change."""


async def _close(channels: Sequence[grpc.aio.Channel], seconds: float | None) -> None:
    """Closes channels, once their calls have ended or after some seconds."""
    await asyncio.gather(*[channel.close(seconds) for channel in channels])


def _rejection_of(failure: CallFailed) -> Rejection:
    """Returns the rejection that another process gave."""
    reason = Reason(failure.reason)
    return Rejection(reason, failure.message, failure.violations, metadata=dict(failure.metadata))
