"""What stands between a delivery and its handler: middleware, and the reading of typed payloads."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from codeq.errors import InvalidField
from codeq.outcomes import Failed
from codeq.records import Task
from codeq.typed_values import Reader

Handler = Callable[[Task[Any]], object]
"""Processes a task; sync or async. The return value or the exception is the task's outcome."""

Middleware = Callable[[Task[Any], Handler], object]
"""Wraps handlers: it is called with the task and with the next layer, and returns what that returns, or something else.

Around an async handler the next layer is async, too.
"""

InThread = Callable[[Handler, Task[Any]], Awaitable[object]]
"""Runs a sync handler in a thread of the worker."""


def is_async(function: object) -> bool:
    """Returns whether calling a function makes a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def check_middleware(middleware: object) -> None:
    """Checks that a middleware can be called with a task and the next layer.

    Raises:
        TypeError: It cannot.
    """
    name = getattr(middleware, "__qualname__", repr(middleware))
    if not callable(middleware):
        raise TypeError(f"middleware {name} cannot be called")
    if inspect.isgeneratorfunction(middleware) or inspect.isasyncgenfunction(middleware):
        raise TypeError(f"middleware {name} must return the next layer's result, not yield it")
    try:
        inspect.signature(middleware).bind(None, None)
    except TypeError as error:
        raise TypeError(f"middleware {name} must take two arguments, the task and the next layer: {error}") from None
    except ValueError:  # some functions written in C have no signature
        return


def layered(
    handler: Handler, reader: Reader[Any] | None, middleware: Sequence[Middleware], in_thread: InThread
) -> tuple[Handler, bool]:
    """Returns a handler inside its middleware, the first one outermost, and whether the whole is async.

    Args:
        handler: The handler.
        reader: Reads its payloads; None: they stay plain JSON.
        middleware: Layers around it.
        in_thread: Runs the handler if it is sync while a layer is async.
    """
    call = handler if reader is None else _reading(handler, reader)
    if not is_async(handler) and not any(map(is_async, middleware)):
        for layer in reversed(middleware):
            call = functools.partial(_call_layer, layer, call)
        return call, False
    if not middleware:
        return call, True
    call = functools.partial(_await_handler, call) if is_async(handler) else functools.partial(in_thread, call)
    for layer in reversed(middleware):
        call = functools.partial(_await_layer, layer, call)
    return call, True


def _reading(handler: Handler, reader: Reader[Any]) -> Handler:
    def call(task: Task[Any]) -> object:
        try:
            task.read_payload(reader)
        except InvalidField as error:  # another delivery would bring the same payload
            raise Failed(f"payload is invalid: {error.message}") from None
        return handler(task)

    async def call_async(task: Task[Any]) -> object:
        return await cast("Awaitable[object]", call(task))

    return call_async if is_async(handler) else call


def _call_layer(layer: Middleware, following: Handler, task: Task[Any]) -> object:
    return layer(task, following)


async def _await_handler(handler: Handler, task: Task[Any]) -> object:
    return await cast("Awaitable[object]", handler(task))


async def _await_layer(layer: Middleware, following: Handler, task: Task[Any]) -> object:
    value = layer(task, following)
    return await cast("Awaitable[object]", value) if hasattr(type(value), "__await__") else value
