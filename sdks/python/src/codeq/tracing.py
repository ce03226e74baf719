"""Trace context of OpenTelemetry, if the program uses it: the SDK itself depends on no part of it.

Whatever the program's tracing raises is logged, and costs neither a create nor a task.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

from codeq.logs import log
from codeq.outcomes import Abandon, Verdict
from codeq.records import NewTask, Task
from codeq.texts import text_of

SpanRelation: TypeAlias = Literal["link", "child"]
"""How the span of a handler belongs to that of the create: linked, in a trace of its own, or as its child, too."""

_API: Final = "opentelemetry.trace"
"""Module that a program with traces has imported; without it there is no current span."""
_CONTEXT: Final = "opentelemetry.context"


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


class Processing:
    """A block for a handler; does nothing. Its subclass runs the handler in a span."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def returned(self, value: object) -> None:
        """Notes what the handler returned, which may be a Failed or a Nack."""


_UNTRACED: Final = Processing()


def processing(task: Task[Any], relation: SpanRelation) -> Processing:
    """Returns a block for a handler, in a span of kind CONSUMER if the program uses OpenTelemetry.

    Args:
        task: Task that is processed.
        relation: How the span belongs to the one in which the task was created.
    """
    return _Span(task, relation) if _API in sys.modules else _UNTRACED


class _Span(Processing):
    """A block in a span that raises nothing of its own: spans start and end with code of the program's tracing."""

    def __init__(self, task: Task[Any], relation: SpanRelation) -> None:
        self._task, self._relation = task, relation
        self._span: Any = None
        self._token: Any = None

    def __enter__(self) -> Self:
        try:
            trace: Any = importlib.import_module(_API)
            context: Any = importlib.import_module(_CONTEXT)
            self._span = self._started(trace, context)
            self._token = context.attach(trace.set_span_in_context(self._span))
        except Exception:  # noqa: BLE001 - see above
            log.exception("task %s is processed without a span", self._task.id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._token is not None:
                importlib.import_module(_CONTEXT).detach(self._token)
            if self._span is not None:
                if error is not None:
                    self._raised(error)
                self._span.end()
        except Exception:  # noqa: BLE001 - see above
            log.exception("the span of task %s cannot end", self._task.id)

    def returned(self, value: object) -> None:
        """See `Processing`."""
        if isinstance(value, Verdict) and self._span is not None:
            try:
                self._raised(value)
            except Exception:  # noqa: BLE001 - see above
                log.exception("the outcome of task %s cannot be told to its span", self._task.id)

    def _started(self, trace: Any, context: Any) -> Any:
        """Starts the span: always linked to that of the create, as a single task may be processed several times."""
        task = self._task
        carrier = {"traceparent": task.traceparent, "tracestate": task.tracestate}
        told = {name: value for name, value in carrier.items() if value}
        created = _propagator().extract(told, context.Context())
        creator = trace.get_current_span(created).get_span_context()
        return trace.get_tracer("codeq").start_span(
            f"process {task.command}",
            context=created if self._relation == "child" else context.Context(),
            kind=trace.SpanKind.CONSUMER,
            links=(trace.Link(creator),) if creator.is_valid else (),
            attributes={
                "messaging.system": "codeq",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": task.command,
                "messaging.message.id": task.id,
                "codeq.task.attempts": task.attempts,
            },
        )

    def _raised(self, error: BaseException) -> None:
        """Marks the span as failed, unless the task was only given back."""
        if isinstance(error, Abandon):
            return
        trace: Any = importlib.import_module(_API)
        self._span.set_attribute("error.type", type(error).__qualname__)
        self._span.set_status(trace.Status(trace.StatusCode.ERROR, text_of(error)))
        if not isinstance(error, Verdict):
            try:
                self._span.record_exception(error)
            except BaseException:  # noqa: BLE001 - runs the error's own code, as `text_of` does
                log.warning("the error of task %s is not in its span", self._task.id)


def _propagator() -> Any:
    module: Any = importlib.import_module("opentelemetry.trace.propagation.tracecontext")
    return module.TraceContextTextMapPropagator()
