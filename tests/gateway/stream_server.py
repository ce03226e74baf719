"""A gRPC server whose call streams and reflection lead to a dispatcher, and a gateway's connection to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

from codeq_gateway.bodies import InFlight
from codeq_gateway.dispatch import Call, CallFailed, Dispatcher
from codeq_gateway.links import open_channel
from codeq_gateway.reflection import Schema, read_schema
from codeq_gateway.remote import RemoteDispatcher
from codeq_server.core.errors import Reason, Rejection
from codeq_server.node.listeners import new_server
from codeq_server.services.call_stream import CallMethod, CallStreams, ServerProbes
from google.protobuf import message_factory
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection
from task_double import SERVICES

CONNECTIONS_MAX = 64
RETRY_SECONDS = 0.5
"""How long calls are retried in these tests."""


class _Method:
    def __init__(self, request_class: type[Message]) -> None:
        self.parse: Callable[[bytes], Any] = request_class.FromString


SECRET = "secret of the gateways"


class _Calls:
    """Calls of a server, answered by a dispatcher."""

    def __init__(self, answers: Dispatcher) -> None:
        self._answers = answers
        self.denials: list[tuple[str, Reason, str]] = []
        self.methods: dict[str, CallMethod] = {
            f"/{service.full_name}/{method.name}": _Method(message_factory.GetMessageClass(method.input_type))
            for service in SERVICES
            for method in service.methods
        }

    def denied(self, name: str, rejection: Rejection, origin: str) -> None:
        self.denials.append((name, rejection.reason, origin))

    def known(self, name: str, authorization: str) -> str | None:
        try:
            check = self._answers.admit(name, authorization, "")
        except CallFailed as failed:
            raise Rejection(Reason(failed.reason), failed.message, failed.violations, failed.metadata) from None
        return authorization if check is None else None

    async def authenticate(self, name: str, authorization: str) -> str:
        try:
            check = self._answers.admit(name, authorization, "")
            if check is not None:
                await check()
        except CallFailed as failed:
            raise Rejection(Reason(failed.reason), failed.message, failed.violations, failed.metadata) from None
        return authorization

    async def carry_out(
        self, name: str, _: str, request: Any, authorization: str, *, stale: bool, origin: str, **__: bool
    ) -> Message:
        try:
            return await self._answers.call(
                Call(name, request, authorization, "", 0, consistency="stale" if stale else "", origin=origin)
            )
        except CallFailed as failed:
            raise Rejection(Reason(failed.reason), failed.message, failed.violations, failed.metadata) from None


class StreamServer:
    """A server on a port of the loopback address.

    Args:
        answers: Answers the calls.
        port: Port; 0: any free one.
        secret: Its secret.

    Attributes:
        address: Its gRPC listener.
        streams: Its call streams.
        defects: Failures other than rejections.
        known: Peers of connections on which the secret was shown.
        denials: Methods, reasons and origins of rejected calls, and of streams without the secret.
    """

    def __init__(self, answers: Dispatcher, port: int = 0, secret: str = SECRET) -> None:
        self.defects: list[BaseException] = []
        self.known: list[str] = []
        self._server = new_server(CONNECTIONS_MAX)
        self.address = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{port}')}"
        probes = ServerProbes(lambda: (True, {"fsync": True}), _metrics, _metrics)
        calls = _Calls(answers)
        self.streams = CallStreams(
            calls,
            InFlight(),
            [secret],
            None,
            probes,
            self.known.append,
            None,
            lambda _, problem: self.defects.append(problem),
        )
        self.denials = calls.denials
        self.streams.register(self._server)
        reflection.enable_server_reflection([service.full_name for service in SERVICES], self._server)

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)

    async def stop(self) -> None:
        """Ends at once, as if the server had crashed."""
        await self._server.stop(0)

    async def drain(self) -> None:
        """Stops gracefully, after open calls are answered."""
        self.streams.end()
        await self._server.stop(10)


@asynccontextmanager
async def remote(
    *addresses: str, retry_seconds: float = RETRY_SECONDS
) -> AsyncIterator[tuple[Schema, RemoteDispatcher]]:
    """Yields the schema of the first server and a dispatcher that uses all of them."""
    async with open_channel(addresses[0]) as channel:
        schema = await read_schema(channel)
    dispatcher = RemoteDispatcher(addresses, schema.pool, schema.services, SECRET, retry_seconds)
    try:
        yield schema, dispatcher
    finally:
        await dispatcher.close()


async def _metrics() -> bytes:
    return b"double 1\n"
