"""The producer's stream: collects creates while a frame is being written, respects the server's window, and reconnects.

All of it runs on one event loop. A create is in one of three states. In `_pending` it is in no frame yet, and safe to
send on any stream. In a frame of `_unacked` it was sent; if the stream breaks, its outcome is unknown. Otherwise it is
answered. The stream sends nothing twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from codeq import errors, payloads, streams
from codeq.async_transport import AsyncCall
from codeq.backoff import Backoff
from codeq.endpoint import Endpoint
from codeq.handshake import check_protocol, client_info
from codeq.producer_frames import Frame, Job, Pending
from codeq.v1 import error_pb2
from codeq.v1 import producer_service_pb2 as pb

_METHOD: Final = "/codeq.v1.ProducerService/Produce"

_SWEEP_SECONDS_MIN: Final = 0.01
"""Minimum interval between scans for jobs past their deadline."""

CLOSE_SECONDS_MAX: Final = 5.0
"""Maximum time that `close` waits for the server once every call in flight has ended."""

_ITEM_BYTES_MAX: Final = payloads.VALUE_BYTES_MAX + 4096
"""Maximum bytes of an encoded task; every frame must have room for one."""


class ProducerStream:
    """One producer's connection to the server, opened when there is something to send. Bound to one event loop."""

    def __init__(self, endpoint: Endpoint, client_name: str, backoff: Backoff) -> None:
        self._endpoint = endpoint
        self._client_name = client_name
        self._reconnects = streams.Reconnects("producer", endpoint.servers, backoff)
        self._address = endpoint.address
        self._leader = ""
        self._loop = self.loop = asyncio.get_running_loop()
        self._pending = Pending()
        self._unacked: deque[Frame] = deque()
        self._unacked_bytes = 0
        self._sweep: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._limits = pb.ProducerWelcome()
        self._is_welcomed = False
        self._trouble = ""
        """Why the last attempt to open a stream failed; empty: it succeeded."""
        self._is_leaving = False
        self._is_closing = False
        self._task = asyncio.create_task(self._run(), name="codeq-producer")

    def submit(self, job: Job) -> None:
        """Queues a job with at least one item; it ends by its deadline."""
        if self._is_closing:
            job.fail(_closed, _closed)
            return
        self._pending.add(job)
        if self._sweep is None:
            self._sweep = self._loop.call_at(job.deadline, self._expire)
        elif job.deadline < self._sweep.when():
            self._sweep.cancel()
            self._sweep = self._loop.call_at(job.deadline, self._expire)
        self._wake.set()

    def refuse(self) -> None:
        """Stops accepting jobs; later jobs fail with Closed."""
        self._is_closing = True
        self._wake.set()

    async def close(self) -> None:
        """Stops accepting jobs, waits for the accepted jobs (bounded by their deadlines), and ends the stream."""
        self.refuse()
        unacked = (part.job for frame in self._unacked for part in frame.parts)
        last = max((job.deadline for job in (*self._pending, *unacked) if not job.done), default=self._loop.time())
        try:
            await asyncio.wait((self._task,), timeout=max(0.0, last - self._loop.time()) + CLOSE_SECONDS_MAX)
        finally:
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while await self._has_work():
                started = self._loop.time()
                error = await self._attempt()
                self._trouble = "" if self._is_welcomed else str(error)
                self._lose_unacked(error)
                if self._is_closing and not self._pending:
                    return
                if streams.is_final(error) and not (self._is_welcomed and self._endpoint.token_is_renewable):
                    self._fail_pending(error)
                is_stable = self._is_welcomed and self._loop.time() - started >= streams.STABLE_SECONDS
                delay = self._reconnects.delay_after(error, self._address, leader=self._leader, is_stable=is_stable)
                self._reconnects.tell(error, self._address, delay, self._loop.time())
                await self._rest(delay)
        finally:
            self._is_closing = True
            self._lose_unacked(_closed())
            self._fail_pending(_closed())
            if self._sweep is not None:
                self._sweep.cancel()

    async def _has_work(self) -> bool:
        while not self._pending:
            if self._is_closing:
                return False
            self._wake.clear()
            await self._wake.wait()
        return True

    async def _rest(self, seconds: float) -> None:
        """Sleeps; returns early once the producer is closing with nothing pending."""
        try:
            async with asyncio.timeout(seconds):
                while self._pending or not self._is_closing:
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            pass

    async def _attempt(self) -> errors.CodeqError:
        """Runs one stream to its end and returns why it ended."""
        self._is_welcomed = self._is_leaving = False
        self._address, self._leader = self._endpoint.address, ""
        try:
            await self._session()
        except streams.CONNECTION_ERRORS as error:
            return streams.typed(error)
        return errors.Draining("the stream is ending") if self._is_leaving else errors.Unavailable("the stream ended")

    async def _session(self) -> None:
        metadata = await streams.metadata_of(self._endpoint)
        servers = self._endpoint.servers
        async with self._endpoint.aio_channel(self._address) as channel:
            hello = pb.ProducerHello(client_name=self._client_name, client=client_info())
            request = pb.ProduceRequest(hello=hello).SerializeToString()
            call, answer = await streams.open_call(self._endpoint, channel, _METHOD, request, metadata)
            first = pb.ProduceResponse.FromString(answer)
            if not first.HasField("welcome") or first.welcome.frame_bytes_max < _ITEM_BYTES_MAX:
                raise errors.BadHandshake("the server's first message is not a valid welcome")
            self._limits = first.welcome
            check_protocol(first.welcome.protocol, first.welcome.server_version)
            self._is_welcomed, self._trouble = True, ""
            servers.reached()
            self._reconnects.opened(self._address, self._loop.time())
            with streams.TokenRenewal(self._endpoint, metadata, self._wake.set) as tokens:
                self._take(first, tokens)
                async with streams.learning(self._endpoint, channel, metadata):
                    await streams.run_both(self._read(call, tokens), self._write(call, tokens))

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
                await call.write(frame.data)
            elif self._is_leaving or (self._is_closing and not self._pending):
                # The server answers the frames it has read, then ends the call.
                await call.done_writing()
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    def _cut(self) -> Frame | None:
        limits = self._limits
        if self._is_leaving or len(self._unacked) >= limits.unacked_frames_max:
            return None
        bytes_max = min(limits.frame_bytes_max, limits.unacked_bytes_max - self._unacked_bytes)
        return self._pending.cut(limits.frame_tasks_max, bytes_max)

    def _lose_unacked(self, error: errors.CodeqError) -> None:
        while self._unacked:
            self._unacked.popleft().fail(lambda: errors.OutcomeUnknown(f"sent, but the stream broke: {error}"))
        self._unacked_bytes = 0

    def _fail_pending(self, error: errors.CodeqError) -> None:
        for job in self._pending:
            job.fail(error.again, _unanswered)

    def _expire(self) -> None:
        """Ends the jobs whose deadline has passed, and sets the timer to the next deadline."""
        now = self._loop.time()
        following: float | None = None
        unacked = (part.job for frame in self._unacked for part in frame.parts)
        for job in (*self._pending, *unacked):
            if job.done:
                continue
            if job.deadline <= now:
                job.fail(self._unsent, _unanswered)
            elif following is None or job.deadline < following:
                following = job.deadline
        when = None if following is None else max(following, now + _SWEEP_SECONDS_MIN)
        self._sweep = None if when is None else self._loop.call_at(when, self._expire)

    def _unsent(self) -> errors.CodeqError:
        why = f": {self._trouble}" if self._trouble else ""
        return errors.DeadlineExceeded(f"not sent within the timeout{why}")


def _closed() -> errors.CodeqError:
    return errors.Closed("the producer is closed")


def _unanswered() -> errors.CodeqError:
    return errors.OutcomeUnknown("sent, but not answered within the timeout")
