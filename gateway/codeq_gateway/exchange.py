"""One HTTP request and what becomes of it, and the bytes of its reply."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from email.utils import formatdate
from enum import Enum
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, NamedTuple

from codeq_gateway.dispatch import Admission
from codeq_gateway.heads import Head
from codeq_gateway.items import Refused
from codeq_gateway.routes import Operation

JSON_TYPE: Final = b"application/json"
"""Content type of bodies."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
"""What a client waits for that asked whether its body is wanted."""

Headers = Mapping[bytes, bytes]
"""Headers of a request by their lower-case names."""


class End(Enum):
    """Why the call of a request was cancelled."""

    DISCONNECTED = "the client has left"
    TIMED_OUT = "the time of the call is over"
    STOPPED = "the server is stopping"


class Reply(NamedTuple):
    """An HTTP reply. Nothing in it but the body comes from a request, so that no request can add headers to it.

    Attributes:
        status: HTTP status.
        body: Body; empty: none.
        content_type: Content type of the body.
        headers: Further headers.
        about: What the log tells of a refusal.
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
        started: When the head was complete, on the clock of `time.perf_counter`.
        keep_alive: Whether the connection may go on after the reply.
        expects_continue: Whether the client waits to be told that its body is wanted.
        route: Template of the route; empty: the bytes were no request, and nobody counts it.
        admission: What finds out whether the caller may make the call; None: it is known.
        operation: RPC that the request asks for; None: none.
        page: What renders the page that the request asks for; None: none, or it has its reply already.
        path_values: Values of the path's variables.
        body_bytes_max: Bytes that the body may have.
        body: The body.
        held_bytes: Bytes of the body that are counted until the reply.
        refused_items: Items of the body's list that could not be decoded.
        is_complete: Whether the body has come to its end.
        deadline: When the call is cancelled, on the clock of `started`.
        end: Why the call was cancelled; None: it was not.
        reply: The reply; None: there is none yet, or nobody to read it.
        fields: Further headers of the reply, whatever it is.
    """

    __slots__ = (
        "admission",
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
        "page",
        "path",
        "path_values",
        "query",
        "refused_items",
        "reply",
        "request_id",
        "route",
        "started",
    )

    def __init__(self, head: Head, request_id: str) -> None:
        self.method = head.method
        self.path = head.path
        self.query = head.query
        self.headers: Headers = head.headers
        self.request_id = request_id
        self.started = time.perf_counter()
        self.keep_alive = head.keep_alive
        self.expects_continue = head.expects_continue
        self.route = ""
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


class _Dates:
    """The date of replies, rendered once a second."""

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
    """Returns the bytes of a reply; `close`: it is the connection's last."""
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
