"""A simulated event loop: time advances only when nothing else can run, and processes on it can be killed.

Everything runs on one thread in an order determined by the seed alone. Executor calls run on a thread of their own,
which stops at every disk call until the loop resumes it. Only one of the two threads runs at any time.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
import threading
from collections.abc import Callable
from typing import Any

CALLS_MAX = 200_000
"""Callbacks after which a run is considered to be in an endless loop."""


LAST_WORDS_MAX = 20
"""How often a coroutine may await something while it is being closed."""


class Deadlock(Exception):  # noqa: N818 - what it is
    """Nothing can ever happen again, or the run is in an endless loop."""


class Killed(BaseException):
    """Ends a thread of a process that was killed."""


class Process:
    """A unit that is killed as a whole: its callbacks never run again, and its threads stop where they are."""

    def __init__(self, loop: SimLoop) -> None:
        self.alive = True
        self.context = contextvars.copy_context()
        self.context.run(_PROCESS.set, self)
        self.jobs: list[_Job] = []
        self.tasks: list[asyncio.Task[Any]] = []
        """Tasks kept until the end of the run: a garbage-collected coroutine would run its `finally`."""
        self.held: list[asyncio.Handle] | None = None
        """Callbacks held back while the process is frozen; None: it is not frozen."""
        self.slowness = 1.0
        """Factor by which the disk is slowed down."""
        self.steps = 0
        """Number of callbacks until `out_of_steps` is called; 0: no limit."""
        self.out_of_steps: Callable[[], None] = lambda: None
        self._loop = loop

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls a function in the context of this process."""
        return self.context.copy().run(function, *args)

    def start(self, coroutine: Any) -> asyncio.Task[Any]:
        """Starts a task of this process."""
        return self._loop.create_task(coroutine, context=self.context.copy())

    def freeze(self) -> None:
        """Suspends the process, like a long pause of its machine; it continues later, unaware of the pause."""
        if self.alive and self.held is None:
            self.held = []
            self._loop.hold(self, self.held)

    def thaw(self) -> None:
        """Resumes it."""
        held, self.held = self.held or [], None
        if self.alive:
            self._loop.let_go(held)

    def kill(self) -> None:
        """Kills the process without a shutdown."""
        self.alive, self.held = False, None
        self._loop.forget(self)
        for job in self.jobs:
            job.kill()


_PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
_JOB = threading.local()


def pause() -> None:
    """Yields to everything else for a while, if called on an executor's thread."""
    job = getattr(_JOB, "job", None)
    if job is not None:
        job.pause()


