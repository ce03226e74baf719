"""A rule of HTTP with a test case: a client's bytes and the server's reaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

HEAD_BYTES_MAX: Final = 64 * 1024
HEADERS_MAX: Final = 100

TASKS: Final = b"/v1/codeq/tasks"
BODY: Final = b'{"command":"rules"}'
TOKEN: Final = b"Authorization: Bearer dev-token"
CHUNKED: Final = b"Transfer-Encoding: chunked"
CHUNKS: Final = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
FOLLOWER: Final = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-Id: follower\r\n\r\n"
"""Final request, which is answered only if the connection stays open."""


@dataclass(frozen=True)
class Rule:
    """A rule with a test case.

    Attributes:
        section: Section of the RFC.
        name: Summary of the rule.
        sent: Bytes that the client sends.
        statuses: Statuses of the replies.
        closes: Whether the connection ends after the replies, so that later requests are not served.
        shows: Headers of the last reply; None: the header is absent.
    """

    section: str
    name: str
    sent: bytes
    statuses: tuple[int, ...]
    closes: bool = False
    shows: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """Method of the first request."""
        return [self.sent.lstrip().partition(b" ")[0].decode("latin-1")]


def request(
    method: bytes = b"GET",
    target: bytes = b"/healthz",
    *lines: bytes,
    version: bytes = b"HTTP/1.1",
    host: bytes | None = b"Host: 127.0.0.1",
    body: bytes = b"",
) -> bytes:
    """Returns the bytes of a request."""
    fields = [*([host] if host is not None else []), *lines]
    return b"\r\n".join([b"%b %b %b" % (method, target, version), *fields, b"", body])


def get(*lines: bytes) -> bytes:
    """Returns a request for a page with some header lines."""
    return request(b"GET", b"/healthz", *lines)


def create(*lines: bytes, body: bytes = BODY) -> bytes:
    """Returns a request that creates a task, with header lines that frame its body."""
    return request(b"POST", TASKS, TOKEN, *lines, body=body)


LENGTH: Final = b"Content-Length: %d" % len(BODY)
