"""Runs handlers: sync handlers in threads of the worker, async handlers on the user's event loop.

Whatever a handler does, its task is reported exactly once: tasks are independent, and no exception of a handler reaches
the thread or loop that runs it. Tasks above the limit of their command wait here until one of the others ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

from codeq import outcomes, tracing
from codeq.logs import log
from codeq.metrics import SafeMetrics
from codeq.outcomes import Abandon, Nack, Outcome, Verdict
from codeq.records import CancelReason, Task
from codeq.worker_chain import Handler
from codeq.worker_handlers import Entry, Handlers
from codeq.worker_reports import Finish, Report, report
from codeq.worker_stats import WorkerStats

STUCK_SECONDS: Final = 1.0
"""Time that a handler has to end once its lease is lost; from then on it counts as stuck."""

_END: Final = None

_Then = Callable[[], None]
_Job = Callable[[], _Then]
"""Work for a thread; returns what follows it, once the thread counts as idle."""


class _Run:
    """One task in the worker.

    Attributes:
        task: The task.
        entry: How to run it.
        finish: Takes its report.
        begun: Time on the monotonic clock at which the handler began.
        timer: Of its timeout, or of the check that it ends after the loss of its lease.
        is_stuck: Whether it was counted as stuck.
    """

    __slots__ = ("begun", "entry", "finish", "is_stuck", "task", "timer")

    def __init__(self, task: Task, entry: Entry, finish: Finish) -> None:
        self.task = task
        self.entry = entry
        self.finish = finish
        self.begun = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.is_stuck = False


class HandlerExecutor:
    """Runs the tasks that the transport delivers. Only `close` is thread-safe; the rest belongs to its thread."""

    def __init__(
        self,
        handlers: Handlers,
        loop: asyncio.AbstractEventLoop,
        threads_max: int,
        stats: WorkerStats,
        metrics: SafeMetrics | None = None,
        span_relation: tracing.SpanRelation = "link",
    ) -> None:
        """Captures the current context; each task runs in a copy of it.

        Args:
            handlers: The handlers.
            loop: The user's event loop.
            threads_max: Maximum number of threads for sync handlers.
            stats: Counts stuck handlers.
            metrics: Is told of each handler's start and end.
            span_relation: How the spans of handlers belong to those of the creates.
        """
        self._entries, self._default = handlers.entries(self._in_thread)
        self._loop = loop
        self._threads_max = threads_max
        self._stats = stats
        self._metrics = metrics
        self._span_relation = span_relation
        self._context = contextvars.copy_context()
        self._process = os.getpid()
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._threads_guard = threading.Lock()
        self._coroutines: dict[Task, asyncio.Task[Outcome]] = {}  # owned by the user's loop
        self._runs: dict[Task, _Run] = {}  # tasks whose handlers are running
        self._counts: dict[str, int] = {}  # running tasks of commands with a limit
        self._waiting: dict[str, deque[_Run]] = {}  # tasks above these limits, at most the worker's concurrency

    def start(self, tasks: Sequence[Task], finish: Finish) -> None:
        """Runs tasks; each is reported once."""
        ready: list[_Run] = []
        for task in tasks:
            entry = self._entries.get(task.command, self._default)
            if entry is None:
                finish(report(task, Nack(f"no handler for command {task.command}")))
                continue
            run = _Run(task, entry, finish)
            if entry.limit is not None and self._counts.get(task.command, 0) >= entry.limit:
                self._waiting.setdefault(task.command, deque()).append(run)
            else:
                ready.append(self._counted(run))
        self._launch(ready)

    def ended(self, task: Task) -> None:
        """Notes that a task was reported; the next one of its command may start."""
        run = self._runs.pop(task, None)
        if run is None:
            return
        if run.timer is not None:
            run.timer.cancel()
        if run.entry.limit is None:
            return
        self._counts[task.command] -= 1
        if waiting := self._waiting.get(task.command):
            self._launch([self._counted(waiting.popleft())])

    def cancel(self, task: Task, reason: CancelReason) -> None:
        """Cancels the coroutine of a task; a sync handler must check `task.lost` itself."""
        for waiting in self._waiting.values():
            for run in waiting:
                if run.task is task:
                    waiting.remove(run)
                    run.finish(Report(task, None))
                    return
        self._call_on_users_loop(functools.partial(self._cancel_coroutine, task))
        run_now = self._runs.get(task)
        if run_now is not None and not run_now.is_stuck and reason is not CancelReason.SHUTDOWN:
            self._set_timer(run_now, STUCK_SECONDS, "its lease ended")

    def give_back(self) -> None:
        """Gives back the tasks that wait for others of their command, which now start no more."""
        runs = [run for waiting in self._waiting.values() for run in waiting]
        self._waiting.clear()
        for run in runs:
            run.finish(report(run.task, Abandon()))

    def end(self) -> None:
        """Stops watching the handlers that are still running."""
        for run in self._runs.values():
            if run.timer is not None:
                run.timer.cancel()
        self._runs.clear()

    def close(self) -> None:
        """Ends the threads after their current tasks. They do not keep the process alive."""
        for _ in self._threads:
            self._queue.put(_END)

    def _counted(self, run: _Run) -> _Run:
        command = run.task.command
        if run.entry.limit is not None:
            self._counts[command] = self._counts.get(command, 0) + 1
        self._runs[run.task] = run
        return run

    def _launch(self, runs: Sequence[_Run]) -> None:
        coroutines: list[_Run] = []
        for run in runs:
            if run.entry.timeout_seconds is not None:
                self._set_timer(run, run.entry.timeout_seconds, "")
            if run.entry.is_async:
                coroutines.append(run)
            elif self._has_thread():
                self._queue.put(functools.partial(self._run_sync, run))
            else:
                run.finish(report(run.task, Nack("the worker could not start a thread")))
        if coroutines:
            self._call_on_users_loop(functools.partial(self._start_coroutines, coroutines))

    # ------------------------------------------------------------------------------------------- stuck handlers

    def _set_timer(self, run: _Run, seconds: float, why: str) -> None:
        if run.timer is not None:
            run.timer.cancel()
        run.timer = asyncio.get_running_loop().call_later(seconds, self._overdue, run, why)

    def _overdue(self, run: _Run, why: str) -> None:
        """Counts and names a handler that should have ended; it keeps its place, as nothing can end a thread."""
        run.timer, run.is_stuck = None, True
        self._stats.stuck += 1
        cause = why or f"it exceeded its timeout of {run.entry.timeout_seconds:g} s"
        log.warning("handler of %s is stuck on task %s: %s", run.task.command, run.task.id, cause)
        if not why:
            run.task.mark_late()
            self._call_on_users_loop(functools.partial(self._cancel_coroutine, run.task))

    # ------------------------------------------------------------------------------------------------- threads

    def _has_thread(self) -> bool:
        """Ensures that the next task has a thread (idle, new, or busy at the limit); returns False if it has none."""
        with self._threads_guard:
            if self._idle.acquire(blocking=False) or len(self._threads) >= self._threads_max:
                return True
            thread = threading.Thread(target=self._work, name=f"codeq-handler-{len(self._threads)}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                log.error("cannot start another handler thread while %d are running: %s", len(self._threads), error)
                return bool(self._threads)
            self._threads.append(thread)
            return True

    def _work(self) -> None:
        while (job := self._queue.get()) is not _END:
            then = job()
            if os.getpid() != self._process:
                return  # the handler forked and this is the child, whose end is not the end of the task
            self._idle.release()
            then()
            del job, then  # so that nothing is kept alive while the thread waits

    def _run_sync(self, run: _Run) -> _Then:
        """Runs a sync handler on the current thread."""
        done = self._context.copy().run(self._outcome, run)
        if isinstance(done, Report):
            return functools.partial(run.finish, done)
        # A sync function returned an awaitable: it runs on the loop.
        start = functools.partial(self._start_coroutine, run, _returning(done))
        return functools.partial(self._call_on_users_loop, start)

    def _outcome(self, run: _Run) -> Report | Awaitable[object]:
        """Runs a sync handler; returns its report, or the awaitable that a sync wrapper of an async one returned."""
        self._note_start(run)
        try:
            with tracing.processing(run.task, self._span_relation) as processing:
                value = run.entry.call(run.task)
                processing.returned(value)
            if hasattr(type(value), "__await__"):
                return cast("Awaitable[object]", value)
            outcome = outcomes.of_return_value(value)
        except BaseException as error:  # noqa: BLE001 - not even sys.exit() in a handler may cost the worker a thread
            outcome = _outcome_of(error, run.task)
        self._note_end(run, outcome)
        return report(run.task, outcome)

    async def _in_thread(self, handler: Handler, task: Task[Any]) -> object:
        """Runs a sync handler for a coroutine, whose cancellation waits for it: the handler keeps its place."""
        told: asyncio.Future[tuple[object, BaseException | None]] = self._loop.create_future()
        context = contextvars.copy_context()

        def run() -> _Then:
            result: tuple[object, BaseException | None]
            try:
                result = context.run(handler, task), None
            except BaseException as error:  # noqa: BLE001 - raised by the coroutine
                result = None, error
            set_result = functools.partial(told.set_result, result)
            return functools.partial(self._call_on_users_loop, set_result)

        if not self._has_thread():
            raise Nack("the worker could not start a thread")
        self._queue.put(run)
        is_cancelled = False
        while not told.done():
            try:
                await asyncio.wait((told,))
            except asyncio.CancelledError:
                is_cancelled = True
        if is_cancelled:
            raise asyncio.CancelledError
        value, error = told.result()
        if error is not None:
            raise error
        return value

    # --------------------------------------------------------------------------------------------- coroutines

    def _call_on_users_loop(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the worker is about to be stopped
            self._loop.call_soon_threadsafe(function)

    def _start_coroutines(self, runs: Sequence[_Run]) -> None:
        for run in runs:
            self._start_coroutine(run, run.entry.call)

    def _start_coroutine(self, run: _Run, handler: Handler) -> None:
        task = run.task
        work = self._await(handler, run)
        try:
            create = functools.partial(self._loop.create_task, name=f"codeq-task-{task.id}")
            running = self._context.copy().run(create, work)
        except Exception as error:  # noqa: BLE001 - from the program's own task factory
            work.close()
            run.finish(report(task, _outcome_of(error, task)))
            return
        self._coroutines[task] = running
        running.add_done_callback(functools.partial(self._end_coroutine, run))

    async def _await(self, handler: Handler, run: _Run) -> Outcome:
        """Runs an async handler to its outcome. Propagates only cancellation: SystemExit would end the loop."""
        task = run.task
        self._note_start(run)
        try:
            with tracing.processing(task, self._span_relation) as processing:
                value = await cast("Awaitable[object]", handler(task))
                processing.returned(value)
            return outcomes.of_return_value(value)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - as in _outcome
            return _outcome_of(error, task)
        finally:
            if os.getpid() != self._process:  # the handler forked and this is the child; the loop belongs to the parent
                os._exit(os.EX_OK)

    def _cancel_coroutine(self, task: Task) -> None:
        if (running := self._coroutines.get(task)) is not None:
            running.cancel()

    def _end_coroutine(self, run: _Run, running: asyncio.Task[Outcome]) -> None:
        task = run.task
        self._coroutines.pop(task, None)
        outcome: Outcome | None
        if not running.cancelled():
            error = running.exception()
            outcome = running.result() if error is None else _outcome_of(error, task)
        elif task.is_lost:
            outcome = None
        elif task.cancel_reason is CancelReason.TIMEOUT:
            outcome = Nack(f"TimeoutError: the handler exceeded its timeout of {run.entry.timeout_seconds:g} s")
        else:
            outcome = Nack("CancelledError: the handler was cancelled")
        self._note_end(run, outcome)
        run.finish(Report(task, None) if outcome is None else report(task, outcome))

    # ------------------------------------------------------------------------------------------------ metrics

    def _note_start(self, run: _Run) -> None:
        if self._metrics is not None and not run.begun:
            run.begun = time.monotonic()
            self._metrics.task_started(run.task)

    def _note_end(self, run: _Run, outcome: Outcome | None) -> None:
        if self._metrics is not None:
            name = "LOST" if outcome is None or run.task.is_lost else outcomes.name_of(outcome)
            self._metrics.task_ended(run.task, name, time.monotonic() - run.begun)


def _returning(value: Awaitable[object]) -> Handler:
    return lambda _: value


def _outcome_of(error: BaseException, task: Task) -> Outcome:
    if not isinstance(error, Verdict):
        log.error("handler of %s failed on task %s", task.command, task.id, exc_info=error)
    return outcomes.of_exception(error)
