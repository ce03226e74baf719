"""The HTTP server that carries the gateway: uvicorn in the caller's event loop, with every wait and size bounded."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any, Final

import uvicorn
from httptools import HttpParserError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from codeq_gateway import refusals
from codeq_gateway.app import Gateway

HEAD_BYTES_MAX: Final = 64 * 1024
"""Bytes of a request's head that may come before it is complete; checked after each read."""

HEADERS_MAX: Final = 100
"""Headers of a request."""

REQUEST_SECONDS: Final = 60.0
"""Time from a connection's or a request's first byte to the request's last."""

IDLE_SECONDS: Final = 75
"""Time a kept connection may be without a request, or take to read the last reply."""

CONNECTIONS_MAX: Final = 10_000
"""Open connections; further ones are closed at once."""

DISCARD_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of a refused body that are read and dropped, so that its sender sees the refusal; then the connection ends."""

BACKLOG: Final = 2_048
"""Connections that the kernel holds until they are accepted."""

_CANCEL_SECONDS: Final = 1.0
"""Time that calls cancelled by a stop have for their last words."""


class _OneWrite:
    """Transport that sends what one turn of the event loop writes at once: head and body of a reply are two writes."""

    __slots__ = (
        "_held",
        "_loop",
        "_transport",
        "abort",
        "get_extra_info",
        "is_closing",
        "pause_reading",
        "resume_reading",
    )

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self.abort = transport.abort
        self.get_extra_info = transport.get_extra_info
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held and not self._transport.is_closing():
            self._transport.write(b"".join(self._held))
        self._held.clear()


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 connection of uvicorn that a silent, slow or endless client cannot keep."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reading = False
        self._head_bytes = 0
        self._discarded_bytes = 0
        self._request_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a connection, or closes it where there are too many."""
        super().connection_made(_OneWrite(transport, self.loop))  # type: ignore[arg-type]
        if len(self.connections) > CONNECTIONS_MAX:
            transport.abort()
            return
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Lets go of a connection."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes bytes of requests."""
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._reading or self.cycle is None or self.cycle.response_complete:
            # More of a request has to come: no reply's keep-alive time runs now, so this time does.
            self._arm()
            if self.scope is not None and self._reading and "path" not in self.scope:
                self._head_bytes += len(data)
                if self._head_bytes > HEAD_BYTES_MAX:
                    self.send_400_response("the head of the request is too large")
        elif self._request_timer is not None:
            self._disarm()

    def on_message_begin(self) -> None:
        """Begins a request."""
        super().on_message_begin()
        self._reading = True
        self._head_bytes = 0
        self._discarded_bytes = 0

    def on_headers_complete(self) -> None:
        """Begins to answer a request."""
        if len(self.headers) > HEADERS_MAX:
            raise HttpParserError(f"more than {HEADERS_MAX} headers")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Takes a piece of a body."""
        if self.cycle.response_complete:
            self._discarded_bytes += len(body)
            if self._discarded_bytes > DISCARD_BYTES_MAX:
                self.transport.abort()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Ends a request."""
        self._reading = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuses bytes that are no HTTP request, and ends the connection."""
        body = refusals.error_body(refusals.invalid_body(msg), str)
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """Ends a connection that was idle for too long, or whose client does not read its reply."""
        self.transport.abort()

    def _arm(self) -> None:
        if self._request_timer is None:
            self._request_timer = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _disarm(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None


class GatewayServer:
    """Serves a gateway on one address, within the running event loop.

    Args:
        gateway: Application to serve.
        host: Name or address to listen on; empty: every address of the machine.
        port: Port; 0: one the system chooses.

    Attributes:
        gateway: The application.
    """

    def __init__(self, gateway: Gateway, host: str, port: int) -> None:
        self.gateway = gateway
        self._host = host
        self._port = port
        self._config = uvicorn.Config(
            gateway,
            interface="asgi3",
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=IDLE_SECONDS,
            backlog=BACKLOG,
        )
        self._server = uvicorn.Server(self._config)
        self._ticking: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._server.server_state.connections)

    async def start(self) -> int:
        """Starts to listen.

        Returns:
            The port.

        Raises:
            OSError: The address cannot be listened on; the message names it.
        """
        listener = await _listen(self._host, self._port)
        self._config.load()
        self._server.lifespan = self._config.lifespan_class(self._config)
        await self._server.startup(sockets=[listener])
        self._ticking = asyncio.create_task(self._server.main_loop())
        port: int = listener.getsockname()[1]
        return port

    async def stop(self, grace_seconds: float) -> None:
        """Stops listening, lets running requests finish, and cancels those that take longer than `grace_seconds`."""
        if self._ticking is None:
            return
        self._ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._ticking
        self._ticking = None
        for listener in self._server.servers:
            listener.close()
        state = self._server.server_state
        for connection in list(state.connections):
            connection.shutdown()
        await _finish(state.tasks, grace_seconds)
        for task in state.tasks:
            task.cancel()
        await _finish(state.tasks, _CANCEL_SECONDS)
        for connection in list(state.connections):
            connection.transport.abort()


async def _finish(tasks: set[asyncio.Task[None]], seconds: float) -> None:
    """Waits until the set is empty, at most so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while tasks:
                await asyncio.wait(set(tasks))


async def _listen(host: str, port: int) -> socket.socket:
    """Returns a bound socket; where a name has several addresses, on the first."""
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)  # noqa: S104
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {why}") from error
