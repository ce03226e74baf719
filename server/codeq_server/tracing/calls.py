"""Spans of calls: of unary gRPC calls and of REST requests, each with the parent that the caller names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from . import names
from .context import parent_of, traceparent_of

SERVER_FAULTS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""gRPC codes that mark a server's span as failed; other codes are the caller's fault, and leave its status unset."""

_TRACEPARENT: Final = b"traceparent"
_TRACESTATE: Final = b"tracestate"


class GrpcSpans:
    """Spans of unary gRPC calls.

    Args:
        tracer: Makes the spans.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def begin(self, method: str, metadata: Mapping[str, str | bytes]) -> Span:
        """Begins the span of a call.

        Args:
            method: Full name such as "/codeq.v1.TaskService/CreateTask".
            metadata: Metadata of the call.
        """
        parent, state = metadata.get("traceparent", ""), metadata.get("tracestate", "")
        name = method.removeprefix("/")
        return self._tracer.start_span(
            name,
            context=parent_of(parent, state) if isinstance(parent, str) and isinstance(state, str) else None,
            kind=SpanKind.SERVER,
            attributes={names.RPC_SYSTEM: names.GRPC, names.RPC_METHOD: name},
        )

    def end(self, span: Span, code: str, about: Mapping[str, str]) -> None:
        """Ends the span of a call with the name of its gRPC code, and the log details of a rejection."""
        if span.is_recording():
            span.set_attribute(names.RPC_STATUS, code)
            _add_details(span, about)
            if code in SERVER_FAULTS:
                span.set_attribute(names.ERROR_TYPE, code)
                span.set_status(Status(StatusCode.ERROR))
        span.end()


class RequestHead(Protocol):
    """The head of an HTTP request, as the gateway has parsed it."""

    @property
    def method(self) -> str:
        """Method."""
        ...

    @property
    def path(self) -> bytes:
        """Path as sent, without the query."""
        ...

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """Values by lower-case name."""
        ...


class RequestSpans:
    """Spans of REST requests.

    Args:
        tracer: Makes the spans.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def begin(self, head: RequestHead, route: str, *, is_tls: bool) -> tuple[Span, Mapping[bytes, bytes]]:
        """Begins the span of a request.

        Args:
            head: Head of the request.
            route: Template of the route.
            is_tls: Whether the connection is encrypted.

        Returns:
            The span, and the headers with the span as the parent of all further work, if it is recorded.
        """
        headers = head.headers
        parent = headers.get(_TRACEPARENT, b"").decode("latin-1")
        state = headers.get(_TRACESTATE, b"").decode("latin-1")
        context = parent_of(parent, state)
        span = self._tracer.start_span(
            f"{head.method} {route}",
            context=context,
            kind=SpanKind.SERVER,
            attributes={
                names.HTTP_METHOD: head.method,
                names.HTTP_ROUTE: route,
                names.URL_PATH: head.path.decode("latin-1"),
                names.URL_SCHEME: "https" if is_tls else "http",
            },
        )
        if not span.is_recording():
            return span, headers
        further = {**headers, _TRACEPARENT: traceparent_of(span).encode()}
        if context is None:
            further.pop(_TRACESTATE, None)  # it belongs to a parent that is malformed or missing
        return span, further

    def end(self, span: Span, status: int, request_id: str, about: Mapping[str, str]) -> None:
        """Ends the span of a request with its HTTP status, its id, and the log details of a rejection."""
        if span.is_recording():
            span.set_attribute(names.HTTP_STATUS, status)
            span.set_attribute(names.REQUEST_ID, request_id)
            _add_details(span, about)
            if status >= 500:
                span.set_attribute(names.ERROR_TYPE, str(status))
                span.set_status(Status(StatusCode.ERROR))
        span.end()


def _add_details(span: Span, about: Mapping[str, str]) -> None:
    for name, attribute in (
        ("reason", names.REASON),
        ("tenant", names.TENANT),
        ("task_id", names.MESSAGING_MESSAGE_ID),
    ):
        value = about.get(name)
        if value:
            span.set_attribute(attribute, value)
