"""HTTP on bare sockets: exact bytes, and the replies to them one by one."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from tls_socket import TlsSocket

ANSWER_SECONDS_MAX: Final = 30.0
_BODILESS: Final = frozenset({100, 204, 304})


@dataclass(frozen=True)
class Reply:
    """A reply: status, headers by lower-case name, and body."""

    status: int
    headers: dict[str, str]
    body: bytes


def connect(url: str) -> socket.socket | TlsSocket:
    """Returns a connection to a server, over TLS if its URL says so; any certificate is accepted."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = socket.create_connection((parts.hostname, parts.port or 80), timeout=ANSWER_SECONDS_MAX)
    if parts.scheme == "http":
        return connection
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return TlsSocket(connection, context, None)


def exchange(url: str, sent: bytes, *, half_close: bool = False) -> bytes:
    """Returns everything that a server answers to some bytes until it closes the connection."""
    with connect(url) as connection:
        connection.sendall(sent)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        return rest_of(connection)


def rest_of(connection: socket.socket | TlsSocket) -> bytes:
    """Returns everything received until the server closes the connection."""
    answer = bytearray()
    while piece := connection.recv(65_536):
        answer += piece
    return bytes(answer)


def read_until(connection: socket.socket | TlsSocket, end: bytes) -> bytes:
    """Returns the input up to and including some bytes."""
    answer = bytearray()
    while not answer.endswith(end):
        piece = connection.recv(1)
        assert piece, f"the connection ended after {bytes(answer)!r}"
        answer += piece
    return bytes(answer)


def replies(answer: bytes, methods: Sequence[str] = ()) -> list[Reply]:
    """Returns the replies in the bytes of a connection.

    Args:
        answer: The bytes.
        methods: Methods of the requests in order; only needed if one of them is HEAD.
    """
    found = []
    finals = 0
    while answer:
        head, separator, answer = answer.partition(b"\r\n\r\n")
        assert separator, f"a head without end: {head!r}"
        line, *fields = head.decode("ascii").split("\r\n")
        version, code, _ = line.split(" ", 2)
        assert version == "HTTP/1.1"
        status = int(code)
        headers: dict[str, str] = {}
        for field in fields:
            name, colon, value = field.partition(": ")
            assert colon, f"a header without a colon: {field!r}"
            assert name.lower() not in headers, f"twice: {name}"
            headers[name.lower()] = value
        size = int(headers.get("content-length", 0))
        if status in _BODILESS:
            assert "content-length" not in headers
            assert "transfer-encoding" not in headers
        if finals < len(methods) and methods[finals] == "HEAD":
            size = 0
        finals += status >= 200
        assert len(answer) >= size, "a body is cut off"
        found.append(Reply(status, headers, answer[:size]))
        answer = answer[size:]
    return found
