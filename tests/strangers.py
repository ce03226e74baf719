"""Thousands of connections that send little or nothing, show no token and stay open."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

LIMITED: Final = ("sh", "-c", 'ulimit -n 1024; exec "$@"', "sh")
"""Command prefix that limits a server to 1024 open files."""

HTTP2: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""First bytes of a gRPC client: the preface and empty settings."""

HEALTH: Final = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
GREETING_SECONDS: Final = 20
"""Time allowed for sending the greeting."""

BURST: Final = 500
"""Number of connections started before other tasks get a turn."""


class Strangers:
    """Opens connections and holds them.

    Args:
        ports: Ports of the loopback address that each get connections.
        count: Number of connections for each port.
        greeting: Bytes that each connection sends first.
    """

    def __init__(self, ports: Sequence[int], count: int, greeting: bytes) -> None:
        self._ports, self._count, self._greeting = ports, count, greeting
        self._sockets: list[socket.socket] = []

    async def come(self) -> None:
        """Opens all connections, as fast as the machine can."""
        for number in range(self._count):
            for port in self._ports:
                stranger = socket.socket()
                stranger.setblocking(False)
                self._sockets.append(stranger)
                stranger.connect_ex(("127.0.0.1", port))
            if number % BURST == BURST - 1:
                await asyncio.sleep(0)
        if self._greeting:
            await asyncio.gather(*(self._greet(stranger) for stranger in self._sockets))

    async def _greet(self, stranger: socket.socket) -> None:
        with suppress(OSError, TimeoutError):  # the connection was rejected, or nobody reads the whole greeting
            async with asyncio.timeout(GREETING_SECONDS):
                await asyncio.get_running_loop().sock_sendall(stranger, self._greeting)

    def open(self) -> int:
        """Drops the replies and returns the number of connections that the other side has not closed."""
        return sum(map(_is_open, self._sockets))

    def leave(self) -> None:
        """Closes all connections."""
        for stranger in self._sockets:
            stranger.close()


def _is_open(stranger: socket.socket) -> bool:
    try:
        while stranger.recv(65_536):
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


@contextmanager
def strangers(ports: Sequence[int], count: int, greeting: bytes) -> Iterator[Strangers]:
    """Yields strangers that leave at the end; raises this process's limit on open files as needed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    crowd = Strangers(ports, count, greeting)
    try:
        yield crowd
    finally:
        crowd.leave()