class _Job:
    """A call that runs on an executor's thread."""

    def __init__(self, loop: SimLoop, process: Process, call: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        self._loop, self._process, self._call, self._future = loop, process, call, future
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._killed = self._over = False
        self._result: Any = None
        self._problem: BaseException | None = None

    def step(self) -> None:
        """Runs the thread to its next pause or to its end."""
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._go.release()
        self._stopped.acquire()
        if not self._over:
            self._loop.call_later(self._loop.disk_seconds(self._process), self.step)
        else:
            _settle(self._future, self._result, self._problem)

    def pause(self) -> None:
        self._stopped.release()
        self._go.acquire()
        if self._killed:
            raise Killed

    def kill(self) -> None:
        self._killed = True
        if self._thread.ident is not None:
            self._go.release()
            self._thread.join()

    def _run(self) -> None:
        _JOB.job = self
        try:
            self._result = self._call()
        except BaseException as problem:  # noqa: BLE001 - passed on to the waiter
            self._problem = problem
        self._over = True
        self._stopped.release()


def _settle(future: asyncio.Future[Any], result: Any, problem: BaseException | None) -> None:
    if future.done():
        return
    if problem is None:
        future.set_result(result)
    else:
        future.set_exception(problem)


class _Silence:
    """Replaces the selector: there are no sockets, so time jumps to the next timer."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None or self._loop.calls_left < 0:
            raise Deadlock
        self._loop.seconds += timeout
        return []


class SimLoop(asyncio.base_events.BaseEventLoop):
    """The simulated event loop."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.seconds = 0.0
        self.problems: list[dict[str, Any]] = []
        """Uncaught exceptions of callbacks."""
        self.over = False
        self.calls_left = CALLS_MAX
        self.in_one_piece: Callable[[Callable[..., Any], Any], bool] = lambda *_: False
        """Returns whether an executor call can run inline because nothing needs to interleave with it."""
        self._chance = chance
        self._selector = _Silence(self)
        self.set_exception_handler(lambda _, problem: self.problems.append(problem))
        self.set_task_factory(self._new_task)

    def time(self) -> float:
        return self.seconds

    def disk_seconds(self, process: Process) -> float:
        """Returns the duration of the next disk call."""
        return self._chance.choice((0.0002, 0.001, 0.003, 0.02)) * process.slowness

    def _process_events(self, event_list: Any) -> None:
        """Does nothing: there are no events."""

    def _write_to_self(self) -> None:
        """Does nothing: the loop never sleeps."""

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        if not self._lets(context):
            return _never(asyncio.Handle(callback, args, self, context))
        if (held := self._held(context)) is not None:
            held.append(asyncio.Handle(callback, args, self, context))
            return held[-1]
        return super().call_soon(callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        if not self._lets(context):
            return _never(asyncio.TimerHandle(when, callback, args, self, context))
        if (held := self._held(context)) is not None:
            timer = asyncio.TimerHandle(when, callback, args, self, context)
            held.append(timer)
            return timer
        return super().call_at(when, callback, *args, context=context)

    def run_in_executor(self, _executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        future = self.create_future()
        process = _PROCESS.get()
        assert process is not None
        if self.in_one_piece(func, args):
            self.call_later(self.disk_seconds(process), self._do, process, future, func, args)
            return future
        job = _Job(self, process, lambda: func(*args), future)
        process.jobs.append(job)
        self.call_later(self.disk_seconds(process), job.step)
        return future

    def _do(self, process: Process, future: asyncio.Future[Any], func: Callable[..., Any], args: Any) -> None:
        result, problem = None, None
        try:
            result = func(*args)
        except BaseException as raised:  # noqa: BLE001 - passed on to the waiter
            problem = raised
        self.call_later(self.disk_seconds(process), _settle, future, result, problem)

    def forget(self, process: Process) -> None:
        """Drops every callback of a dead process."""
        for handle in (*self._ready, *self._scheduled):
            if handle._context.get(_PROCESS) is process:
                handle.cancel()

    def go_on(self) -> None:
        """Allows further callbacks, so that the remaining work can finish."""
        self.calls_left = CALLS_MAX

    def hold(self, process: Process, held: list[asyncio.Handle]) -> None:
        """Moves a process's scheduled callbacks to a list."""
        for index, handle in enumerate(self._ready):
            if handle._context.get(_PROCESS) is process:
                held.append(handle)
                self._ready[index] = _never(asyncio.Handle(_nothing, (), self))
        timers = [timer for timer in self._scheduled if timer._context.get(_PROCESS) is process]
        held += (timer for timer in timers if not timer.cancelled())
        for timer in timers:
            if not timer.cancelled():
                timer._scheduled = False
        self._scheduled[:] = [timer for timer in self._scheduled if timer._scheduled]
        heapq.heapify(self._scheduled)

    def let_go(self, held: list[asyncio.Handle]) -> None:
        """Schedules held callbacks again."""
        for handle in held:
            if handle.cancelled():
                continue
            if isinstance(handle, asyncio.TimerHandle):
                handle._scheduled = True
                heapq.heappush(self._scheduled, handle)
            else:
                self._ready.append(handle)

    @staticmethod
    def _held(context: contextvars.Context | None) -> list[asyncio.Handle] | None:
        process = _PROCESS.get() if context is None else context.get(_PROCESS)
        return None if process is None else process.held

    def _lets(self, context: contextvars.Context | None) -> bool:
        process = _PROCESS.get() if context is None else context.get(_PROCESS)
        self.calls_left -= 1
        if self.over or not (process is None or process.alive):
            return False
        if process is not None and process.steps:
            process.steps -= 1
            if not process.steps:
                super().call_soon(process.out_of_steps, context=contextvars.Context())
        return True

    @staticmethod
    def _new_task(loop: Any, coroutine: Any, context: Any = None) -> asyncio.Task[Any]:
        task = asyncio.Task(coroutine, loop=loop, context=context)
        process = _PROCESS.get() if context is None else context.get(_PROCESS)
        if process is not None:
            task._log_destroy_pending = False
            process.tasks.append(task)
        if loop.over or not (process is None or process.alive):
            task._log_destroy_pending = False
            coroutine.close()
        return task


def _nothing() -> None:
    """Replaces a callback that is held back."""


def _never(handle: Any) -> Any:
    handle.cancel()
    return handle


def bury(process: Process) -> None:
    """Closes the coroutines that a dead process left behind; called after the loop has ended."""
    for task in process.tasks:
        for _ in range(LAST_WORDS_MAX):
            try:
                task.get_coro().close()
            except BaseException:  # noqa: BLE001 - errors of a dead process do not matter
                continue
            break
