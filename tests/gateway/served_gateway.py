"""A gateway on a port of its own in front of a small queue, in its process or over a call stream."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx
from codeq_gateway.app import Gateway, Probes
from codeq_gateway.connections import CONNECTIONS_MAX
from codeq_gateway.dispatch import Dispatcher
from codeq_gateway.metrics import HttpMetrics
from codeq_gateway.server import GatewayServer
from google.protobuf.descriptor import ServiceDescriptor
from prometheus_client import CollectorRegistry, generate_latest
from stream_server import StreamServer, remote
from task_double import SERVICES, TaskDouble


@dataclass
class Served:
    """A running gateway.

    Attributes:
        server: The server.
        port: Its port on the loopback address.
        double: The dispatcher that answers its calls.
        http: Client of the server.
        lines: Access lines: method, route, status, request id.
        is_ready: The result of the readiness probe.
    """

    server: GatewayServer
    port: int
    double: TaskDouble
    http: httpx.AsyncClient
    lines: list[tuple[str, str, int, str]]
    is_ready: list[bool] = field(default_factory=lambda: [True])

    async def exchange(self, request: bytes) -> bytes:
        """Returns everything the server answers to some bytes until it closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            await writer.drain()
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()


@asynccontextmanager
async def serving(
    allowed_hosts: frozenset[str] | None = None,
    *,
    apart: bool = False,
    cors_origins: Sequence[str] = (),
    tls: Callable[[], ssl.SSLContext] | None = None,
    connections_max: int = CONNECTIONS_MAX,
) -> AsyncIterator[Served]:
    """Serves a gateway during the block; with `apart`, its calls take a call stream to the dispatcher.

    `tls` is as in GatewayServer; the clients in `Served` speak plaintext.
    """
    double = TaskDouble()
    async with AsyncExitStack() as stack:
        stack.callback(double.released.set)
        services: Iterable[ServiceDescriptor] = SERVICES
        dispatcher: Dispatcher = double
        if apart:
            server = await stack.enter_async_context(StreamServer(double))
            schema, dispatcher = await stack.enter_async_context(remote(server.address))
            services = schema.services
        yield await _serve(stack, double, services, dispatcher, allowed_hosts, cors_origins, tls, connections_max)


async def _serve(
    stack: AsyncExitStack,
    double: TaskDouble,
    services: Iterable[ServiceDescriptor],
    dispatcher: Dispatcher,
    allowed_hosts: frozenset[str] | None,
    cors_origins: Sequence[str],
    tls: Callable[[], ssl.SSLContext] | None,
    connections_max: int,
) -> Served:
    lines: list[tuple[str, str, int, str]] = []
    metrics = HttpMetrics()
    registry = CollectorRegistry()
    registry.register(metrics)
    is_ready = [True]

    async def ready() -> tuple[bool, Mapping[str, object]]:
        return is_ready[0], {"fsync": True}

    async def shown() -> bytes:
        return generate_latest(registry)

    gateway = Gateway(
        services,
        dispatcher,
        Probes(ready, shown, lambda: "" if is_ready[0] else "no vote yet"),
        metrics,
        access_log=lambda method, route, status, _seconds, request_id, _about: lines.append(
            (method, route, status, request_id)
        ),
        allowed_hosts=allowed_hosts,
        version="1.2.3",
        cors_origins=cors_origins,
    )
    server = GatewayServer(gateway, "127.0.0.1", 0, tls=tls, connections_max=connections_max)
    port = await server.start()
    stack.push_async_callback(server.stop, 1)
    stack.callback(double.released.set)
    http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30)
    await stack.enter_async_context(http)
    return Served(server, port, double, http, lines, is_ready)


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition, at most half a minute."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what a server does to its sockets sets no event
            await asyncio.sleep(0.005)
