"""A stream of a producer: takes creates while a frame is being written, respects the server's window, and reconnects.

All of it runs on one event loop. A create is in one of three states. While it is pending, it is in no frame yet, and
safe to send on any stream. In a frame of `_unacked` it was sent; if the stream breaks, its outcome is unknown.
Otherwise it is answered. The streams send nothing twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from codeq import errors, payloads, streams
from codeq.async_transport import AsyncCall, AsyncChannel
from codeq.backoff import Backoff
from codeq.endpoint import Endpoint
from codeq.handshake import check_protocol, client_info
from codeq.producer_creates import Creates, closed
from codeq.producer_frames import Frame, Job
from codeq.rpc import Metadata
from codeq.v1 import error_pb2
from codeq.v1 import producer_service_pb2 as pb

_METHOD: Final = "/codeq.v1.ProducerService/Produce"

TRIES_MAX: Final = 16
"""Connections opened in a row to reach the process of a shard; the last one is kept wherever it leads."""

FRAME_TASKS_MAX: Final = 4096
"""Maximum number of tasks in a frame, unless the server accepts fewer."""

FRAME_BYTES_MAX: Final = 8 * 1024 * 1024
"""Maximum bytes of a frame, unless the server accepts fewer."""

_ITEM_BYTES_MAX: Final = payloads.VALUE_BYTES_MAX + 4096
"""Maximum bytes of an encoded task; every frame must have room for one."""


class ProducerStream:
    """A producer's connection to a server: the first one, or one to the process of a further shard."""

    def __init__(
        self,
        endpoint: Endpoint,
        client_name: str,
        creates: Creates,
        welcomed: Callable[[int, int], None],
        place: tuple[int, int] | None = None,
    ) -> None:
        """Creates a stream; it connects when it runs.

        Args:
            endpoint: The server.
            client_name: Name of the producer.
            creates: What is to be sent.
            welcomed: Is told of the shard and the number of shards in each welcome.
            place: Shard of the process to connect to, and number of shards; None: any, for the first stream.
        """
        self._endpoint = endpoint
        self._client_name = client_name
        self._creates = creates
        self._welcomed = welcomed
        self._place = place
        self._reconnects = streams.Reconnects("producer", endpoint.servers, Backoff())
        self._address = endpoint.address
        self._leader = ""
        self._loop = asyncio.get_running_loop()
        self._unacked: deque[Frame] = deque()
        self._unacked_bytes = 0
        self._wake = asyncio.Event()
        self._limits = pb.ProducerWelcome()
        self._is_welcomed = False
        self._is_leaving = False
        self._is_full = False
        self._is_writing = False

    @property
    def has_room(self) -> bool:
        """Whether the stream can take what is pending."""
        return not (self._is_leaving or self._is_full or self._is_writing)

    def wake(self) -> None:
        """Makes the stream take what is pending."""
        self._wake.set()

    def jobs(self) -> Iterator[Job]:
        """Yields the jobs that were sent over the stream and are not answered."""
        return (part.job for frame in self._unacked for part in frame.parts)

    async def run(self, *, keeps_open: Callable[[], bool]) -> None:
        """Sends creates until the producer is closed and nothing is pending, reconnecting as needed.

        Args:
            keeps_open: Whether to connect although nothing is pending.
        """
        creates, is_first = self._creates, self._place is None
        while True:
            while not creates and not (keeps_open() or creates.is_closing):
                await creates.changed()
            if creates.is_closing and not (creates and is_first):
                return
            started = self._loop.time()
            error = await self._attempt()
            if is_first:  # errors that last are told by the first stream
                creates.trouble = "" if self._is_welcomed else str(error)
                if streams.is_final(error) and not (self._is_welcomed and self._endpoint.token_is_renewable):
                    creates.fail(error)
            if creates.is_closing and not creates:
                return
            is_stable = self._is_welcomed and self._loop.time() - started >= streams.STABLE_SECONDS
            delay = self._reconnects.delay_after(error, self._address, leader=self._leader, is_stable=is_stable)
            self._reconnects.tell(error, self._address, delay, self._loop.time())
            await self._rest(delay)

    async def _rest(self, seconds: float) -> None:
        """Sleeps; returns early once the producer is closing with nothing pending."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while (self._creates and self._place is None) or not self._creates.is_closing:
                    await self._creates.changed()

    async def _attempt(self) -> errors.CodeqError:
        """Runs one stream to its end and returns why it ended."""
        self._is_welcomed = self._is_leaving = self._is_full = self._is_writing = False
        self._address, self._leader = self._endpoint.address, ""
        ended: errors.CodeqError = closed()
        try:
            await self._session()
            ended = (
                errors.Draining("the stream is ending") if self._is_leaving else errors.Unavailable("the stream ended")
            )
        except streams.CONNECTION_ERRORS as error:
            ended = streams.typed(error)
        finally:
            self._lose_unacked(ended)
        return ended

    async def _session(self) -> None:
        metadata = await streams.metadata_of(self._endpoint)
        for tried in range(1, TRIES_MAX + 1):
            async with self._endpoint.aio_channel(self._address) as channel:
                hello = pb.ProducerHello(client_name=self._client_name, client=client_info())
                request = pb.ProduceRequest(hello=hello).SerializeToString()
                call, answer = await streams.open_call(self._endpoint, channel, _METHOD, request, metadata)
                first = pb.ProduceResponse.FromString(answer)
                if not first.HasField("welcome") or first.welcome.frame_bytes_max < _ITEM_BYTES_MAX:
                    raise errors.BadHandshake("the server's first message is not a valid welcome")
                if self._is_kept(first.welcome) or tried == TRIES_MAX or self._creates.is_closing:
                    await self._serve(channel, call, first, metadata)
                    return

    def _is_kept(self, welcome: pb.ProducerWelcome) -> bool:
        """Returns whether no other process would be better."""
        return self._place is None or self._place[1] != welcome.shards or self._place[0] == welcome.shard

    async def _serve(
        self, channel: AsyncChannel, call: AsyncCall, first: pb.ProduceResponse, metadata: Metadata
    ) -> None:
        welcome = self._limits = first.welcome
        check_protocol(welcome.protocol, welcome.server_version)
        self._is_welcomed = True
        self._endpoint.servers.reached()
        self._reconnects.opened(self._address, self._loop.time())
        if self._place is None:
            self._creates.trouble = ""
        self._creates.enter(self)
        try:
            self._welcomed(welcome.shard, welcome.shards)
            with streams.TokenRenewal(self._endpoint, metadata, self._wake.set) as tokens:
                self._take(first, tokens)
                async with streams.learning(self._endpoint, channel, metadata):
                    await streams.run_both(self._read(call, tokens), self._write(call, tokens))
        finally:
            self._creates.leave(self)

    async def _read(self, call: AsyncCall, tokens: streams.TokenRenewal) -> None:
        while (response := await call.read()) is not None:
            self._take(pb.ProduceResponse.FromString(response), tokens)

    def _take(self, response: pb.ProduceResponse, tokens: streams.TokenRenewal) -> None:
        for ack in response.acks:
            if not self._unacked:
                raise errors.ServerFault("ack without a frame")
            frame = self._unacked[0]
            frame.resolve(ack)
            self._unacked.popleft()
            self._unacked_bytes -= len(frame.data)
        if response.acks and self._is_full:  # otherwise it is the turn of others
            self._is_full = False
            self._wake.set()
        if response.HasField("notice"):
            notice = response.notice
            if notice.reason == error_pb2.ERROR_REASON_UNAUTHENTICATED:
                tokens.start(notice.grace_ms / 1000)
            else:
                self._is_leaving = True
                self._leader = notice.leader
                self._wake.set()

    async def _write(self, call: AsyncCall, tokens: streams.TokenRenewal) -> None:
        while not call.done():
            self._is_leaving |= tokens.is_late
            if tokens.fresh:
                await call.write(pb.ProduceRequest(token=tokens.take()).SerializeToString())
            elif (frame := self._cut()) is not None:
                self._unacked.append(frame)
                self._unacked_bytes += len(frame.data)
                self._is_writing = True
                if self._creates:  # the rest is for the next stream
                    self._creates.announce()
                await call.write(frame.data)
                self._is_writing = False
            elif self._is_leaving or (self._creates.is_closing and not self._creates):
                # The server answers the frames it has read, then ends the call.
                if self._creates:
                    self._creates.announce()
                await call.done_writing()
                return
            else:
                if self._creates and not self._is_full:  # others may have room
                    self._is_full = True
                    self._creates.announce()
                self._wake.clear()
                await self._wake.wait()

    def _cut(self) -> Frame | None:
        limits = self._limits
        if self._is_leaving or len(self._unacked) >= limits.unacked_frames_max:
            return None
        bytes_max = min(FRAME_BYTES_MAX, limits.frame_bytes_max, limits.unacked_bytes_max - self._unacked_bytes)
        return self._creates.cut(min(FRAME_TASKS_MAX, limits.frame_tasks_max), bytes_max)

    def _lose_unacked(self, error: errors.CodeqError) -> None:
        while self._unacked:
            self._unacked.popleft().fail(lambda: errors.OutcomeUnknown(f"sent, but the stream broke: {error}"))
        self._unacked_bytes = 0
