"""Connections over time: half-closes, unread pipelines, and input in small pieces."""

from __future__ import annotations

import select
import socket

import pytest
from http_case import BODY, CHUNKED, CHUNKS, LENGTH, create, get, request
from raw_http import connect, exchange, read_until, replies, rest_of
from server_process import ServerProcess

LAST = get(b"Connection: close")


@pytest.mark.parametrize(
    "sent",
    [
        create(LENGTH),
        create(CHUNKED, body=CHUNKS),
        create(LENGTH, b"Upgrade: h2c", b"Connection: upgrade"),
        b"\r\n" + get(),
    ],
    ids=["length", "chunks", "upgrade", "empty line"],
)
def test_request_sent_byte_by_byte_is_served(server: ServerProcess, sent: bytes) -> None:
    with connect(server.http_url) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in sent + LAST:
            connection.send(bytes([byte]))
        served = replies(rest_of(connection))
    assert [reply.status for reply in served] == [200 if b"GET" in sent else 202, 200]


def test_half_closed_client_gets_its_reply(server: ServerProcess) -> None:
    assert [reply.status for reply in replies(exchange(server.http_url, get(), half_close=True))] == [200]


@pytest.mark.parametrize("sent", [b"", b"GET /he", create(LENGTH, body=BODY[:5]), create(CHUNKED, body=CHUNKS[:-2])])
def test_client_that_half_closes_within_a_request_gets_no_reply(server: ServerProcess, sent: bytes) -> None:
    assert exchange(server.http_url, sent, half_close=True) == b""


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        ([LENGTH, b"Expect: 100-continue"], BODY),
        ([b"expect:100-Continue\t", LENGTH], BODY),
        ([CHUNKED, b"Expect: 100-continue"], CHUNKS),
    ],
    ids=["length", "other letters", "chunks"],
)
def test_body_is_sent_after_100_continue(server: ServerProcess, lines: list[bytes], body: bytes) -> None:
    with connect(server.http_url) as connection:
        connection.sendall(create(*lines, body=b""))
        assert read_until(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body + LAST)
        assert [reply.status for reply in replies(rest_of(connection))] == [202, 200]


def test_server_stops_reading_a_pipeline_whose_replies_are_not_read(server: ServerProcess) -> None:
    """Once the server stops reading, the client can send no more than the sockets' buffers hold."""
    many = request(b"GET", b"/openapi.json") * 1_000
    with connect(server.http_url) as connection:
        connection.setblocking(False)
        sent = 0
        while select.select([], [connection], [], 2.0)[1]:
            sent += connection.send(many)
            assert sent < 64 << 20, "the server reads on"
        connection.setblocking(True)
        assert connection.recv(5) == b"HTTP/"


@pytest.mark.parametrize(
    "path", ["/healthz", "/openapi.json", "/v1/codeq/server", "/v1/codeq/tasks?pageSize=0", "/none"]
)
def test_head_returns_the_headers_of_get(server: ServerProcess, path: str) -> None:
    tokens = b"Authorization: Bearer dev-token"
    told = []
    for method in (b"GET", b"HEAD"):
        sent = request(method, path.encode(), tokens, b"X-Request-Id: same", b"Connection: close")
        (reply,) = replies(exchange(server.http_url, sent), [method.decode()])
        told.append((reply.status, {**reply.headers, "date": ""}))
        assert bool(reply.body) == (method == b"GET")
    assert told[0] == told[1]


def test_reply_to_a_malformed_request_reaches_a_client_that_keeps_sending(server: ServerProcess) -> None:
    """If the server simply closed the connection while bytes are unread, the kernel would drop its reply."""
    for _ in range(20):
        with connect(server.http_url) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n" + b"x" * 500_000)
            assert [reply.status for reply in replies(rest_of(connection))] == [400]
