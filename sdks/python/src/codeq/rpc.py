"""One gRPC call over HTTP/2: headers, messages and final status. Pure; no I/O."""

from __future__ import annotations

import base64
import binascii
import urllib.parse
from collections import deque
from typing import Final

from codeq import errors
from codeq.http2 import Headers
from codeq.received_errors import from_status
from codeq.version import __version__

MESSAGE_BYTES_MAX: Final = 32 * 1024 * 1024
"""Largest message accepted from a server; the server's own limits are far below."""

Metadata = tuple[tuple[str, str], ...]

_PREFIX_BYTES: Final = 5
_UNKNOWN, _UNIMPLEMENTED, _INTERNAL, _UNAVAILABLE, _UNAUTHENTICATED = 2, 12, 13, 14, 16
_CANCELLED, _PERMISSION_DENIED, _RESOURCE_EXHAUSTED = 1, 7, 8
_REFUSED_STREAM: Final = 7

_BY_HTTP_STATUS: Final = {
    400: _INTERNAL,
    401: _UNAUTHENTICATED,
    403: _PERMISSION_DENIED,
    404: _UNIMPLEMENTED,
    429: _UNAVAILABLE,
    502: _UNAVAILABLE,
    503: _UNAVAILABLE,
    504: _UNAVAILABLE,
}
"""gRPC codes of HTTP responses that are not gRPC, such as a proxy's."""

_BY_RESET: Final = {8: _CANCELLED, 11: _RESOURCE_EXHAUSTED, 12: _PERMISSION_DENIED}
"""gRPC codes by the HTTP/2 error code of a reset stream; others are INTERNAL."""


def is_of_expired_certificate(error: errors.Unauthenticated, metadata: Metadata) -> bool:
    """Returns whether a call without a token was rejected because the certificate of its connection has expired."""
    return "expiredAt" in error.metadata and "authorization" not in dict(metadata)


def headers_of(method: str, authority: str, scheme: str, metadata: Metadata, seconds: float | None) -> Headers:
    """Returns the headers of a call.

    Args:
        method: Full name of the method, such as "/codeq.v1.TaskService/GetTask".
        authority: Host and port of the server.
        scheme: "http" or "https".
        metadata: Further headers of the caller.
        seconds: Timeout sent to the server; None: no timeout.

    Raises:
        ValueError: A metadata value contains characters that cannot be sent.
    """
    told = [
        (":method", "POST"),
        (":scheme", scheme),
        (":path", method),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", f"codeq-python/{__version__}"),
    ]
    if seconds is not None:
        told.append(("grpc-timeout", _timeout(seconds)))
    for name, value in metadata:
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"{name} contains characters that cannot be sent")
        told.append((name, value))
    return [(name.encode(), value.encode()) for name, value in told]


def framed(message: bytes) -> bytes:
    """Returns a message with its gRPC length prefix."""
    return b"\0" + len(message).to_bytes(4) + message


class Call:
    """The receiving side of one call.

    Attributes:
        messages: Messages received but not yet popped.
        unread: Bytes of all messages in `messages`.
        is_over: Whether the call has ended; unpopped messages remain.
        error: Why the call failed; None: it has not failed.
        is_started: Whether any headers have arrived.
    """

    __slots__ = ("_buffer", "_http_status", "_status", "error", "is_over", "is_started", "messages", "unread")

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self.unread = 0
        self.is_over = False
        self.error: errors.CodeqError | None = None
        self.is_started = False
        self._buffer = bytearray()
        self._http_status = ""
        self._status: dict[str, str] = {}

    def take_headers(self, headers: Headers, *, is_end: bool) -> None:
        """Handles a header block: the first one, an informational one, or the trailers."""
        self.is_started = True
        told = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in headers}
        if status := told.get(":status"):
            self._http_status = status
        self._status.update(told)
        if is_end:
            self._end()

    def take_data(self, data: bytes, *, is_end: bool) -> None:
        """Handles data: whole messages and parts of messages."""
        buffer = self._buffer
        buffer += data
        at = 0
        while not self.is_over and len(buffer) - at >= _PREFIX_BYTES:
            begin = at + _PREFIX_BYTES
            size = int.from_bytes(buffer[at + 1 : begin])
            if self._http_status == "200" and (buffer[at] or size > MESSAGE_BYTES_MAX):
                text = "a compressed message" if buffer[at] else f"a message of {size} bytes"
                self.fail(errors.ServerFault(f"the server sent {text}"))
                return
            if len(buffer) - begin < size:
                break
            at = begin + size
            self.messages.append(bytes(buffer[begin:at]))
            self.unread += size
        del buffer[:at]
        if is_end:
            self._end()

    def take_reset(self, code: int) -> None:
        """Handles a reset by the server."""
        if code == _REFUSED_STREAM:
            self.fail(errors.NotSent("the server refused the stream without processing it"))
        else:
            self.fail(from_status(_BY_RESET.get(code, _INTERNAL), f"the stream was reset with code {code}", b""))

    def fail(self, error: errors.CodeqError) -> None:
        """Ends the call with an error, if it has not ended."""
        if not self.is_over:
            self.is_over = True
            self.error = error

    def pop(self) -> bytes:
        """Returns and removes the next message; there must be one."""
        message = self.messages.popleft()
        self.unread -= len(message)
        return message

    def _end(self) -> None:
        code = self._status.get("grpc-status", "")
        message = urllib.parse.unquote(self._status.get("grpc-message", ""), errors="replace")
        if code == "0":
            self.is_over = True
        elif code.isdecimal():
            self.fail(from_status(int(code), message, _binary(self._status.get("grpc-status-details-bin", ""))))
        elif self._http_status == "200":
            self.fail(from_status(_UNKNOWN, "the server ended the call without a status", b""))
        else:
            number = int(self._http_status) if self._http_status.isdecimal() else 0
            self.fail(from_status(_BY_HTTP_STATUS.get(number, _UNKNOWN), f"HTTP status {number}", b""))


def _timeout(seconds: float) -> str:
    """Returns a timeout in gRPC's format: at most eight digits and a unit."""
    milliseconds = max(1, int(seconds * 1000))
    return f"{milliseconds}m" if milliseconds < 10**8 else f"{min(milliseconds // 1000, 10**8 - 1)}S"


def _binary(value: str) -> bytes:
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4))
    except (ValueError, binascii.Error):
        return b""
