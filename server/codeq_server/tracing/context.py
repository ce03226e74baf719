"""Trace context in the form of W3C, and in that of OpenTelemetry."""

from __future__ import annotations

import re
from typing import Final

from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags, TraceState, set_span_in_context

TRACEPARENT_CHARACTERS_MAX: Final = 128
TRACESTATE_CHARACTERS_MAX: Final = 512
"""A longer header is ignored, as if it were malformed."""

_parent: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?"
).fullmatch


def parent_of(traceparent: str, tracestate: str = "") -> Context | None:
    """Returns a context whose span is the parent that the headers name; None: they name none, or are malformed."""
    found = _parent(traceparent) if len(traceparent) <= TRACEPARENT_CHARACTERS_MAX else None
    if found is None or (traceparent.startswith("00") and found[4]):
        return None
    state = TraceState.from_header([tracestate]) if 0 < len(tracestate) <= TRACESTATE_CHARACTERS_MAX else None
    flags = TraceFlags(int(found[3], 16) & 1)
    span = SpanContext(int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=flags, trace_state=state)
    return set_span_in_context(NonRecordingSpan(span), Context())


def traceparent_of(span: Span) -> str:
    """Returns the traceparent that names a span as the parent."""
    of = span.get_span_context()
    return f"00-{of.trace_id:032x}-{of.span_id:016x}-{of.trace_flags & 1:02x}"
