"""Every route answers requests that ask for another protocol as it answers others."""

from __future__ import annotations

import itertools
import json

import pytest
from raw_http import exchange, replies
from rest_walk import PREFIX, Send, Step, Walk
from server_process import ServerProcess

NUMBERS = itertools.count(1)

UPGRADES = {
    "curl --http2": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAA\r\n",
    "passed on by a proxy": b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    "a usual snippet for websockets": b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n",
    "an empty one": b"Upgrade: \r\nConnection: upgrade\r\n",
}


def sender(server: ServerProcess, lines: bytes, *, chunked: bool = False) -> Send:
    """Returns what sends requests with further header lines, each on a connection of its own."""

    def send(method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer dev-token\r\n".encode()
        if body is None:
            framed = b"\r\n"
        elif chunked:
            framed = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            framed = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        follower = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        reply, last = replies(exchange(server.http_url, head + lines + framed + follower))
        assert last.status == 200
        return reply.status, reply.body

    return send


def walk(server: ServerProcess, send: Send) -> list[Step]:
    """Returns the steps of a new walk."""
    return Walk(send, f"walk{next(NUMBERS)}").run()


@pytest.fixture(scope="module")
def plain(server: ServerProcess) -> list[Step]:
    """A walk without any wish."""
    return walk(server, sender(server, b""))


def test_walk_takes_every_route(server: ServerProcess, plain: list[Step]) -> None:
    get = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    document = json.loads(replies(exchange(server.http_url, get))[0].body)
    routes = {(method.upper(), _bare(path)) for path, methods in document["paths"].items() for method in methods}
    assert {(method, _bare(PREFIX + template)) for method, template, _, _ in plain} == routes


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
@pytest.mark.parametrize("lines", UPGRADES.values(), ids=UPGRADES.keys())
def test_walk_with_a_wish_for_another_protocol_is_the_same(
    server: ServerProcess, plain: list[Step], lines: bytes, chunked: bool
) -> None:
    assert walk(server, sender(server, lines, chunked=chunked)) == plain


def _bare(path: str) -> str:
    """Returns a path with its variables unnamed."""
    return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))
