"""An HTTP request and its reply, and the reply's bytes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from email.utils import formatdate
from enum import Enum
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, NamedTuple

from codeq_gateway.dispatch import Admission, Authorization
from codeq_gateway.heads import Head
from codeq_gateway.items import Refused
from codeq_gateway.routes import Operation

JSON_TYPE: Final = b"application/json"
"""Content type of request and reply bodies."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
"""Interim reply to a request with `Expect: 100-continue`."""

Headers = Mapping[bytes, bytes]
"""Headers of a request by their lower-case names."""


class End(Enum):
    """Why the call of a request was cancelled."""

    DISCONNECTED = "the client has disconnected"
    TIMED_OUT = "the call has timed out"
    STOPPED = "the server is stopping"


class Reply(NamedTuple):
    """An HTTP reply. Only the body contains data of the request, so no request can inject headers.

    Attributes:
        status: HTTP status.
        body: Body; empty: none.
        content_type: Content type of the body.
        headers: Further headers.
        about: Log details of a rejection.
    """

    status: int
    body: bytes
    content_type: bytes = JSON_TYPE
    headers: Iterable[tuple[bytes, bytes]] = ()
    about: Mapping[str, str] = MappingProxyType({})


class Exchange:
    """A request, from its head to its reply.

    Attributes:
        method: HTTP method.
        path: Path as sent.
        query: Query as sent, without the question mark.
        headers: Headers of the head.
        request_id: Id for logs and traces, echoed to the client.
        origin: Address of the client, as host:port; empty: unknown.
        started: When the head was complete, on the clock of `time.perf_counter`.
        keep_alive: Whether the connection may stay open after the reply.
        expects_continue: Whether the client waits for 100 Continue before it sends the body.
        route: Template of the route; empty: the bytes were not a request, and the exchange is not counted.
        authorization: What the sender has shown to be authenticated.
        admission: Checks whether the caller may make the call; None: this is already known.
        operation: RPC of the request; None: the request has no RPC.
        page: Renders the requested page; None: no page, or the reply is set already.
        path_values: Values of the path's variables.
        body_bytes_max: Largest body in bytes.
        body: The body.
        held_bytes: Bytes of the body that stay counted until the reply.
        refused_items: Items of the body's list that could not be decoded.
        is_complete: Whether the body is complete.
        deadline: Time at which the call is cancelled, on the clock of `started`.
        end: Why the call was cancelled; None: it was not cancelled.
        span: The span of the request; None: it has none.
        reply: The reply; None: there is no reply yet, or the client has disconnected.
        fields: Headers added to every reply.
    """

    __slots__ = (
        "admission",
        "authorization",
        "body",
        "body_bytes_max",
        "deadline",
        "end",
        "expects_continue",
        "fields",
        "headers",
        "held_bytes",
        "is_complete",
        "keep_alive",
        "method",
        "operation",
        "origin",
        "page",
        "path",
        "path_values",
        "query",
        "refused_items",
        "reply",
        "request_id",
        "route",
        "span",
        "started",
    )

    def __init__(self, head: Head, request_id: str, origin: str = "") -> None:
        self.method = head.method
        self.path = head.path
        self.query = head.query
        self.headers: Headers = head.headers
        self.request_id = request_id
        self.origin = origin
        self.started = time.perf_counter()
        self.keep_alive = head.keep_alive
        self.expects_continue = head.expects_continue
        self.route = ""
        self.authorization: Authorization = ""
        self.admission: Admission | None = None
        self.operation: Operation | None = None
        self.page: Callable[[], Awaitable[Reply]] | None = None
        self.path_values: list[str] = []
        self.body_bytes_max = 0
        self.body = b""
        self.held_bytes = 0
        self.refused_items: Refused = ()
        self.is_complete = False
        self.deadline = float("inf")
        self.end: End | None = None
        self.reply: Reply | None = None
        self.fields: Sequence[tuple[bytes, bytes]] = ()
        self.span: object | None = None


class _Dates:
    """The Date header, rendered once a second."""

    __slots__ = ("_line", "_second")

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._line = b"\r\ndate: " + formatdate(second, usegmt=True).encode()
        return self._line


_dates: Final = _Dates()
_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}


def render(reply: Reply, exchange: Exchange, *, close: bool) -> bytes:
    """Returns the bytes of a reply; `close` marks it as the connection's last."""
    status, body, content_type, headers, _ = reply
    parts = [_STATUS_LINES[status], _dates.line(), b"\r\nx-request-id: ", exchange.request_id.encode()]
    for fields in (headers, exchange.fields):
        for name, value in fields:
            parts += (b"\r\n", name, b": ", value)
    if close:
        parts.append(b"\r\nconnection: close")
    if body:
        parts += (b"\r\ncontent-type: ", content_type)
    if status == 204:
        parts.append(b"\r\n\r\n")
    else:
        parts.append(b"\r\ncontent-length: %d\r\n\r\n" % len(body))
        if exchange.method != "HEAD":
            parts.append(body)
    return b"".join(parts)
