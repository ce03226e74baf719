"""The worker's stream: receives deliveries within its credits, renews their leases, sends outcomes, reconnects.

All of it runs on the event loop of the SDK's own thread, where no user code runs, so a blocking handler cannot cost a
lease. A delivery is *running* from its arrival to `finish` (it occupies one of the stream's places), and *held* while
its lease needs renewal. An outcome is kept until the server has settled it. If the stream breaks, the outcome is sent
again on the next stream; its lease token makes that idempotent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from codeq import errors, received_errors, streams
from codeq.async_transport import AsyncCall
from codeq.backoff import Backoff
from codeq.endpoint import Endpoint
from codeq.logs import log
from codeq.outcomes import Abandon, Nack
from codeq.ownership import Owner
from codeq.records import CancelReason, Task
from codeq.v1 import error_pb2, task_pb2
from codeq.v1 import worker_service_pb2 as pb
from codeq.worker_leases import Leases
from codeq.worker_opening import Opening
from codeq.worker_options import Executor, WorkerOptions
from codeq.worker_places import Part, Places
from codeq.worker_reports import Report, report
from codeq.worker_stats import WorkerStats

PROGRESS_ITEMS_MAX: Final = 16
"""Maximum number of progress values per message; together they have at most 1 MiB."""

MESSAGE_ITEMS_MAX: Final = 4096
"""Maximum number of outcomes, and of heartbeats, per message."""

MESSAGE_BYTES_MAX: Final = 2 * 1024 * 1024
"""Maximum bytes of outcomes per message, unless the first outcome is larger: with artifacts, it can be slightly over 7
MiB."""

UNSETTLED_MAX: Final = 4096
"""Maximum number of outcomes not yet settled by the server; at this limit the worker requests no new tasks."""

LEAVE_SECONDS_MAX: Final = 5.0
"""Maximum wait for the server to settle outcomes when the server or the worker is shutting down."""

_REPLACED: Final = (errors.InvalidRequest, errors.LimitReached, errors.StorageFull)
"""Rejections after which a Nack replaces the outcome, so that the task is retried."""

_UNDECIDED: Final = (errors.OutcomeUnknown, errors.Unavailable)
"""Answers of a server that no longer leads the task's queue."""


@dataclass(frozen=True, slots=True)
class _Progress:
    """Progress that a handler reported for a running task, as JSON."""

    task: Task
    data: bytes


class _Left(Exception):  # noqa: N818 - not a failure
    """The worker has left the stream, without a reason to wait before it opens another one."""


