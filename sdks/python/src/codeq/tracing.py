"""Trace context of OpenTelemetry, if the program uses it: the SDK itself depends on no part of it.

Whatever the program's tracing raises is logged, and costs neither a create nor a task.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import Any, Final

from codeq.logs import log
from codeq.records import NewTask, Task

_API: Final = "opentelemetry.trace"
"""Module that a program with traces has imported; without it there is no current span."""


def traced(task: NewTask) -> NewTask:
    """Returns a task with the trace context of the current span, if there is one and the task has none of its own."""
    if _API not in sys.modules or task.traceparent is not None:
        return task
    carrier: dict[str, str] = {}
    try:
        _propagator().inject(carrier)
    except Exception:  # noqa: BLE001 - see above
        log.exception("the trace context of a create cannot be told")
    if "traceparent" not in carrier:
        return task
    return replace(task, traceparent=carrier["traceparent"], tracestate=carrier.get("tracestate"))


def processing(task: Task[Any]) -> AbstractContextManager[object]:
    """Returns a block for a handler, in a span of kind CONSUMER, a child of the span in which the task was created."""
    return _Safely(_span(task), task) if _API in sys.modules else contextlib.nullcontext()


class _Safely:
    """A block in a span that raises nothing of its own: spans start and end with code of the program's tracing."""

    def __init__(self, span: AbstractContextManager[object], task: Task[Any]) -> None:
        self._span = span
        self._task = task

    def __enter__(self) -> None:
        try:
            self._span.__enter__()
        except Exception:  # noqa: BLE001 - see above
            log.exception("task %s is processed without a span", self._task.id)
            self._span = contextlib.nullcontext()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._span.__exit__(kind, error, traceback)
        except Exception as raised:  # noqa: BLE001 - see above
            if raised is not error:
                log.exception("the span of task %s cannot end", self._task.id)


def _span(task: Task[Any]) -> AbstractContextManager[object]:
    try:
        trace: Any = importlib.import_module(_API)
        carrier = {"traceparent": task.traceparent, "tracestate": task.tracestate}
        span: AbstractContextManager[object] = trace.get_tracer("codeq").start_as_current_span(
            f"process {task.command}",
            context=_propagator().extract({name: value for name, value in carrier.items() if value}),
            kind=trace.SpanKind.CONSUMER,
            attributes={
                "messaging.system": "codeq",
                "messaging.operation.name": "process",
                "messaging.destination.name": task.command,
                "messaging.message.id": task.id,
            },
        )
    except Exception:  # noqa: BLE001 - see above
        log.exception("task %s is processed without a span", task.id)
        return contextlib.nullcontext()
    return span


def _propagator() -> Any:
    module: Any = importlib.import_module("opentelemetry.trace.propagation.tracecontext")
    return module.TraceContextTextMapPropagator()
