"""Trace context of OpenTelemetry, if the program uses it: the SDK itself depends on no part of it."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any

from codeq.records import Task

_API = "opentelemetry.trace"
"""Module that a program with traces has imported; without it there is no current span."""


def current() -> tuple[str | None, str | None]:
    """Returns traceparent and tracestate of the current span; (None, None): there is none."""
    if _API not in sys.modules:
        return None, None
    carrier: dict[str, str] = {}
    _propagator().inject(carrier)
    return carrier.get("traceparent"), carrier.get("tracestate")


@contextlib.contextmanager
def processing(task: Task[Any]) -> Iterator[None]:
    """Runs a handler in a span of kind CONSUMER, a child of the span in which the task was created."""
    if _API not in sys.modules:
        yield
        return
    trace: Any = importlib.import_module(_API)
    carrier = {"traceparent": task.traceparent or "", "tracestate": task.tracestate or ""}
    span = trace.get_tracer("codeq").start_as_current_span(
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
    with span:
        yield


def _propagator() -> Any:
    module: Any = importlib.import_module("opentelemetry.trace.propagation.tracecontext")
    return module.TraceContextTextMapPropagator()
