"""How to reach a server: address, token, transport security."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Final, cast

from google.protobuf.message import DecodeError

from codeq import arguments, cluster
from codeq.async_transport import AsyncChannel
from codeq.blocking_transport import BlockingChannel
from codeq.dialing import Target, aside
from codeq.errors import CodeqError, Unavailable
from codeq.rpc import Metadata
from codeq.servers import Servers
from codeq.texts import text_of
from codeq.tls import Tls, shows_certificate, source_of
from codeq.v1 import cluster_service_pb2

PRODUCER_ADDRESS_VARIABLE: Final = "CODEQ_PRODUCER_ADDR"
WORKER_ADDRESS_VARIABLE: Final = "CODEQ_WORKER_ADDR"
TOKEN_VARIABLE: Final = "CODEQ_TOKEN"  # noqa: S105 - the name of a variable

PRODUCER_ADDRESS_DEFAULT: Final = "localhost:9092"
WORKER_ADDRESS_DEFAULT: Final = "localhost:9091"

TOKEN_SECONDS_MAX: Final = 30.0
"""Longest wait for a token function, unless the call times out earlier."""

Token = str | Callable[[], str] | None
"""A token, or a function that returns one; it is called for each call and stream, in a thread where it may block, and
when the token of a stream is about to expire.

Calls that start while it runs share its result.
"""

Address = str | Sequence[str] | None
"""Host and port of a server, or of several members of a cluster, as a sequence or separated by commas."""


class Endpoint:
    """Makes channels to a server or cluster, and the metadata of their calls.

    Attributes:
        servers: The servers, and which of them is the current one.
    """

    def __init__(self, address: str | Sequence[str], token: Token, tls: Tls) -> None:
        known = arguments.addresses(address)
        for each in known:
            Target.parse(each)
        self.servers = Servers(known)
        self._token = token
        self._asked: Future[str | None] | None = None
        self._source = source_of(tls)

    @classmethod
    def for_producer(cls, address: Address, token: Token, tls: Tls) -> Endpoint:
        """Returns an endpoint; None is replaced by CODEQ_PRODUCER_ADDR and CODEQ_TOKEN."""
        return cls(address or _setting(PRODUCER_ADDRESS_VARIABLE, PRODUCER_ADDRESS_DEFAULT), _token(token), tls)

    @classmethod
    def for_worker(cls, address: Address, token: Token, tls: Tls) -> Endpoint:
        """Returns an endpoint; None is replaced by CODEQ_WORKER_ADDR and CODEQ_TOKEN."""
        return cls(address or _setting(WORKER_ADDRESS_VARIABLE, WORKER_ADDRESS_DEFAULT), _token(token), tls)

    @property
    def address(self) -> str:
        """The current server."""
        return self.servers.current

    @property
    def token_is_renewable(self) -> bool:
        """Whether the next call may carry a different token, or the next connection show a different certificate."""
        return callable(self._token) or self.is_certified

    @property
    def is_certified(self) -> bool:
        """Whether calls carry no token, and connections show a certificate instead."""
        return not self._token and shows_certificate(self._source)

    def channel(self, address: str) -> BlockingChannel:
        """Returns a new channel to a server, for blocking calls."""
        return BlockingChannel(address, self._source)

    def aio_channel(self, address: str) -> AsyncChannel:
        """Returns a new channel to a server, on the running event loop."""
        return AsyncChannel(address, self._source)

    def metadata(self, seconds: float = TOKEN_SECONDS_MAX) -> Metadata:
        """Returns the metadata of the next call; calls the token function.

        Args:
            seconds: Longest wait for the function.

        Raises:
            Unavailable: The function failed or timed out.
        """
        if not callable(self._token):
            return _bearer(self._token)
        asked = self._ask()
        try:
            return _bearer(asked.result(seconds))
        except TimeoutError:
            raise Unavailable(f"no token: the token function did not return within {seconds:.1f} s") from None
        except Exception as error:
            raise Unavailable(f"no token: {text_of(error)}") from error

    async def aio_metadata(self) -> Metadata:
        """Returns the metadata of the next call; see `aio_token`."""
        return _bearer(await self.aio_token())

    async def aio_token(self) -> str | None:
        """Returns the token of the next call; the caller sets the timeout.

        Raises:
            Unavailable: The token function failed.
        """
        if not callable(self._token):
            return self._token
        try:
            return await asyncio.shield(asyncio.wrap_future(self._ask()))
        except Exception as error:
            raise Unavailable(f"no token: {text_of(error)}") from error

    async def refresh(self, channel: AsyncChannel, metadata: Metadata) -> None:
        """Asks a server for the members of its cluster. If the server does not answer, the known members stay."""
        with contextlib.suppress(CodeqError, DecodeError):
            reply = await channel.unary(cluster.TOPOLOGY, cluster.QUESTION, metadata, cluster.TOPOLOGY_SECONDS_MAX)
            self.servers.learn(cluster.addresses(cluster_service_pb2.GetTopologyResponse.FromString(reply)))

    def _ask(self) -> Future[str | None]:
        """Calls the token function unless it is already running, so that a function that hangs costs one thread."""
        if self._asked is None or self._asked.done():
            function = cast("Callable[[], object]", self._token)
            self._asked = aside(lambda: _told(function))
        return self._asked


def _told(function: Callable[[], object]) -> str | None:
    """Returns the token that a token function returns.

    Raises:
        Exception: The function raised this exception.
        RuntimeError: The function raised an exception that would end its callers or their event loop, or did not return
            a str.
    """
    try:
        token = function()
    except (GeneratorExit, KeyboardInterrupt, StopIteration, SystemExit, asyncio.CancelledError) as error:
        raise RuntimeError(text_of(error)) from error
    if token is not None and not isinstance(token, str):
        if isinstance(token, Coroutine):
            token.close()
        raise RuntimeError(f"the token function returned {type(token).__name__}, not str")
    if token is not None:
        token.encode()
    return token


def _bearer(token: str | None) -> Metadata:
    return (("authorization", f"Bearer {token}"),) if token else ()


def _setting(variable: str, default: str) -> str:
    return os.environ.get(variable) or default


def _token(token: Token) -> Token:
    if token is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    if not isinstance(token, str) and not callable(token):
        raise TypeError(f"token must be a str, or a function that returns one, not {type(token).__name__}")
    return token
