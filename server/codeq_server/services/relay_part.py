"""A relay's link to one shard, which is opened again whenever it breaks."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, Protocol

import structlog
from codeq.v1 import worker_service_pb2 as worker_pb
from codeq_gateway.finishing import finish
from codeq_internal.v1 import shard_work_pb2 as pb

from codeq_server.core.errors import Reason, Rejection

from .part_links import LinkEndedError, PartLink

_log = structlog.get_logger()

CONNECT_SECONDS: Final = 5.0
"""Time for a shard to accept a link."""
PAUSE_SECONDS_MIN: Final = 0.05
"""Initial backoff before a link is reopened; it doubles with each failed attempt."""
PAUSE_SECONDS_MAX: Final = 1.0
"""Maximum backoff."""
HOLD_SECONDS = 6.0
"""Time for which requests to a shard that cannot be reached are held: a process that ended serves again sooner. An SDK
takes an outcome that was not executed for the end of its stream; after this time, it connects again without a pause."""
HELD_BYTES_MAX = 1 << 20
"""Bytes of held requests beyond which they are answered at once, so that those to other shards go on."""
FAULTS_OF_CLIENTS: Final = frozenset(
    {Reason.INVALID_FIELD, Reason.TOO_LARGE, Reason.MISSING_SCOPE, Reason.COMMAND_NOT_ALLOWED}
)
"""Reasons that end the stream of the client, because any shard would give them."""


class Relay(Protocol):
    """The stream to which a part belongs."""

    def is_valid(self) -> bool:
        """Returns whether the token of the client is valid here."""
        ...

    def opened(self, shard: int) -> None:
        """Called when a shard has accepted its part."""
        ...

    def take(self, shard: int, response: pb.WorkOnShardResponse) -> None:
        """Called with each response of a shard."""
        ...

    def lost(self, shard: int, unsent: int, reason: str, *, keeps: bool) -> None:
        """Called when the link to a shard has ended.

        Args:
            shard: The shard.
            unsent: Number of outcomes that were not sent over it.
            reason: Why it has ended.
            keeps: Whether the part sends these outcomes over the next link; otherwise it has dropped them.
        """
        ...

    def sent(self) -> None:
        """Called when requests to a shard were sent."""
        ...


class _Request(NamedTuple):
    """A request to send, with the number of its outcomes and its size."""

    message: pb.WorkOnShardRequest
    outcomes: int
    size: int


class RelayPart:
    """One shard's part of a relayed stream.

    Attributes:
        unsent_bytes: Bytes of requests that wait to be sent.
        delivered: Number of the last pull whose tasks were sent to the client.
        is_down: Whether requests can no longer wait for the shard; see HOLD_SECONDS.

    Args:
        shard: The shard.
        relay: The stream.
        connect: Begins to open a link.
        hello: Returns the first request.
    """

    def __init__(
        self, shard: int, relay: Relay, connect: Callable[[int], PartLink], hello: Callable[[], pb.WorkOnShardRequest]
    ) -> None:
        self.unsent_bytes = 0
        self.delivered = 0
        self.is_down = False
        self._shard = shard
        self._relay = relay
        self._connect = connect
        self._hello = hello
        self._requests: deque[_Request] = deque()
        self._unsent_outcomes = 0
        self._pulls = 0
        self._wake = asyncio.Event()
        self._accepted = asyncio.Event()
        """Set while the shard serves the link."""
        self._is_ending = False
        """Whether the client has half-closed, or has left."""
        self._is_leaving = self._was_refused = False
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Keeps the link open until `end` or `leave`.

        Raises:
            Rejection: The client is at fault.
        """
        loop = asyncio.get_running_loop()
        pause, lost = PAUSE_SECONDS_MIN, loop.time()
        while True:
            link = self._connect(self._shard)
            writer = loop.create_task(self._write(link), name="relay-part")
            refusal = await finish(self._exchange(link), partial(self._stop, link, writer))
            if self._accepted.is_set():
                self._accepted.clear()
                pause, lost = PAUSE_SECONDS_MIN, loop.time()
            is_fault = refusal is not None and refusal.reason in FAULTS_OF_CLIENTS
            if refusal is not None and refusal.reason is Reason.UNAUTHENTICATED and self._relay.is_valid():
                self._tell_refused(refusal)
            self.is_down |= is_fault or loop.time() - lost >= HOLD_SECONDS
            self._lose("the link has ended" if refusal is None else refusal.message)
            if refusal is not None and is_fault:
                raise refusal
            if self._is_ending and not self._requests:
                return
            await self._pause(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, PAUSE_SECONDS_MAX)

    def send(self, work: worker_pb.WorkRequest) -> None:
        """Sends what the client says about tasks of the shard; call it only while the part is not down."""
        outcomes = len(work.outcomes)
        self._unsent_outcomes += outcomes
        self._put(_Request(pb.WorkOnShardRequest(work=work), outcomes, work.ByteSize()))
        if self.unsent_bytes > HELD_BYTES_MAX and not self._accepted.is_set():
            self.is_down = True
            self._lose("too much waits for it")

    def pull(self, count: int, size: int) -> int:
        """Asks for tasks; 0: none are wanted now. Returns the number of the pull."""
        self._pulls += 1
        pull = pb.ShardPull(number=self._pulls, count=count, bytes=size, delivered=self.delivered)
        if self._requests and not self._requests[-1].message.HasField("pull"):
            self._requests[-1].message.pull.CopyFrom(pull)
        else:
            self._put(_Request(pb.WorkOnShardRequest(pull=pull), 0, 0))
        return self._pulls

    def end(self) -> None:
        """Half-closes: the shard settles what it has got, and gives back all leases."""
        self._is_ending = True
        self._ended.set()
        self._wake.set()

    def leave(self) -> None:
        """Ends the part because the client's call broke: the shard takes back the tasks that the client did not get."""
        if not self._is_ending:
            self._is_leaving = True
            self._requests.clear()
            self.end()

    def _put(self, request: _Request) -> None:
        self._requests.append(request)
        self.unsent_bytes += request.size
        self._wake.set()

    def _tell_refused(self, refusal: Rejection) -> None:
        """Logs, once, that the shard refuses a token that this process accepts: the client gets none of its tasks."""
        if not self._was_refused:
            self._was_refused = True
            hint = "all owners of shards need the same tokens"
            _log.error("stream_refused_by_shard", shard=self._shard, error=refusal.message, hint=hint)

    def _lose(self, reason: str) -> None:
        """Drops what waits to be sent if the part is down, else only the pulls, which the relay makes anew."""
        unsent = self._unsent_outcomes
        if self.is_down:
            self._requests.clear()
            self._unsent_outcomes = self.unsent_bytes = 0
        kept = [request for request in self._requests if request.message.HasField("work")]
        for request in kept:
            request.message.ClearField("pull")
        self._requests = deque(kept)
        self._relay.lost(self._shard, unsent, reason, keeps=not self.is_down)

    async def _pause(self, seconds: float) -> None:
        """Waits, but for no longer than until the part ends with nothing to send."""
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
                while self._requests:
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            return

    async def _exchange(self, link: PartLink) -> Rejection | None:
        """Receives responses until the link ends; returns why it did, or None if it ended in order."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                response = await link.read()
            if response is not None:
                self.is_down = False
                self._accepted.set()
                self._relay.opened(self._shard)
            while response is not None:
                self._relay.take(self._shard, response)
                response = await link.read()
        except Rejection as rejection:
            return rejection.again()
        except TimeoutError:
            return Rejection(Reason.SERVER_UNREACHABLE, f"no answer within {CONNECT_SECONDS:g} seconds")
        return None

    async def _write(self, link: PartLink) -> None:
        try:
            await link.write(self._hello())
            await self._accepted.wait()  # what is sent before may be lost
            while True:
                while self._requests:
                    request = self._requests.popleft()
                    self._unsent_outcomes -= request.outcomes
                    self.unsent_bytes -= request.size
                    self._relay.sent()
                    await link.write(request.message)
                if self._is_leaving:
                    leaving = pb.ShardLeaving(delivered=self.delivered)
                    await link.write(pb.WorkOnShardRequest(leaving=leaving))
                if self._is_ending:
                    await link.done_writing()
                    return
                self._wake.clear()
                await self._wake.wait()
        except LinkEndedError:
            return  # the reader learns why

    async def _stop(self, link: PartLink, writer: asyncio.Task[None]) -> None:
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        link.cancel()
