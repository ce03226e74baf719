"""Runs handlers: sync handlers in threads of the worker, async handlers on the user's event loop.

Whatever a handler does, its task is reported exactly once: tasks are independent, and no exception of a handler reaches
the thread or loop that runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import os
import queue
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, cast

from codeq import arguments, outcomes
from codeq.logs import log
from codeq.outcomes import Nack, Outcome, Verdict
from codeq.records import Task
from codeq.worker_reports import Finish, Report, report

Handler = Callable[[Task], object]
"""Processes a task; sync or async. The return value or the exception is the task's outcome."""

_END: Final = None


def check_handler(handler: object) -> None:
    """Checks that a handler can be called with a task.

    Raises:
        TypeError: The handler cannot be called with a task, or is a generator.
    """
    name = getattr(handler, "__qualname__", repr(handler))
    if not callable(handler):
        raise TypeError(f"handler {name} cannot be called")
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise TypeError(f"handler {name} must return its result, not yield it")
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):  # some functions written in C have no signature
        return
    try:
        signature.bind(None)
    except TypeError as error:
        raise TypeError(f"handler {name} must take one argument, the task: {error}") from None


class Handlers:
    """Maps commands to handlers. Immutable.

    Attributes:
        commands: Commands to ask for; none: all that the token allows.
    """

    def __init__(self, by_command: Mapping[str, Handler], default: Handler | None, commands: Sequence[str]) -> None:
        """Combines the decorated handlers with the default one.

        Args:
            by_command: Handlers by command.
            default: Handler of all other commands.
            commands: Commands to ask for in addition to those in `by_command`; none, with a default: all that the token
                allows.

        Raises:
            ValueError: No handler is given, or a command has none.
            TypeError: The default cannot be called with a task, or the commands are not a list of str.
        """
        commands = arguments.several(commands, "commands")
        if default is None and not by_command:
            raise ValueError("no handler: decorate one with @worker.task(...) or pass one to run()")
        if default is None and not set(commands) <= set(by_command):
            raise ValueError(f"no handler for {sorted(set(commands) - set(by_command))}")
        if default is not None:
            check_handler(default)
        takes_all = default is not None and not commands
        self.commands = () if takes_all else tuple(dict.fromkeys((*by_command, *commands)))
        self._by_command = {command: (handler, _is_async(handler)) for command, handler in by_command.items()}
        self._default = None if default is None else (default, _is_async(default))

    def of(self, task: Task) -> tuple[Handler, bool] | None:
        """Returns the handler of a task and whether it is async; None: no handler for its command."""
        return self._by_command.get(task.command, self._default)


class HandlerExecutor:
    """Runs the tasks that the transport delivers. Only `close` is thread-safe; the rest belongs to its thread."""

    def __init__(self, handlers: Handlers, loop: asyncio.AbstractEventLoop, threads_max: int) -> None:
        """Captures the current context; each task runs in a copy of it."""
        self._handlers = handlers
        self._loop = loop
        self._threads_max = threads_max
        self._context = contextvars.copy_context()
        self._process = os.getpid()
        self._queue: queue.SimpleQueue[tuple[Handler, Task, Finish] | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._coroutines: dict[Task, asyncio.Task[Outcome]] = {}  # owned by the user's loop

    def start(self, tasks: Sequence[Task], finish: Finish) -> None:
        """Runs tasks; each is reported once."""
        coroutines: list[tuple[Handler, Task]] = []
        for task in tasks:
            if (found := self._handlers.of(task)) is None:
                finish(report(task, Nack(f"no handler for command {task.command}")))
            elif found[1]:
                coroutines.append((found[0], task))
            elif self._has_thread():
                self._queue.put((found[0], task, finish))
            else:
                finish(report(task, Nack("the worker could not start a thread")))
        if coroutines:
            self._call_on_users_loop(functools.partial(self._start_coroutines, coroutines, finish))

    def cancel(self, task: Task) -> None:
        """Cancels the coroutine of a task; a sync handler must check `task.lost` itself."""
        self._call_on_users_loop(functools.partial(self._cancel_coroutine, task))

    def close(self) -> None:
        """Ends the threads after their current tasks. They do not keep the process alive."""
        for _ in self._threads:
            self._queue.put(_END)

    def _has_thread(self) -> bool:
        """Ensures that the next task has a thread (idle, new, or busy at the limit); returns False if it has none."""
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
        while (item := self._queue.get()) is not _END:
            handler, task, finish = item
            done = self._context.copy().run(_run, handler, task)
            if os.getpid() != self._process:
                return  # the handler forked and this is the child, whose end is not the end of the task
            self._idle.release()
            if isinstance(done, Report):
                finish(done)
            else:  # a sync function returned an awaitable: it runs on the loop
                self._call_on_users_loop(functools.partial(self._start_coroutine, _returning(done), task, finish))
            del item, handler, task, finish, done  # so that nothing is kept alive while the thread waits

    def _call_on_users_loop(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the worker is about to be stopped
            self._loop.call_soon_threadsafe(function)

    def _start_coroutines(self, coroutines: Sequence[tuple[Handler, Task]], finish: Finish) -> None:
        for handler, task in coroutines:
            self._start_coroutine(handler, task, finish)

    def _start_coroutine(self, handler: Handler, task: Task, finish: Finish) -> None:
        work = self._await(handler, task)
        try:
            create = functools.partial(self._loop.create_task, name=f"codeq-task-{task.id}")
            running = self._context.copy().run(create, work)
        except Exception as error:  # noqa: BLE001 - from the program's own task factory
            work.close()
            finish(report(task, _outcome_of(error, task)))
            return
        self._coroutines[task] = running
        running.add_done_callback(functools.partial(self._end_coroutine, task, finish))

    async def _await(self, handler: Handler, task: Task) -> Outcome:
        """Runs an async handler to its outcome. Propagates only cancellation: SystemExit would end the loop."""
        try:
            return outcomes.of_return_value(await cast("Awaitable[object]", handler(task)))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - as in _run
            return _outcome_of(error, task)
        finally:
            if os.getpid() != self._process:  # the handler forked and this is the child; the loop belongs to the parent
                os._exit(os.EX_OK)

    def _cancel_coroutine(self, task: Task) -> None:
        if (running := self._coroutines.get(task)) is not None:
            running.cancel()

    def _end_coroutine(self, task: Task, finish: Finish, running: asyncio.Task[Outcome]) -> None:
        self._coroutines.pop(task, None)
        if not running.cancelled():
            error = running.exception()
            finish(report(task, running.result() if error is None else _outcome_of(error, task)))
        elif task.lost.is_set():
            finish(Report(task, None))
        else:
            finish(report(task, Nack("CancelledError: the handler was cancelled")))


def _run(handler: Handler, task: Task) -> Report | Awaitable[object]:
    """Runs a sync handler; returns its report, or the awaitable that it returned (a sync wrapper of an async one)."""
    try:
        value = handler(task)
        if hasattr(type(value), "__await__"):
            return cast("Awaitable[object]", value)
        outcome = outcomes.of_return_value(value)
    except BaseException as error:  # noqa: BLE001 - not even sys.exit() in a handler may cost the worker a thread
        outcome = _outcome_of(error, task)
    return report(task, outcome)


def _returning(value: Awaitable[object]) -> Handler:
    return lambda _: value


def _outcome_of(error: BaseException, task: Task) -> Outcome:
    if not isinstance(error, Verdict):
        log.error("handler of %s failed on task %s", task.command, task.id, exc_info=error)
    return outcomes.of_exception(error)


def _is_async(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)
