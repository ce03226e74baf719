"""Spans of tasks in the form of OTLP: how long they waited, and how long the last worker had them.

They are children of the span in which the task was created. They are put together from encoded parts, of which those
that many spans have in common are kept: making them as messages of protobuf would cost several times as much.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span, SpanFlags, Status

from codeq_server.core.status import Status as TaskStatus
from codeq_server.core.task_fields import field

from . import names
from .tasks import EndedTask

KEPT_MAX: Final = 2_000
"""Maximum number of parts of a kind that are kept; beyond it, the one used least recently is dropped."""

_HERE: Final = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_ELSEWHERE: Final = _HERE | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_LOW: Final = (1 << 64) - 1


def _head(number: int, size: int) -> bytes:
    """Returns what precedes the content of a field whose size is known in advance."""
    return field(number, bytes(size))[:-size]


# Parts of a known size are packed at once, and the numbers of fields are looked up once: both take time.
_place: Final = Struct("<2s16s 2s8s 2s8s BQ BQ").pack
_link: Final = Struct("<2s 2s16s 2s8s").pack
_FIXED64: Final = 1
_TRACE_ID: Final = _head(Span.TRACE_ID_FIELD_NUMBER, 16)
_SPAN_ID: Final = _head(Span.SPAN_ID_FIELD_NUMBER, 8)
_PARENT_ID: Final = _head(Span.PARENT_SPAN_ID_FIELD_NUMBER, 8)
_START: Final = Span.START_TIME_UNIX_NANO_FIELD_NUMBER << 3 | _FIXED64
_END: Final = Span.END_TIME_UNIX_NANO_FIELD_NUMBER << 3 | _FIXED64
_LINK_FLAGS: Final = Span.Link(flags=_HERE).SerializeToString()
_LINK: Final = _head(Span.LINKS_FIELD_NUMBER, 2 + 16 + 2 + 8 + len(_LINK_FLAGS))
_LINKED_TRACE: Final = _head(Span.Link.TRACE_ID_FIELD_NUMBER, 16)
_LINKED_SPAN: Final = _head(Span.Link.SPAN_ID_FIELD_NUMBER, 8)
_TASK_ID: Final = KeyValue(key=names.MESSAGING_MESSAGE_ID).SerializeToString()
_ATTRIBUTES: Final = Span.ATTRIBUTES_FIELD_NUMBER
_VALUE: Final = KeyValue.VALUE_FIELD_NUMBER
_STRING: Final = AnyValue.STRING_VALUE_FIELD_NUMBER
_SPANS: Final = ScopeSpans.SPANS_FIELD_NUMBER


def spans_of(ended: EndedTask) -> bytes:
    """Returns the spans of a task, its wait, and its run if it was delivered, as fields of a ScopeSpans."""
    task, trace = ended.task, ended.task.traceparent
    trace_id, parent_id = bytes.fromhex(trace[3:35]), bytes.fromhex(trace[36:52])
    wait_id = _id(ended.ids & _LOW)
    task_id = field(_ATTRIBUTES, _TASK_ID + field(_VALUE, field(_STRING, task.task_id.encode())))
    start, end = task.accepted_ms * 1_000_000, (task.first_ms or task.ended_ms) * 1_000_000
    wait = (
        _common(task.tenant, task.command, names.WAIT)
        + _place(_TRACE_ID, trace_id, _SPAN_ID, wait_id, _PARENT_ID, parent_id, _START, start, _END, end)
        + task_id
    )
    if not task.delivered_ms:
        return field(_SPANS, wait)
    run_id = _id(ended.ids >> 64)
    start, end = task.delivered_ms * 1_000_000, task.ended_ms * 1_000_000
    run = (
        _common(task.tenant, task.command, names.RUN)
        + _place(_TRACE_ID, trace_id, _SPAN_ID, run_id, _PARENT_ID, parent_id, _START, start, _END, end)
        + task_id
        + _link(_LINK, _LINKED_TRACE, trace_id, _LINKED_SPAN, wait_id)
        + _LINK_FLAGS
        + _ending(task.worker, task.status, task.deliveries)
    )
    return field(_SPANS, wait) + field(_SPANS, run)


@lru_cache(KEPT_MAX)
def _common(tenant: str, command: str, operation: str) -> bytes:
    """Returns what the spans of a command and operation have in common."""
    about = {
        names.MESSAGING_SYSTEM: names.CODEQ,
        names.MESSAGING_OPERATION: operation,
        names.MESSAGING_DESTINATION: command,
        names.TENANT: tenant,
    }
    span = Span(name=f"{operation} {command}", kind=Span.SPAN_KIND_INTERNAL, flags=_ELSEWHERE)
    span.attributes.extend(_text(name, value) for name, value in about.items())
    return span.SerializeToString()


@lru_cache(KEPT_MAX)
def _ending(worker: str, status: TaskStatus, deliveries: int) -> bytes:
    """Returns how a run ended."""
    count = KeyValue(key=names.DELIVERIES, value=AnyValue(int_value=deliveries))
    span = Span(attributes=[_text(names.WORKER, worker), _text(names.STATUS, status.name), count])
    if status is not TaskStatus.COMPLETED:
        span.attributes.append(_text(names.ERROR_TYPE, status.name))
        span.status.code = Status.STATUS_CODE_ERROR
    return span.SerializeToString()


def _text(name: str, value: str) -> KeyValue:
    return KeyValue(key=name, value=AnyValue(string_value=value))


def _id(number: int) -> bytes:
    """Returns the id of a span; it must not be 0."""
    return (number or 1).to_bytes(8, "big")
