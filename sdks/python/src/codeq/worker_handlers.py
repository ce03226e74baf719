"""The handlers of a worker, and what each of them is registered with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codeq import arguments
from codeq.records import Task
from codeq.typed_values import Reader, payload_type
from codeq.worker_chain import Handler, InThread, Middleware, layered


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


@dataclass(frozen=True, slots=True)
class Registration:
    """A handler with its options.

    Attributes:
        handler: The handler.
        reader: Reads its payloads; None: they stay plain JSON.
        limit: Maximum number of its tasks, per command, that run at once; None: only the worker's concurrency.
        timeout_seconds: Time after which a running handler counts as stuck; None: never.
    """

    handler: Handler
    reader: Reader[Any] | None = None
    limit: int | None = None
    timeout_seconds: float | None = None

    @classmethod
    def of(
        cls,
        handler: Handler,
        kind: type | None = None,
        limit: int | None = None,
        timeout_seconds: float | None = None,
    ) -> Registration:
        """Checks a handler; the type of its payloads is the given one, or that of its annotation.

        Raises:
            TypeError: The handler cannot be called with a task, or its type cannot be read from JSON.
        """
        check_handler(handler)
        wanted = payload_type(handler, Task) if kind is None else kind
        return cls(handler, None if wanted is None else Reader(wanted), limit, timeout_seconds)


@dataclass(frozen=True, slots=True)
class Entry:
    """A handler as it is run.

    Attributes:
        call: The handler inside its middleware.
        is_async: Whether calling it makes a coroutine.
        limit: See Registration.
        timeout_seconds: See Registration.
    """

    call: Handler
    is_async: bool
    limit: int | None
    timeout_seconds: float | None


class Handlers:
    """Maps commands to handlers. Immutable.

    Attributes:
        commands: Commands to ask for; none: all that the token allows.
    """

    def __init__(
        self,
        by_command: Mapping[str, Registration],
        default: Handler | None,
        commands: Sequence[str],
        middleware: Sequence[Middleware] = (),
    ) -> None:
        """Combines the decorated handlers with the default one.

        Args:
            by_command: Handlers by command.
            default: Handler of all other commands.
            commands: Commands to ask for in addition to those in `by_command`; none, with a default: all that the token
                allows.
            middleware: Layers around all of them, the first one outermost.

        Raises:
            ValueError: No handler is given, or a command has none.
            TypeError: The default cannot be called with a task, or the commands are not a list of str.
        """
        commands = arguments.several(commands, "commands")
        if default is None and not by_command:
            raise ValueError("no handler: decorate one with @worker.task(...) or pass one to run()")
        if default is None and not set(commands) <= set(by_command):
            raise ValueError(f"no handler for {sorted(set(commands) - set(by_command))}")
        takes_all = default is not None and not commands
        self.commands = () if takes_all else tuple(dict.fromkeys((*by_command, *commands)))
        self._by_command = dict(by_command)
        self._default = None if default is None else Registration.of(default)
        self._middleware = tuple(middleware)

    def entries(self, in_thread: InThread) -> tuple[dict[str, Entry], Entry | None]:
        """Returns how to run the handler of each command, and the default one.

        Args:
            in_thread: Runs sync handlers inside async middleware.
        """
        by_command = {command: self._entry(each, in_thread) for command, each in self._by_command.items()}
        return by_command, None if self._default is None else self._entry(self._default, in_thread)

    def _entry(self, registered: Registration, in_thread: InThread) -> Entry:
        call, whole_is_async = layered(registered.handler, registered.reader, self._middleware, in_thread)
        return Entry(call, whole_is_async, registered.limit, registered.timeout_seconds)
