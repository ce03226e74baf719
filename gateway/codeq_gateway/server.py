"""The gateway's HTTP server, running in the caller's event loop."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from functools import partial
from typing import Final

from codeq_gateway.app import Gateway
from codeq_gateway.connection import Connection
from codeq_gateway.connections import CONNECTIONS_MAX, Connections
from codeq_gateway.tls import Context, Handshakes, TlsLayer

BACKLOG: Final = 2_048
"""Default length of the kernel's accept queue, in connections."""

LOOK_SECONDS = 0.5
"""Interval between checks for timeouts, and so how late a timeout may fire."""

_CANCEL_SECONDS: Final = 1.0
"""Time that calls cancelled by a shutdown have to send their replies."""

_POLL_SECONDS: Final = 0.01
"""Interval at which a stopping server checks for remaining connections."""


class GatewayServer:
    """Serves a gateway on one address, within the running event loop.

    Args:
        gateway: Answers the requests.
        host: Name or address to listen on; empty: all interfaces.
        port: Port; 0: the system picks one.
        connections_max: Maximum number of open connections.
        backlog: Length of the kernel's accept queue, in connections. Up to this many may be accepted at once, even
            beyond `connections_max`, before the excess is closed.
        tls: Returns the TLS context for the next connection; None: plaintext.
        shared: Whether other processes of the same server listen on the same port.

    Attributes:
        gateway: Answers the requests.
        handshakes: TLS handshakes in flight and completed.
    """

    def __init__(
        self,
        gateway: Gateway,
        host: str,
        port: int,
        *,
        connections_max: int = CONNECTIONS_MAX,
        backlog: int = BACKLOG,
        tls: Context | None = None,
        shared: bool = False,
    ) -> None:
        self._shared = shared
        self.gateway = gateway
        self.handshakes = Handshakes()
        self._tls = tls
        if tls is not None:
            gateway.metrics.handshakes = self.handshakes
        self._host = host
        self._port = port
        self._connections: Connections[Connection] = Connections(connections_max)
        self._backlog = backlog
        self._listener: asyncio.Server | None = None
        self._look: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._connections)

    async def start(self) -> int:
        """Starts listening.

        Returns:
            The port.

        Raises:
            OSError: The server cannot listen on the address; the message names it.
        """
        listener = await _listen(self._host, self._port, self._backlog, shared=self._shared)
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._accepted, sock=listener, backlog=self._backlog)
        self._expire()
        port: int = listener.getsockname()[1]
        return port

    async def stop(self, grace_seconds: float) -> None:
        """Stops listening, drains running requests and cancels those that take longer than `grace_seconds`."""
        if self._listener is None:
            return
        self._listener.close()
        self._listener = None
        for connection in self._connections:
            connection.shutdown()
        await self._finish(grace_seconds)
        for connection in self._connections:
            connection.cut()
        await self._finish(_CANCEL_SECONDS)
        for connection in self._connections:
            connection.abort()
        assert self._look is not None
        self._look.cancel()
        self.handshakes.stop()

    def _accepted(self) -> asyncio.Protocol:
        """Returns the protocol of a new connection."""
        connection = Connection(self.gateway, self._connections)
        return connection if self._tls is None else TlsLayer(connection, self._tls(), self.handshakes)

    def _expire(self) -> None:
        now = time.perf_counter()
        self.handshakes.expire(now)
        for connection in self._connections:
            connection.expire(now)
        self._look = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._expire)

    async def _finish(self, seconds: float) -> None:
        """Waits until all connections are closed, for at most `seconds`."""
        end = time.perf_counter() + seconds
        while self._connections and time.perf_counter() < end:  # noqa: ASYNC110 - polled only during shutdown
            await asyncio.sleep(_POLL_SECONDS)


async def _listen(host: str, port: int, backlog: int, *, shared: bool) -> socket.socket:
    """Returns a listening socket, on the first address if the name has several."""
    create = partial(socket.create_server, backlog=backlog, reuse_port=shared)
    try:
        if not host and socket.has_dualstack_ipv6():
            return create(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)  # noqa: S104
        family, _, _, _, address = found[0]
        return create(address[:2], family=family)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {why}") from error
