"""Running handlers: sync ones in threads of the worker, async ones on the user's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import queue
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Final, cast

from codeq import outcomes
from codeq.outcomes import Nack, Outcome, Verdict
from codeq.records import Task
from codeq.worker_stream import Finish, Report, report

Handler = Callable[[Task], object]
"""Does the work of a task; sync or async. What it returns or raises is the task's outcome."""

_AsyncHandler = Callable[[Task], Coroutine[object, object, object]]

_END: Final = None

_log = logging.getLogger("codeq")


class Handlers:
    """Which handler takes which command. Immutable.

    Attributes:
        commands: Commands to ask for; none: all that the token allows.
    """

    def __init__(self, by_command: Mapping[str, Handler], default: Handler | None, commands: Sequence[str]) -> None:
        """Handlers for commands, and one for the others.

        Args:
            by_command: Handlers of their commands.
            default: Handler of all other commands.
            commands: Commands to ask for beside those of by_command; none with a default: all that the token allows.

        Raises:
            ValueError: There is no handler at all, or there are commands without one.
        """
        if default is None and not by_command:
            raise ValueError("no handler: decorate one with @worker.task(...) or pass one to run()")
        if default is None and not set(commands) <= set(by_command):
            raise ValueError(f"no handler for {sorted(set(commands) - set(by_command))}")
        takes_all = default is not None and not commands
        self.commands = () if takes_all else tuple(dict.fromkeys((*by_command, *commands)))
        self._by_command = {command: (handler, _is_async(handler)) for command, handler in by_command.items()}
        self._default = None if default is None else (default, _is_async(default))

    def of(self, task: Task) -> tuple[Handler, bool] | None:
        """The handler of a task and whether it is async; None: nobody asked for its command."""
        return self._by_command.get(task.command, self._default)


class HandlerExecutor:
    """Runs tasks as the transport delivers them. `start` and `cancel` are called on its thread, `close` on any."""

    def __init__(self, handlers: Handlers, loop: asyncio.AbstractEventLoop, threads_max: int) -> None:
        self._handlers = handlers
        self._loop = loop
        self._threads_max = threads_max
        self._queue: queue.SimpleQueue[tuple[Handler, Task, Finish] | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._coroutines: dict[Task, asyncio.Task[object]] = {}  # owned by the user's loop

    def start(self, tasks: Sequence[Task], finish: Finish) -> None:
        """Run tasks; each is reported once."""
        coroutines: list[tuple[_AsyncHandler, Task]] = []
        for task in tasks:
            if (found := self._handlers.of(task)) is None:
                finish(report(task, Nack(f"no handler for command {task.command}")))
            elif found[1]:
                coroutines.append((cast("_AsyncHandler", found[0]), task))
            else:
                self._start_thread_if_needed()
                self._queue.put((found[0], task, finish))
        if coroutines:
            self._call_on_users_loop(functools.partial(self._start_coroutines, coroutines, finish))

    def cancel(self, task: Task) -> None:
        """Cancel the coroutine of a task; a sync handler can only look at `task.lost`."""
        if (found := self._handlers.of(task)) is not None and found[1]:
            self._call_on_users_loop(functools.partial(self._cancel_coroutine, task))

    def close(self) -> None:
        """Let the threads end after what they are doing. Those that do not end do not keep the process alive."""
        for _ in self._threads:
            self._queue.put(_END)

    def _start_thread_if_needed(self) -> None:
        if self._idle.acquire(blocking=False) or len(self._threads) >= self._threads_max:
            return
        thread = threading.Thread(target=self._work, name=f"codeq-handler-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (item := self._queue.get()) is not _END:
            handler, task, finish = item
            done = report(task, _run(handler, task))
            self._idle.release()
            finish(done)

    def _call_on_users_loop(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the worker is about to be stopped
            self._loop.call_soon_threadsafe(function)

    def _start_coroutines(self, coroutines: Sequence[tuple[_AsyncHandler, Task]], finish: Finish) -> None:
        for handler, task in coroutines:
            running = self._loop.create_task(handler(task), name=f"codeq-task-{task.id}")
            self._coroutines[task] = running
            running.add_done_callback(functools.partial(self._end_coroutine, task, finish))

    def _cancel_coroutine(self, task: Task) -> None:
        if (running := self._coroutines.get(task)) is not None:
            running.cancel()

    def _end_coroutine(self, task: Task, finish: Finish, running: asyncio.Task[object]) -> None:
        del self._coroutines[task]
        if running.cancelled():
            is_ours = task.lost.is_set()
            finish(Report(task, None) if is_ours else report(task, Nack("CancelledError: the handler was cancelled")))
        elif (error := running.exception()) is not None:
            finish(report(task, _outcome_of(error, task)))
        else:
            finish(report(task, outcomes.of_return_value(running.result())))


def _run(handler: Handler, task: Task) -> Outcome:
    try:
        return outcomes.of_return_value(handler(task))
    except BaseException as error:  # noqa: BLE001 - not even sys.exit() in a handler may cost the worker a thread
        return _outcome_of(error, task)


def _outcome_of(error: BaseException, task: Task) -> Outcome:
    if not isinstance(error, Verdict):
        _log.error("handler of %s failed on task %s", task.command, task.id, exc_info=error)
    return outcomes.of_exception(error)


def _is_async(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)
