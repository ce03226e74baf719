"""Requests of a walk on bare sockets, with further header lines."""

from __future__ import annotations

from raw_http import exchange, replies
from rest_walk import Send

UPGRADES = {
    "curl --http2": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAA\r\n",
    "passed on by a proxy": b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    "a usual snippet for websockets": b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n",
    "an empty one": b"Upgrade: \r\nConnection: upgrade\r\n",
}


def sender(url: str, lines: bytes = b"", *, chunked: bool = False) -> Send:
    """Returns a function that sends each request with further header lines, on a new connection."""

    def send(method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer dev-token\r\n".encode()
        if body is None:
            framed = b"\r\n"
        elif chunked:
            framed = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            framed = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        follower = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        reply, last = replies(exchange(url, head + lines + framed + follower))
        assert last.status == 200
        return reply.status, reply.body

    return send
