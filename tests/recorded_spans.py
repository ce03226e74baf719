"""A tracer that records its spans, so that tests need no collector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from codeq_server.tracing.task_encoding import spans_of
from codeq_server.tracing.tasks import EndedTask
from opentelemetry.context import Context
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    get_current_span,
)


def spans_of_tasks(ended: Sequence[EndedTask]) -> list[trace_pb2.Span]:
    """Returns the spans of tasks that ended, as they are exported."""
    return list(trace_pb2.ScopeSpans.FromString(b"".join(map(spans_of, ended))).spans)


def attributes_of(span: trace_pb2.Span) -> dict[str, str | int]:
    """Returns the attributes of a span that is exported."""
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes}


class RecordedSpan(Span):
    """A span with everything that it was given.

    Attributes:
        parent: Its parent; invalid: it begins a trace.
        ended: Whether it has ended.
    """

    def __init__(self, name: str, number: int, parent: SpanContext, *, is_recorded: bool, **given: Any) -> None:
        self.name, self.parent = name, parent
        self.kind: SpanKind = given["kind"]
        self.attributes: dict[str, Any] = dict(given["attributes"] or {})
        self.links: Sequence[Link] = given["links"] or ()
        self.start_time: int | None = given["start_time"]
        self.end_time: int | None = None
        self.ended = False
        self.status = StatusCode.UNSET
        self._is_recorded = is_recorded
        trace_id = parent.trace_id if parent.is_valid else 0xABC0 + number
        self._context = SpanContext(trace_id, 0xDEF0 + number, is_remote=False, trace_flags=TraceFlags(is_recorded))

    def end(self, end_time: int | None = None) -> None:
        assert not self.ended
        self.ended, self.end_time = True, end_time

    def get_span_context(self) -> SpanContext:
        return self._context

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        self.attributes |= attributes

    def set_attribute(self, key: str, value: Any) -> None:
        self.attributes[key] = value

    def add_event(self, name: str, *_: Any, **__: Any) -> None:
        raise AssertionError(name)

    def update_name(self, name: str) -> None:
        raise AssertionError(name)

    def is_recording(self) -> bool:
        return self._is_recorded

    def set_status(self, status: Status | StatusCode, *_: Any, **__: Any) -> None:
        self.status = status.status_code if isinstance(status, Status) else status

    def record_exception(self, exception: BaseException, *_: Any, **__: Any) -> None:
        raise AssertionError(exception)


class RecordingTracer(Tracer):
    """Records spans, unless their caller says that their trace is not recorded.

    Args:
        is_sampling: Whether traces that begin here are recorded.
    """

    def __init__(self, *, is_sampling: bool = True) -> None:
        self.spans: list[RecordedSpan] = []
        self._is_sampling = is_sampling

    def start_span(
        self, name: str, context: Context | None = None, kind: SpanKind = SpanKind.INTERNAL, *args: Any, **given: Any
    ) -> RecordedSpan:
        assert not args
        parent = (INVALID_SPAN if context is None else get_current_span(context)).get_span_context()
        is_recorded = bool(parent.trace_flags & 1) if parent.is_valid else self._is_sampling
        whole = {"attributes": None, "links": None, "start_time": None} | given | {"kind": kind}
        span = RecordedSpan(name, len(self.spans), parent, is_recorded=is_recorded, **whole)
        self.spans.append(span)
        return span

    @contextmanager
    def start_as_current_span(self, name: str, *_: Any, **__: Any) -> Iterator[RecordedSpan]:
        raise AssertionError(name)
        yield
