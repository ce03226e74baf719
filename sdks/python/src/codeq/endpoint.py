"""Where the server is and how to be let in: address, token, transport security, channel options."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Final

import grpc

from codeq import cluster
from codeq.errors import Unavailable
from codeq.servers import Servers
from codeq.v1 import cluster_service_pb2

PRODUCER_ADDRESS_VARIABLE: Final = "CODEQ_PRODUCER_ADDR"
WORKER_ADDRESS_VARIABLE: Final = "CODEQ_WORKER_ADDR"
TOKEN_VARIABLE: Final = "CODEQ_TOKEN"  # noqa: S105 - the name of a variable

PRODUCER_ADDRESS_DEFAULT: Final = "localhost:9092"
WORKER_ADDRESS_DEFAULT: Final = "localhost:9091"

MESSAGE_BYTES_MAX: Final = 32 * 1024 * 1024
"""Largest message taken from a server; the server's own bounds are far below."""

_KEEPALIVE_MS: Final = 15_000
_KEEPALIVE_TIMEOUT_MS: Final = 5_000
_RECONNECT_FIRST_MS: Final = 100
_RECONNECT_MAX_MS: Final = 1_000
_CONNECT_MS_MAX: Final = 3_000

_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # A server that vanished without a word is noticed within 20 s instead of never.
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    # The time for an answer to any ping, those of keepalive too; 60 s by itself.
    ("grpc.http2.ping_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", _RECONNECT_FIRST_MS),
    ("grpc.max_reconnect_backoff_ms", _RECONNECT_MAX_MS),
    # Despite its name the time that one attempt to connect may take; 20 s by itself.
    ("grpc.min_reconnect_backoff_ms", _CONNECT_MS_MAX),
    # Each channel has connections of its own: a new stream may then reach another server behind the same name.
    ("grpc.use_local_subchannel_pool", 1),
)

Token = str | Callable[[], str] | None
"""A token, or a function that returns one; it is called for each call and stream, in a thread that may block."""

Tls = bool | grpc.ChannelCredentials
"""False: plaintext; True: TLS with the system's roots; or credentials of grpc."""

Address = str | Sequence[str] | None
"""Host and port of a server; or those of several that form a cluster, as a sequence or separated by commas."""

Metadata = tuple[tuple[str, str], ...]


class Endpoint:
    """Makes channels to a server, or to the servers of a cluster, and the metadata of their calls.

    Attributes:
        servers: The servers, and which of them to go to.
    """

    def __init__(self, address: str | Sequence[str], token: Token, tls: Tls) -> None:
        addresses = address.split(",") if isinstance(address, str) else address
        self.servers = Servers([each.strip() for each in addresses if each.strip()])
        self._token = token
        if tls is True:
            self._credentials: grpc.ChannelCredentials | None = grpc.ssl_channel_credentials()
        else:
            self._credentials = tls or None

    @classmethod
    def for_producer(cls, address: Address, token: Token, tls: Tls) -> Endpoint:
        """An endpoint; what is None comes from CODEQ_PRODUCER_ADDR and CODEQ_TOKEN."""
        return cls(address or _setting(PRODUCER_ADDRESS_VARIABLE, PRODUCER_ADDRESS_DEFAULT), _token(token), tls)

    @classmethod
    def for_worker(cls, address: Address, token: Token, tls: Tls) -> Endpoint:
        """An endpoint; what is None comes from CODEQ_WORKER_ADDR and CODEQ_TOKEN."""
        return cls(address or _setting(WORKER_ADDRESS_VARIABLE, WORKER_ADDRESS_DEFAULT), _token(token), tls)

    @property
    def address(self) -> str:
        """The server to go to now."""
        return self.servers.current

    @property
    def token_is_renewable(self) -> bool:
        """Whether the next metadata may carry another token than the last."""
        return callable(self._token)

    def channel(self, address: str) -> grpc.Channel:
        """A new channel to a server, for calls that block."""
        if self._credentials is None:
            return grpc.insecure_channel(address, options=_OPTIONS)
        return grpc.secure_channel(address, self._credentials, options=_OPTIONS)

    def aio_channel(self, address: str) -> grpc.aio.Channel:
        """A new channel to a server, of the running event loop."""
        if self._credentials is None:
            return grpc.aio.insecure_channel(address, options=_OPTIONS)
        return grpc.aio.secure_channel(address, self._credentials, options=_OPTIONS)

    def metadata(self) -> Metadata:
        """Metadata of the next call; calls the token's function.

        Raises:
            Unavailable: The function failed.
        """
        try:
            token = self._token() if callable(self._token) else self._token
        except Exception as error:
            raise Unavailable(f"no token: {type(error).__name__}: {error}") from error
        return (("authorization", f"Bearer {token}"),) if token else ()

    async def aio_metadata(self) -> Metadata:
        """Metadata of the next call; a token's function runs in a thread, for it may ask a server."""
        return await asyncio.to_thread(self.metadata) if callable(self._token) else self.metadata()

    async def refresh(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        """Ask a server for the members of its cluster; without an answer those known so far stay."""
        ask: grpc.aio.UnaryUnaryMultiCallable[
            cluster_service_pb2.GetTopologyRequest, cluster_service_pb2.GetTopologyResponse
        ] = channel.unary_unary(
            cluster.TOPOLOGY,
            cluster_service_pb2.GetTopologyRequest.SerializeToString,
            cluster_service_pb2.GetTopologyResponse.FromString,
        )
        request = cluster_service_pb2.GetTopologyRequest()
        with contextlib.suppress(grpc.RpcError, grpc.aio.UsageError):
            reply = await ask(request, timeout=cluster.TOPOLOGY_SECONDS_MAX, metadata=metadata)
            self.servers.learn(cluster.addresses(reply))


def _setting(variable: str, default: str) -> str:
    return os.environ.get(variable) or default


def _token(token: Token) -> Token:
    return token if token is not None else os.environ.get(TOKEN_VARIABLE) or None
