"""Spans of attempts of callbacks: each a client's span in the trace of its task, if the task's producer samples it."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from codeq_server.core.callbacks import Call, Callback
from codeq_server.core.traces import is_sampled

from . import names
from .context import parent_of, traceparent_of
from .faults import Faults

POST: Final = "POST"
_PORTS: Final = {"http": 80, "https": 443}
_TIMEOUT: Final = "timeout"
"""Error of a call without an answer in time."""


class CallbackSpans:
    """Makes the spans of attempts.

    Args:
        tracer: Makes the spans.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._faults = Faults()

    def begin(self, callback: Callback, headers: dict[str, str]) -> Span | None:
        """Begins the span of an attempt, and makes it the parent in the headers of the request. Never raises.

        Args:
            callback: The callback.
            headers: Headers of its request, with the trace context of the task.

        Returns:
            The span; None: the trace of the task is not recorded.
        """
        if not callback.traceparent or not is_sampled(callback.traceparent):
            return None
        try:
            span = self._started(callback)
            headers["traceparent"] = traceparent_of(span)
        except Exception as problem:  # noqa: BLE001 - the courier must go on
            self._faults.log(problem)
            return None
        return span

    def end(self, span: Span, call: Call) -> None:
        """Ends the span of an attempt. Never raises."""
        try:
            error = str(call.status) if call.status >= 400 else "" if call.status else _type_of(call.error)
            if call.status:
                span.set_attribute(names.HTTP_STATUS, call.status)
            if error:
                span.set_attribute(names.ERROR_TYPE, error)
                span.set_status(Status(StatusCode.ERROR, call.error or None))
            span.end()
        except Exception as problem:  # noqa: BLE001 - as above
            self._faults.log(problem)

    def _started(self, callback: Callback) -> Span:
        url = urlsplit(callback.url)
        # Without the URL itself: its path and query may be secrets of the tenant.
        attributes: dict[str, AttributeValue] = {
            names.HTTP_METHOD: POST,
            names.SERVER_ADDRESS: url.hostname or "",
            names.SERVER_PORT: url.port or _PORTS[url.scheme],
            names.MESSAGING_MESSAGE_ID: callback.task_id,
            names.TENANT: callback.queue.tenant,
            names.DELIVERY_ID: callback.delivery_id,
        }
        if callback.attempt > 1:
            attributes[names.HTTP_RESEND_COUNT] = callback.attempt - 1
        context = parent_of(callback.traceparent, callback.tracestate)
        return self._tracer.start_span(POST, context=context, kind=SpanKind.CLIENT, attributes=attributes)


def _type_of(error: str) -> str:
    return _TIMEOUT if error == _TIMEOUT else "no_answer"
