"""Where the server is and how to be let in: address, token, transport security, channel options."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

import grpc

from codeq.errors import Unavailable

PRODUCER_ADDRESS_VARIABLE: Final = "CODEQ_PRODUCER_ADDR"
WORKER_ADDRESS_VARIABLE: Final = "CODEQ_WORKER_ADDR"
TOKEN_VARIABLE: Final = "CODEQ_TOKEN"  # noqa: S105 - the name of a variable

PRODUCER_ADDRESS_DEFAULT: Final = "localhost:9092"
WORKER_ADDRESS_DEFAULT: Final = "localhost:9091"

MESSAGE_BYTES_MAX: Final = 32 * 1024 * 1024
"""Largest message taken from a server; the server's own bounds are far below."""

_KEEPALIVE_MS: Final = 30_000
_KEEPALIVE_TIMEOUT_MS: Final = 10_000
_RECONNECT_FIRST_MS: Final = 100
_RECONNECT_MAX_MS: Final = 5_000

_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # A server that vanished without a word is noticed within 40 s instead of never.
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", _RECONNECT_FIRST_MS),
    ("grpc.max_reconnect_backoff_ms", _RECONNECT_MAX_MS),
    # Each channel has connections of its own: a new stream may then reach another server behind the same name.
    ("grpc.use_local_subchannel_pool", 1),
)

Token = str | Callable[[], str] | None
"""A token, or a function that returns one; it is called for each call and stream, in a thread that may block."""

Tls = bool | grpc.ChannelCredentials
"""False: plaintext; True: TLS with the system's roots; or credentials of grpc."""

Metadata = tuple[tuple[str, str], ...]


class Endpoint:
    """Makes channels to one server and the metadata of their calls. Immutable."""

    def __init__(self, address: str, token: Token, tls: Tls) -> None:
        self.address = address
        self._token = token
        if tls is True:
            self._credentials: grpc.ChannelCredentials | None = grpc.ssl_channel_credentials()
        else:
            self._credentials = tls or None

    @classmethod
    def for_producer(cls, address: str | None, token: Token, tls: Tls) -> Endpoint:
        """An endpoint; what is None comes from CODEQ_PRODUCER_ADDR and CODEQ_TOKEN."""
        return cls(address or _setting(PRODUCER_ADDRESS_VARIABLE, PRODUCER_ADDRESS_DEFAULT), _token(token), tls)

    @classmethod
    def for_worker(cls, address: str | None, token: Token, tls: Tls) -> Endpoint:
        """An endpoint; what is None comes from CODEQ_WORKER_ADDR and CODEQ_TOKEN."""
        return cls(address or _setting(WORKER_ADDRESS_VARIABLE, WORKER_ADDRESS_DEFAULT), _token(token), tls)

    @property
    def token_is_renewable(self) -> bool:
        """Whether the next metadata may carry another token than the last."""
        return callable(self._token)

    def channel(self) -> grpc.Channel:
        """A new channel for calls that block."""
        if self._credentials is None:
            return grpc.insecure_channel(self.address, options=_OPTIONS)
        return grpc.secure_channel(self.address, self._credentials, options=_OPTIONS)

    def aio_channel(self) -> grpc.aio.Channel:
        """A new channel of the running event loop."""
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.address, options=_OPTIONS)
        return grpc.aio.secure_channel(self.address, self._credentials, options=_OPTIONS)

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


def _setting(variable: str, default: str) -> str:
    return os.environ.get(variable) or default


def _token(token: Token) -> Token:
    return token if token is not None else os.environ.get(TOKEN_VARIABLE) or None