class WorkerStream:
    """A worker's connection to a server, for the tasks of one shard or of all. All of it belongs to one event loop.

    Attributes:
        part: Its places.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        options: WorkerOptions,
        executor: Executor,
        stats: WorkerStats,
        opening: Opening,
        places: Places,
        welcomed: Callable[[int], None],
    ) -> None:
        """Creates a stream without places; it connects when it runs.

        Args:
            endpoint: The server.
            options: Options of the worker.
            executor: Runs the tasks.
            stats: Counters of the worker.
            opening: Opens the stream.
            places: The places of all streams of the worker.
            welcomed: Is told of the number of shards in each welcome, and may retire the stream.
        """
        self._endpoint = endpoint
        self._owner = Owner("Task")
        self._options = options
        self._executor = executor
        self._stats = stats
        self._reconnects = streams.Reconnects("worker", endpoint.servers, Backoff())
        self._loop = asyncio.get_running_loop()
        self._inbox: streams.Inbox[Report | _Progress] = streams.Inbox(self._loop, self._take_told)
        self._wake = asyncio.Event()
        # Tasks.
        self.part = Part(self._wake.set)
        self._places = places
        places.add(self.part)
        self._running_bytes = 0
        self._leases = Leases(float(options.lease_seconds), stats, self._wake.set)
        # Outcomes: first the outcomes to send, then the outcomes sent on the stream, in order of their numbers.
        self._unsent: deque[Report] = deque()
        self._unsettled: deque[Report] = deque()
        self._undecided: list[Report] = []  # outcomes of which the server could not tell whether they took effect
        # State of the stream.
        self._cut_off: asyncio.TimerHandle | None = None  # runs while there is no stream
        self._progress: dict[str, _Progress] = {}
        self._bytes_owed = 0
        self._first_unsettled = 1
        self._was_open = False
        self._is_welcomed = False
        self._is_leaving = False
        self._is_half_closed = False
        self._is_moving = False  # to the process of its shard
        self._address = endpoint.address
        self._leader = ""
        self._opening = opening
        self._welcomed = welcomed
        # Stop.
        self._stop_at: float | None = None
        self._drain: asyncio.TimerHandle | None = None
        self._is_drain_told = False
        self._is_ended = False
        self._limit: asyncio.Timeout | None = None

    def finish(self, done: Report) -> None:
        """Reports the end of a task. Thread-safe."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is exiting
            self._inbox.put(done)

    def stop(self, at: float) -> None:
        """Stops taking tasks, and ends `run` once the running tasks have ended, at the latest at a time of the loop."""
        self._inbox.drain()  # tasks that were given back
        self._stop_at = at
        if self._drain is not None:
            self._drain.cancel()
        self._drain = self._loop.call_at(at, self._wake.set)
        if self._limit is not None:
            self._limit.reschedule(at + LEAVE_SECONDS_MAX)
        self._wake.set()

    async def run(self) -> None:
        """Works until stopped or retired, reconnecting as needed.

        Raises:
            Unauthenticated, PermissionDenied, InvalidField, Unsupported: Reconnecting cannot help.
        """
        try:
            while not self._is_over():
                started = self._loop.time()
                error = await self._attempt()
                self._unsent.extendleft(reversed((*self._undecided, *self._unsettled)))
                self._undecided.clear()
                self._unsettled.clear()
                self._places.closed(self.part)
                if self._is_over():
                    return
                if error is None:
                    continue
                may_renew = self._is_welcomed or streams.is_of_expired_token(error)
                if streams.is_final(error) and not (may_renew and self._endpoint.token_is_renewable):
                    raise error
                is_stable = self._is_welcomed and self._loop.time() - started >= streams.STABLE_SECONDS
                delay = self._reconnects.delay_after(error, self._address, leader=self._leader, is_stable=is_stable)
                if self._stop_at is not None:
                    delay = min(delay, max(0.0, self._stop_at + LEAVE_SECONDS_MAX - self._loop.time()))
                self._reconnects.tell(error, self._opening.address, delay, self._loop.time())
                await self._rest(delay)
        finally:
            self._leases.stop_renewing()
            self._reach()
            if self._drain is not None:
                self._drain.cancel()
            for task in list(self._leases.held.values()):
                self._lose(task, CancelReason.SHUTDOWN)
            if self._unsent:
                log.warning("the worker ends with %d outcomes that the server may not have received", len(self._unsent))

    def _is_over(self) -> bool:
        """Returns whether the stream is stopped or retired and has nothing left to report, or its time is up."""
        reports = self._unsent or self._unsettled or self._undecided
        if self._stop_at is None:
            return self.part.is_retiring and self.part.credits <= 0 and not self.part.running and not reports
        late = self._loop.time() - self._stop_at
        owes_nothing = not self._unsent and not self._undecided and (not self.part.running or late >= 0)
        return self._is_ended or owes_nothing or late >= LEAVE_SECONDS_MAX

    async def _rest(self, seconds: float) -> None:
        """Sleeps; returns early once the worker is over."""
        try:
            async with asyncio.timeout(seconds):
                while not self._is_over():
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            pass

    async def _attempt(self) -> errors.CodeqError | None:
        """Runs one stream to its end and returns why it ended; None: the worker has left it."""
        self._is_welcomed = self._is_leaving = self._is_drain_told = self._is_half_closed = self._is_moving = False
        self._address, self._leader = self._endpoint.address, ""
        try:
            end = None if self._stop_at is None else self._stop_at + LEAVE_SECONDS_MAX
            async with asyncio.timeout_at(end) as limit:
                self._limit = limit
                await self._session()
        except _Left:
            return None
        except streams.CONNECTION_ERRORS as error:
            return streams.typed(error)
        finally:
            self._limit = None
            self._leases.stop_renewing()
            if self._cut_off is None:
                self._cut_off = self._loop.call_later(self._leases.seconds, self._lose_all)
        return errors.Draining("the stream is ending") if self._is_leaving else errors.Unavailable("the stream ended")

    async def _session(self) -> None:
        metadata = await streams.metadata_of(self._endpoint)
        channel, call, first = await self._opening.open(metadata)
        async with channel:
            welcome = first.welcome
            self._is_welcomed = True
            self._endpoint.servers.reached()
            self._reconnects.opened(self._opening.address, self._loop.time())
            self._welcomed(welcome.shards)
            if self._is_over():
                raise _Left
            if self._was_open or self._opening.is_first:
                self._stats.streams += 1
            self._was_open = True
            self._first_unsettled = 1
            self._reach()
            self._leases.seconds = float(welcome.lease_seconds)
            self.part.credits_max = welcome.credits_max
            self._bytes_owed = max(0, self._options.window_bytes - self._running_bytes)
            self._leases.renew_all()
            with streams.TokenRenewal(self._endpoint, metadata, self._wake.set) as tokens, self._looking():
                self._take(first, tokens)
                async with streams.learning(self._endpoint, channel, metadata):
                    await streams.run_both(self._read(call, tokens), self._write(call, tokens))

    @contextlib.contextmanager
    def _looking(self) -> Iterator[None]:
        """Looks for the process of the shard again after a pause, if another one serves the stream."""
        if not self._opening.look_seconds:
            yield
            return
        timer = self._loop.call_later(self._opening.look_seconds, self._move)
        try:
            yield
        finally:
            timer.cancel()

    def _move(self) -> None:
        self._is_moving = True
        self._wake.set()

    async def _read(self, call: AsyncCall, tokens: streams.TokenRenewal) -> None:
        while (response := await call.read()) is not None:
            self._take(pb.WorkResponse.FromString(response), tokens)
        self._is_ended = self._stop_at is not None and not (self._unsent or self._unsettled or self._undecided)

    async def _write(self, call: AsyncCall, tokens: streams.TokenRenewal) -> None:
        while not call.done():
            self._is_leaving |= tokens.is_late
            if (message := self._next_message(tokens.take())) is not None:
                await call.write(message)
            elif self._may_half_close():
                # The server settles what it has read, takes back unfinished deliveries, and ends the call.
                self._is_half_closed = True
                await call.done_writing()
                await asyncio.sleep(LEAVE_SECONDS_MAX)
                raise errors.Unavailable("the server did not end the stream")
            elif self._is_leaving and not self._unsettled:
                # Tasks are still running. A half-close would give them back, but a broken stream keeps their leases.
                raise errors.Draining("the stream is ending")
            elif self._may_leave():
                raise _Left
            else:
                self._wake.clear()
                await self._wake.wait()

    def _may_half_close(self) -> bool:
        """Returns whether nothing more will be sent on this stream."""
        if self.part.running == 0 and (self._is_leaving or self._stop_at is not None):
            return True
        return self._stop_at is not None and self._loop.time() >= self._stop_at

    def _may_leave(self) -> bool:
        """Returns whether the stream can be left without a loss: no task is on its way, and no outcome is unsettled."""
        if self._is_moving and self._stop_at is None:
            return self.part.credits <= 0 and not self._unsettled
        return self.part.is_retiring and self._is_over()

    def _next_message(self, token: str) -> bytes | None:
        """Returns the next message, with everything waiting up to the message limits; None if nothing is waiting.

        Args:
            token: Fresh token to send along; empty: none.
        """
        chunks: list[bytes] = []
        size = 0
        told = list(self._progress.values())[:PROGRESS_ITEMS_MAX] if self._progress else ()
        for each in told:
            del self._progress[each.task.id]
        while self._unsent and len(chunks) < MESSAGE_ITEMS_MAX and size < MESSAGE_BYTES_MAX:
            done = self._unsent[0]
            # The server handles a message's progress before its outcomes; progress still waiting must go out first.
            if (size + len(done.data or b"") > MESSAGE_BYTES_MAX and chunks) or done.task.id in self._progress:
                break
            self._unsent.popleft()
            self._unsettled.append(done)
            if done.data is not None:
                chunks.append(done.data)
                size += len(done.data)
        is_stopping = self._stop_at is not None
        request = pb.WorkRequest(drain=is_stopping and not self._is_drain_told, token=token)
        self._is_drain_told = is_stopping
        due = self._leases.due
        for task in list(due.values())[:MESSAGE_ITEMS_MAX]:
            del due[task.id]
            request.heartbeats.add(task_id=task.id, lease_token=task.lease_token or 0)
        for each in told:
            request.progress.add(task_id=each.task.id, lease_token=each.task.lease_token or 0, progress=each.data)
        is_withdrawing = self._is_moving or self.part.is_retiring
        self.part.is_taking = not (is_stopping or self._is_leaving or is_withdrawing)
        if self.part.is_taking and len(self._unsettled) < UNSETTLED_MAX:
            request.add_credits = self._places.granted(self.part)
            request.add_credit_bytes, self._bytes_owed = self._bytes_owed, 0
        if not is_stopping and not self._is_leaving:
            request.return_credits = self.part.ask_back(all_credits=is_withdrawing)
        chunks.append(request.SerializeToString())
        return b"".join(chunks) or None

    def _take(self, response: pb.WorkResponse, tokens: streams.TokenRenewal) -> None:
        if response.tasks:
            self.part.credits -= len(response.tasks)
            self._receive(response.tasks)
            self._places.balance()
        if response.HasField("returned_credits"):
            self._places.returned(self.part, response.returned_credits)
        if response.settled:
            self._settle(response.settled, response.outcome_errors)
        for reason, leases in ((CancelReason.LEASE_LOST, response.lost), (CancelReason.CANCELLED, response.cancelled)):
            for lost in leases:
                if (task := self._leases.of(lost.task_id, lost.lease_token)) is not None:
                    is_ended = lost.reason == error_pb2.ERROR_REASON_TASK_ENDED
                    self._lose(task, CancelReason.CANCELLED if is_ended else reason)
        if response.HasField("notice"):
            notice = response.notice
            if notice.reason == error_pb2.ERROR_REASON_UNAUTHENTICATED:
                tokens.start(notice.grace_ms / 1000)
            else:
                self._is_leaving = True
                self._leader = notice.leader
        self._wake.set()

    def _receive(self, messages: Iterable[task_pb2.Task]) -> None:
        if self._is_half_closed:
            return  # these deliveries crossed the half-close: the server takes them back
        tasks = [Task(message, message.ByteSize()) for message in messages]
        if self._stop_at is not None:  # these deliveries crossed the drain in flight
            self._unsent.extend(report(task, Abandon()) for task in tasks)
            return
        for task in tasks:
            task.reporter = self._report_progress
            if (older := self._leases.held.get(task.id)) is not None:
                self._lose(older, CancelReason.LEASE_LOST)
            self._leases.hold(task)
            self._running_bytes += task.window_bytes
        self.part.running += len(tasks)
        self._stats.received += len(tasks)
        self._executor.start(tasks, self.finish)

    def _report_progress(self, task: Task, data: bytes) -> None:
        self._owner.check()
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is exiting
            self._inbox.put(_Progress(task, data))

    def _take_told(self, told: Report | _Progress) -> None:
        if isinstance(told, Report):
            self._take_report(told)
        elif self._leases.held.get(told.task.id) is told.task:
            self._progress[told.task.id] = told
            self._wake.set()

    def _take_report(self, done: Report) -> None:
        task = done.task
        self.part.running -= 1
        self._running_bytes -= task.window_bytes
        self._bytes_owed += task.window_bytes
        self._leases.release(task)
        if done.data is not None:
            if task.is_lost:  # too late: the server would reject it
                self._stats.refused += 1
                log.warning(
                    "outcome of task %s (lease token %s) dropped: %s", task.id, task.lease_token, task.cancel_reason
                )
            else:
                self._unsent.append(done)
        self._places.freed(self.part)
        self._executor.ended(task)
        self._wake.set()

    def _settle(self, count: int, refused: Sequence[pb.OutcomeError]) -> None:
        if count > len(self._unsettled):
            raise errors.ServerFault(f"{count} outcomes settled, but {len(self._unsettled)} were sent")
        first = self._first_unsettled
        refusals = {error.number - first: error for error in refused}
        for index in range(count):
            done = self._unsettled.popleft()
            if (error := refusals.get(index)) is None:
                self._stats.settled += 1
            elif isinstance(received_errors.from_reason(error.reason, ""), _UNDECIDED):
                # Sent again on the next stream; the lease token makes this harmless if the outcome took effect before.
                self._undecided.append(done)
                self._is_leaving = True
            else:
                self._refuse(done, error)
        self._first_unsettled += count

    def _refuse(self, done: Report, error: pb.OutcomeError) -> None:
        self._stats.refused += 1
        task, reason = done.task, received_errors.from_reason(error.reason, error.message)
        log.warning("outcome of task %s (lease token %s) rejected: %s", task.id, task.lease_token, reason)
        if isinstance(reason, errors.LeaseLost):
            task.mark_lost()
        elif isinstance(reason, _REPLACED) and not done.is_replacement:
            # Without an outcome the task would be redelivered when its lease expires, with no trace of the reason.
            self._unsent.append(replace(report(task, Nack(f"outcome rejected: {reason}")), is_replacement=True))

    def _lose(self, task: Task, reason: CancelReason) -> None:
        """Gives up the lease of a running task and stops its handler."""
        self._leases.release(task)
        self._progress.pop(task.id, None)
        self._stats.lost += 1
        log.warning("lease of task %s (token %s) is lost", task.id, task.lease_token)
        task.mark_lost(reason)
        self._executor.cancel(task, reason)

    def _lose_all(self) -> None:
        """Gives up every lease: no server was reachable for as long as a lease lasts, so others may have the tasks."""
        if self._leases.held:
            log.warning("no server was reachable for %g s, the length of a lease", self._leases.seconds)
        for task in list(self._leases.held.values()):
            self._lose(task, CancelReason.LEASE_LOST)

    def _reach(self) -> None:
        """Notes that there is a stream again, or that none is needed any more."""
        if self._cut_off is not None:
            self._cut_off.cancel()
            self._cut_off = None
