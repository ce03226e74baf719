"""The runner of one shard: every decision on the shard goes through it, on one event loop.

Life of a decision: a caller changes the shard through functions of the core, calls `changed`, and answers nothing
before `durable` is done. As many batches are in flight as the log allows. In the meantime the next batch fills, so
group commits form by themselves, without a timer. A batch that fails, or a decision that breaks off halfway, poisons
the runner: every caller gets OUTCOME_UNKNOWN and the process ends.

A runner lives as long as its leadership. When the leadership is over, `end` is called: callers waiting for anything
that may not be durable get OUTCOME_UNKNOWN, all others are rejected, and the runner decides nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from mypy_extensions import mypyc_attr

from codeq_server.core.clock import Now
from codeq_server.core.durations import Durations
from codeq_server.core.effects import Effects
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.model import Queue
from codeq_server.core.notable import Notables
from codeq_server.core.quotas import lease_room
from codeq_server.core.schedules import Schedule
from codeq_server.core.shard import Shard
from codeq_server.core.subscriptions import Readiness
from codeq_server.core.traces import TracedTask
from codeq_server.replication.log import Log

from .admission import CALL_COST, QUEUES_PER_COST, Admission
from .due_work import DueWork
from .ends import TaskEnds, refuse_all
from .waiting import Waiter, WaitingRoom

BATCH_ROWS_MAX = 16_000
"""Row changes a batch may hold before callers wait for the next: writing them blocks the loop for about 20 ms."""
BATCH_BYTES_MAX = 16 << 20
"""Payloads, results and progress (bytes) a batch may hold before callers wait; writing them takes about as long."""

Clock = Callable[[], tuple[int, int]]


def system_clock() -> tuple[int, int]:
    """Returns Unix milliseconds and monotonic milliseconds."""
    return time.time_ns() // 1_000_000, time.monotonic_ns() // 1_000_000


class _Flight:
    """A batch in flight: its number, when it was sent, and its waiters."""

    __slots__ = ("lsn", "started", "waiters")

    def __init__(self, lsn: int, waiters: list[asyncio.Future[None]]) -> None:
        self.lsn = lsn
        self.waiters = waiters
        self.started = time.perf_counter()


@mypyc_attr(allow_interpreted_subclasses=True)  # tests extend it
class ShardRunner:
    """Owns a shard and its log."""

    def __init__(
        self,
        shard: Shard,
        log: Log,
        clock: Clock,
        random: Callable[[], float],
        on_fatal: Callable[[BaseException], None],
        *,
        keeps_time: bool = True,
    ) -> None:
        self.shard = shard
        self.waiting = WaitingRoom()
        self.commits = Durations()
        """Microseconds from the sealing of each batch until it was durable."""
        self.random = random
        self.on_files_gone: Callable[[list[tuple[bytes, bytes]]], None] | None = None
        """Called with home and name of artifact files once it is durable that no row refers to them any more."""
        self.on_calls: Callable[[], None] | None = None
        """Called after decisions that leave callbacks to deliver."""
        self.on_notable: Callable[[Notables], None] | None = None
        """Called with the notable events of a batch that is durable."""
        self.on_traced: Callable[[list[TracedTask]], None] | None = None
        """Called with the traced tasks that ended in a batch that is durable; must not raise."""
        self.on_unscheduled: Callable[[list[Schedule]], None] | None = None
        """Called with schedules whose further instants have to be computed."""
        self.on_readiness: Callable[[list[Readiness]], None] | None = None
        """Called with the subscribed queues that a batch changed, once it is durable."""
        self._log = log
        self._clock = clock
        self._on_fatal = on_fatal
        self.loop = asyncio.get_running_loop()
        self._next: list[asyncio.Future[None]] = []
        """Waiters of the batch being filled."""
        self._flights: deque[_Flight] = deque()
        self._confirming: dict[asyncio.Future[None], list[tuple[asyncio.Future[None], int]]] = {}
        """Waiters of each confirmation in progress, each with the last batch then in flight; 0: no batch was in
        flight."""
        self.admission = Admission(self.loop, self._full)
        self._busy = False
        """Whether the batch being filled will be committed: its commit is scheduled, or waiting for another batch."""
        self._waking: dict[Queue, int] = {}
        """Queues whose waiters are being woken one by one, each with the turn of the last waiter to wake."""
        self._feeding: dict[str, int] = {}
        """Tenants that may lease tasks again and whose waiters are being woken one by one, each with the turn of the
        last waiter to wake."""
        self.ends = TaskEnds(shard.watched)
        self._due = DueWork(shard, self.admission, self._time, self.changed, self._poison)
        if not keeps_time:
            self._due.stop()  # a shard that is only read leaves due work alone
        self.refusal: Rejection | None = None
        """Rejection with which the runner has ended; None: the runner has not ended."""
        self._refuse: Callable[[], Rejection] | None = None
        """Set once the runner has stopped deciding; returns the rejection for every caller."""
        self._closed = False

    # -- deciding --------------------------------------------------------------------------------------------------

    def now(self) -> Now:
        """Returns the time for a decision.

        Raises:
            Rejection: OUTCOME_UNKNOWN after a failed commit, DRAINING after `close`, the rejection given to `end`
                after `end`.
        """
        if self._refuse is not None:
            raise self._refuse()
        if self._closed:
            raise Rejection(Reason.DRAINING, "the server is stopping")
        return self._time()

    def unix_seconds(self) -> float:
        """Returns the Unix time in seconds by the clock as it is, even if it has been set back."""
        return self._clock()[0] / 1000

    def mono_ms(self) -> int:
        """Returns the monotonic time in milliseconds."""
        return self._clock()[1]

    @property
    def durable_lsn(self) -> int:
        """Number of the last batch that is durable."""
        return (self._flights[0].lsn if self._flights else self.shard.batch.lsn) - 1

    def _time(self) -> Now:
        return self.shard.at(*self._clock())

    def changed(self) -> None:
        """Schedules the commit, wake-ups and the timer after a decision."""
        if self._refuse is not None:
            return
        if not self._busy and self.shard.batch:
            self._busy = True
            # One turn later, because callers answered together take more than one turn to decide together again.
            self.loop.call_soon(self.loop.call_soon, self._start_commit)
        if self.shard.starved:
            self.shard.count()
        effects = self.shard.take_effects()
        if effects is not None:
            self._carry_out(effects)
        self._due.arm()

    def _carry_out(self, effects: Effects) -> None:
        """Notifies everyone affected by decisions, except the callers that made them."""
        for task_id in effects.ended:
            self.ends.tell(task_id)
        for holder, task_id, token in effects.cancelled:
            holder.cancelled(task_id, token)
        if effects.gone_files:
            self._let_files_go(effects.gone_files)
        if effects.unscheduled and self.on_unscheduled is not None:
            self.on_unscheduled(effects.unscheduled)
        if effects.woken:
            self._dispatch(effects.woken)
        if effects.calls and self.on_calls is not None:
            self.on_calls()
        for tenant in effects.fed:
            if tenant not in self._feeding:
                self.admission.push(tenant, partial(self._feed, tenant))
            self._feeding[tenant] = self.waiting.turn

    def durable(self) -> asyncio.Future[None] | None:
        """Returns a future that resolves when all decisions so far are durable and confirmed; None: they already are.

        Confirmed means that nobody else had decided anything. A batch not yet sent proves that once it is durable. A
        batch in flight may still become durable although another leader is already deciding. Anything read while it is
        in flight, or while no batch is, must therefore be confirmed.

        Raises:
            Rejection: OUTCOME_UNKNOWN after a failed commit, the rejection given to `end` after `end`.
        """
        if self._refuse is not None:
            raise self._refuse()
        if not self.shard.batch:
            confirmation = self._log.confirm()
            if confirmation is not None:
                return self._confirmed(confirmation)
        return self._written()

    def _written(self) -> asyncio.Future[None] | None:
        """Returns a future that resolves when everything decided so far is durable; None: it already is."""
        if self.shard.batch:
            waiters = self._next
            if not self._busy:
                self.changed()
        elif self._flights:
            waiters = self._flights[-1].waiters
        else:
            return None
        future = self.loop.create_future()
        waiters.append(future)
        return future

    async def wait_durable(self) -> None:
        """Waits for the future of `durable`.

        Raises:
            Rejection: OUTCOME_UNKNOWN after a failed commit, the rejection given to `end` after `end`.
        """
        future = self.durable()
        if future is not None:
            await future

    def refused(self, refusal: Rejection, *, decided: bool) -> Rejection:
        """Returns the rejection for a caller that was rejected while it decided in several steps.

        Args:
            refusal: The rejection that the caller met.
            decided: Whether the caller had already decided something.
        """
        ended = self.refusal.reason if self.refusal is not None else Reason.DRAINING if self._closed else None
        return _unknown() if decided and refusal.reason is ended else refusal

    def fail(self, problem: BaseException) -> Rejection:
        """Poisons the runner because a decision broke off halfway; returns the rejection for the caller."""
        self._poison(problem)
        return _unknown()

    async def room(self, tenant: str, cost: int = CALL_COST) -> None:
        """Waits until it is the tenant's turn to decide and the batch has room.

        Args:
            tenant: The tenant.
            cost: Cost of the decision, in tasks; see `admission.CALL_COST`.

        Raises:
            Rejection: OUTCOME_UNKNOWN after a failed commit, the rejection given to `end` after `end`.
        """
        if self._refuse is not None:
            raise self._refuse()
        await self.admission.enter(tenant, cost)

    @property
    def is_full(self) -> bool:
        """Whether the batch being filled has no room; callers that decide in slices then wait for `room`."""
        return self._full()

    def _full(self) -> bool:
        batch = self.shard.batch
        return len(batch.rows) > BATCH_ROWS_MAX or batch.size > BATCH_BYTES_MAX

    def _let_files_go(self, gone: list[tuple[bytes, bytes]]) -> None:
        future, call = self._written(), self.on_files_gone
        if future is not None and call is not None:
            future.add_done_callback(lambda done: None if done.cancelled() or done.exception() else call(gone))

    async def catch_up(self) -> None:
        """Processes everything that is due, and returns once it is durable; for clocks that were moved.

        Raises:
            Rejection: OUTCOME_UNKNOWN after a failed commit, the rejection given to `end` after `end`.
        """
        self._due.look()
        while self._due.is_pending:
            await self.wait_durable()  # a full batch makes due work wait for the next one
            await asyncio.sleep(0)
        await self.wait_durable()

    def drain(self) -> None:
        """Ends all waits, for work and for the ends of tasks, with DRAINING."""
        self._end_waits(Rejection(Reason.DRAINING, "the server is stopping"))

    def _end_waits(self, refusal: Rejection) -> None:
        self.waiting.drain(refusal)
        self.ends.refuse(refusal.again)

    # -- commits ---------------------------------------------------------------------------------------------------

    def _start_commit(self) -> None:
        if self._refuse is not None:
            return
        try:
            self._busy = len(self._flights) >= self._log.window
            if self.shard.batch and not self._busy:
                self._commit_batch()
        except BaseException as problem:  # noqa: BLE001 - whatever it is, no decision can be trusted any more
            self._poison(problem)

    def _commit_batch(self) -> None:
        shard = self.shard
        sealed = shard.seal(self._time())
        flight = _Flight(sealed.lsn, self._next)
        self._flights.append(flight)
        self._next = []
        self._busy = len(self._flights) >= self._log.window
        self._due.resume()
        self.admission.reopen()
        self._log.append(sealed).add_done_callback(partial(self._on_appended, flight))

    def _on_appended(self, flight: _Flight, appended: asyncio.Future[None]) -> None:
        problem = _problem_of(appended)
        if self._refuse is not None:
            return
        if isinstance(problem, Rejection):
            self.end(problem)
        elif problem is not None:
            self._poison(problem)
        else:
            self._go_on(flight)

    def _go_on(self, flight: _Flight) -> None:
        try:
            self._settle(flight)
            self._busy = False
            if self.shard.batch:
                self._commit_batch()
            self._due.arm()  # the retention of ended tasks counts from the seal
        except BaseException as problem:  # noqa: BLE001 - see above
            self._poison(problem)

    def _settle(self, flight: _Flight) -> None:
        """Resolves the waiters of a batch that is durable."""
        batch = self.shard.settled(flight.lsn)
        self._flights.popleft()
        self.commits.note(int((time.perf_counter() - flight.started) * 1_000_000))
        for future in flight.waiters:
            if not future.done():
                future.set_result(None)
        if batch.notable.listed and self.on_notable is not None:
            self.on_notable(batch.notable)
        if batch.traced and self.on_traced is not None:
            self.on_traced(batch.traced)
        if batch.readiness and self.on_readiness is not None:
            self.on_readiness(batch.readiness)

    def _confirmed(self, confirmation: asyncio.Future[None]) -> asyncio.Future[None]:
        """Returns a future that resolves when the leadership is confirmed and all batches in flight are durable."""
        waiters = self._confirming.get(confirmation)
        if waiters is None:
            waiters = self._confirming[confirmation] = []
            confirmation.add_done_callback(self._on_confirmed)
        future = self.loop.create_future()  # a separate one: its waiter may be cancelled, and the future with it
        waiters.append((future, self._flights[-1].lsn if self._flights else 0))
        return future

    def _on_confirmed(self, confirmation: asyncio.Future[None]) -> None:
        problem = _problem_of(confirmation)
        if self._refuse is not None:
            return
        if problem is not None and not isinstance(problem, Rejection):
            self._poison(problem)
            return
        flights = self._flights
        for future, lsn in self._confirming.pop(confirmation):
            if problem is not None:
                # A caller that waited for a batch as well may have decided something in it.
                refuse_all((future,), _unknown if lsn else problem.again)
            elif flights and flights[0].lsn <= lsn:
                flights[lsn - flights[0].lsn].waiters.append(future)
            elif not future.done():
                future.set_result(None)

    # -- life ------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Commits all decisions, unless the runner has ended, and releases the log; later decisions are rejected."""
        self._closed = True
        self._due.stop()
        while self._refuse is None and (future := self._written()) is not None:
            with contextlib.suppress(Rejection):  # the waiters were notified, and so was `on_fatal`
                await future
        await self._log.close()

    def end(self, refusal: Rejection) -> None:
        """Ends the runner because the leadership is over; later requests get this rejection."""
        if self._refuse is None:
            self.refusal = refusal
            self._give_up(refusal.again)
            self._end_waits(refusal)

    def _poison(self, problem: BaseException) -> None:
        if self._refuse is None:
            self._give_up(_unknown)
            self._on_fatal(problem)

    def _give_up(self, refuse: Callable[[], Rejection]) -> None:
        """Stops deciding, and fails every caller waiting to decide or waiting for a decision to become durable."""
        self._refuse = refuse
        self.on_files_gone = None
        self._due.stop()
        self.admission.fail(refuse)
        for waiters in (self._next, *(flight.waiters for flight in self._flights)):
            refuse_all(waiters, _unknown)
        for confirming in self._confirming.values():
            for future, lsn in confirming:
                refuse_all((future,), _unknown if lsn else refuse)

    # -- waking ------------------------------------------------------------------------------------------------------

    def _dispatch(self, woken: Iterable[Queue]) -> None:
        """Schedules wake-ups of waiters for queues that got work, in the turns of the queues' tenants."""
        for queue in woken:
            if not self.waiting.has_waiter(queue):
                continue
            if queue not in self._waking:
                self.admission.push(queue.tenant, partial(self._wake, queue))
            self._waking[queue] = self.waiting.turn

    def _wake(self, queue: Queue) -> int:
        """Wakes one waiter of a queue and schedules the next one; returns the cost."""
        before = self.shard.totals.claimed
        may_lease = lease_room(self.shard, queue.tenant, 1)
        if not may_lease or not self.waiting.wake(queue, self._waking[queue]):
            del self._waking[queue]
            return 0
        self.admission.push(queue.tenant, partial(self._wake, queue))
        return CALL_COST + self.shard.totals.claimed - before

    def line_up(self, waiter: Waiter, tenant: str, commands: Sequence[str] | None) -> bool:
        """Has a worker wait behind those that wait for leases to end; returns False, and does nothing, if none may."""
        is_fed = tenant in self._feeding
        if not is_fed and tenant not in self.shard.starved:
            return False
        self.waiting.wait(waiter, tenant, commands)
        if is_fed:
            self._feeding[tenant] = self.waiting.turn  # nobody else would wake it if a lease is left for it
        return True

    def gives_way(self, tenant: str, commands: Sequence[str] | None) -> bool:
        """Returns whether a worker has to let others pass that wait for a freed slot of a queue with a limit.

        Args:
            tenant: Tenant of the worker.
            commands: Commands that it takes; None: all.
        """
        freed = self.shard.policies.freed
        if not freed:
            return False
        self.changed()
        for queue in [queue for queue in freed if queue not in self._waking]:
            del freed[queue]
        return any(queue.tenant == tenant and (commands is None or queue.command in commands) for queue in freed)

    def _feed(self, tenant: str) -> int:
        """Wakes one waiter of a tenant that may lease tasks again, and schedules the next one; returns the cost."""
        shard = self.shard
        before, last = shard.totals.claimed, self._feeding[tenant]
        lanes = shard.ready.get(tenant, ()) if lease_room(shard, tenant, 1) else ()
        looked = 0
        for queues in lanes:
            for queue in queues or ():
                looked += 1
                if self.waiting.has_waiter(queue) and self.waiting.wake(queue, last):
                    self.admission.push(tenant, partial(self._feed, tenant))
                    return CALL_COST + looked // QUEUES_PER_COST + shard.totals.claimed - before
        del self._feeding[tenant]
        return looked // QUEUES_PER_COST


def _unknown() -> Rejection:
    return Rejection(Reason.OUTCOME_UNKNOWN, "what was decided could not be made durable; the outcome is unknown")


def _problem_of(future: asyncio.Future[None]) -> BaseException | None:
    return asyncio.CancelledError() if future.cancelled() else future.exception()
