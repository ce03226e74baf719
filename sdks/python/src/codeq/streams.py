"""Shared by producer and worker streams: running both directions of a call, reconnecting, handing work to the loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Final, Generic, Self, TypeVar

from google.protobuf.message import DecodeError

from codeq import errors
from codeq.async_transport import AsyncCall, AsyncChannel, CallEnded
from codeq.backoff import Backoff
from codeq.endpoint import TOKEN_SECONDS_MAX, Endpoint
from codeq.logs import log
from codeq.rpc import Metadata
from codeq.servers import REFRESH_SECONDS, Servers

WELCOME_SECONDS_MAX: Final = 10.0
"""Maximum wait for the first message of a server that accepted the connection."""

WELCOME_OF_MANY_SECONDS_MAX: Final = 3.0
"""Maximum wait for a server's first message if other servers are known."""

QUICK_ATTEMPTS: Final = 40
"""Attempts in a row to find the leader of a cluster before backoff sets in: about 15 seconds."""

STABLE_SECONDS: Final = 5.0
"""A stream that lived this long counts as a success; the next reconnect starts with the shortest delay."""

REPEAT_SECONDS: Final = 30.0
"""Interval at which the log repeats an unchanged reason for being disconnected."""

LEAVE_SECONDS: Final = 1.0
"""How long before its token expires a stream is closed if there is no fresh token; at most a quarter of the notice."""

ASKING_SECONDS_MAX: Final = 5.0
"""Maximum time between two requests for a fresh token; half of the remaining time if that is less."""

ASKING_SECONDS_MIN: Final = 0.02
"""Remaining time below which no fresh token is requested."""

_Item = TypeVar("_Item")


class Inbox(Generic[_Item]):
    """Hands items from any thread to an event loop; many items share one wake-up of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, take: Callable[[_Item], None]) -> None:
        self._loop = loop
        self._take = take
        self._items: deque[_Item] = deque()
        self._woken = False
        self._wakers: set[int] = set()  # the threads that are about to wake the loop

    def put(self, item: _Item) -> None:
        """Hands over an item; returns at once.

        Raises:
            RuntimeError: The loop is closed.
        """
        self._items.append(item)
        # A signal handler may interrupt a wake-up and put an item itself; that item must not rely on the interrupted
        # wake-up.
        here = threading.get_ident()
        if not self._woken or here in self._wakers:
            self._wakers.add(here)
            self._woken = True
            self._loop.call_soon_threadsafe(self.drain)
            self._wakers.discard(here)

    def drain(self) -> None:
        """Takes everything handed over so far; runs on the loop.

        The loop calls it by itself, but maybe later than a function that the same thread passed to the loop after its
        item: another thread may be about to wake the loop for both.
        """
        # Reset first: an item appended from now on wakes the loop again, and an item appended earlier is taken below.
        self._woken = False
        items = self._items
        while items:
            self._take(items.popleft())


class Reconnects:
    """Chooses the server and the delay of the next stream after one has ended, and logs each new problem at once."""

    def __init__(self, name: str, servers: Servers, backoff: Backoff) -> None:
        """Starts without a stream.

        Args:
            name: Owner of the streams, for the log.
            servers: The known servers.
            backoff: Delays with a single server, and with several servers after QUICK_ATTEMPTS.
        """
        self._name = name
        self._servers = servers
        self._backoff = backoff
        self._attempt = 0
        self._broken_at: float | None = None  # time since which there is no stream
        self._failures = 0
        self._said = ""
        self._said_at = 0.0

    def delay_after(self, error: errors.CodeqError, address: str, *, leader: str, is_stable: bool) -> float:
        """Returns the seconds to wait before opening the next stream, and selects its server.

        Args:
            error: Why the stream ended.
            address: The server of the stream.
            leader: The leader that a notice named; empty: none.
            is_stable: Whether the stream had lived for STABLE_SECONDS.
        """
        self._attempt = 1 if is_stable else self._attempt + 1
        leader = leader or error.metadata.get("leaderGrpc", "")
        if not (leader or self._servers.are_many or isinstance(error, errors.NotLeader)):
            return max(self._backoff.delay(self._attempt), error.retry_after or 0.0)
        delay = self._servers.left(address, leader)
        if self._attempt > QUICK_ATTEMPTS:
            delay = max(delay, self._backoff.delay(self._attempt - QUICK_ATTEMPTS))
        return delay

    def tell(self, error: errors.CodeqError, address: str, delay: float, now: float) -> None:
        """Logs that a stream ended and when the next attempt follows; an unchanged error only every REPEAT_SECONDS.

        Args:
            error: Why the stream ended.
            address: The server of the stream.
            delay: Seconds to the next attempt.
            now: Current time on a monotonic clock, in seconds.
        """
        if self._broken_at is None:
            self._broken_at, self._failures, self._said = now, 0, ""
        self._failures += 1
        text = str(error)
        if text == self._said and now - self._said_at < REPEAT_SECONDS:
            return
        self._said, self._said_at = text, now
        following = self._servers.current
        trouble = f"{self._name} stream to {address} ended: {text}"
        if delay == 0 and isinstance(error, errors.NotLeader):  # a redirect to the leader is not a problem
            log.info("%s; going to %s", trouble, following)
        elif self._failures == 1:
            log.warning("%s; connecting to %s in %.1f s", trouble, following, delay)
        else:
            since = now - self._broken_at
            counted = f"{self._failures} attempts failed in {since:.0f} s"
            log.warning("%s; %s, connecting to %s in %.1f s", trouble, counted, following, delay)

    def opened(self, address: str, now: float) -> None:
        """Records that a stream is open, and logs it if an earlier one broke."""
        if self._broken_at is not None:
            log.info("%s stream to %s is open again after %.1f s", self._name, address, now - self._broken_at)
            self._broken_at = None


@contextlib.asynccontextmanager
async def learning(endpoint: Endpoint, channel: AsyncChannel, metadata: Metadata) -> AsyncIterator[None]:
    """Refreshes the members of the cluster now and every REFRESH_SECONDS while a stream runs."""

    async def ask() -> None:
        current = metadata
        while True:
            await endpoint.refresh(channel, current)
            await asyncio.sleep(REFRESH_SECONDS)
            with contextlib.suppress(errors.CodeqError):  # the next refresh asks again
                current = await endpoint.aio_metadata()

    asking = asyncio.create_task(ask(), name="codeq-topology")
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


class TokenRenewal:
    """Gets a fresh token for one stream when the server announces that the current one is about to expire.

    Attributes:
        fresh: Token to send on the stream; empty: none.
        is_late: Whether no fresh token came in time, so that the client should leave the stream before the server ends
            it.
    """

    def __init__(self, endpoint: Endpoint, metadata: Metadata, wake: Callable[[], None]) -> None:
        """Prepares for the server's announcement.

        Args:
            endpoint: Provides the tokens.
            metadata: Metadata with which the stream was opened.
            wake: Called when an attribute has changed.
        """
        self._endpoint = endpoint
        self._wake = wake
        self._current = token_of(metadata)
        self._asking: asyncio.Task[None] | None = None
        self.fresh = ""
        self.is_late = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._asking is not None:
            self._asking.cancel()

    def start(self, grace_seconds: float) -> None:
        """Starts to ask for a fresh token, because the current one expires in `grace_seconds`.

        A certificate is only renewed with the connection: the client leaves the stream at once.
        """
        if self._endpoint.is_certified:
            self.is_late = True
            self._wake()
            return
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(grace_seconds), name="codeq-token")

    def take(self) -> str:
        """Returns the fresh token, to be sent now."""
        token, self.fresh = self.fresh, ""
        return token

    async def _ask(self, grace_seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + grace_seconds - min(LEAVE_SECONDS, grace_seconds / 4)
        trouble = "the token function returned the same token again"
        while (left := until - loop.time()) > ASKING_SECONDS_MIN:
            try:
                async with asyncio.timeout(left):
                    token = await self._endpoint.aio_token()
                if token and token != self._current:
                    self.fresh = self._current = token
                    self._wake()
                    return
            except (TimeoutError, errors.CodeqError) as error:
                trouble = str(error) or "the token function did not return in time"
            await asyncio.sleep(min(ASKING_SECONDS_MAX, max(0.0, until - loop.time()) / 2))
        log.warning("the token of a stream is about to expire, and there is no fresh one: %s", trouble)
        self.is_late = True
        self._wake()


def token_of(metadata: Metadata) -> str:
    """Returns the token in the metadata of a call; empty: none."""
    return dict(metadata).get("authorization", "").removeprefix("Bearer ")


async def open_call(
    endpoint: Endpoint, channel: AsyncChannel, method: str, hello: bytes, metadata: Metadata
) -> tuple[AsyncCall, bytes]:
    """Opens a stream: sends its first message and reads the reply; returns the call and the reply.

    Raises:
        CodeqError: The call failed.
        TimeoutError: No answer arrived in time.
        BadHandshake: The server ended the call without an answer.
    """
    others = endpoint.servers.are_many
    async with asyncio.timeout(WELCOME_OF_MANY_SECONDS_MAX if others else WELCOME_SECONDS_MAX):
        call = await channel.stream(method, metadata)
        with contextlib.suppress(CallEnded):  # already over: reading raises the reason
            await call.write(hello)
        first = await call.read()
    if first is None:
        raise errors.BadHandshake("the server ended the stream without a welcome")
    return call, first


async def metadata_of(endpoint: Endpoint) -> Metadata:
    """Returns the metadata of the next stream.

    Raises:
        Unavailable: The token function failed.
        TimeoutError: The token function did not return in time.
    """
    async with asyncio.timeout(TOKEN_SECONDS_MAX):
        return await endpoint.aio_metadata()


async def run_both(reading: Coroutine[None, None, None], writing: Coroutine[None, None, None]) -> None:
    """Runs both directions of a call until the reading one ends.

    Raises:
        CodeqError: The call failed.
        asyncio.CancelledError: The caller was cancelled.
    """
    reader = asyncio.create_task(reading, name="codeq-read")
    writer = asyncio.create_task(writing, name="codeq-write")
    try:
        await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
        if writer.done() and not isinstance(writer.exception(), CallEnded):
            writer.result()
        await reader
    finally:
        for task in (reader, writer):
            task.cancel()
        await asyncio.gather(reader, writer, return_exceptions=True)


CONNECTION_ERRORS: Final = (TimeoutError, DecodeError, errors.CodeqError)
"""Errors that may end a stream; anything else is a bug in the SDK."""


def typed(error: Exception) -> errors.CodeqError:
    """Returns the typed form of an error that ended a stream, one of CONNECTION_ERRORS."""
    if isinstance(error, errors.CodeqError):
        return error
    if isinstance(error, TimeoutError):
        return errors.Unavailable("the server sent no welcome in time")
    return errors.ServerFault("a message of the server cannot be decoded")


_FINAL: Final = errors.Unauthenticated | errors.PermissionDenied | errors.InvalidField | errors.Unsupported


def is_final(error: errors.CodeqError) -> bool:
    """Returns whether reconnecting is pointless: the token or request was rejected, or the server lacks the call."""
    return isinstance(error, _FINAL)


def is_of_expired_token(error: errors.CodeqError) -> bool:
    """Returns whether the token was rejected only because it has expired."""
    return isinstance(error, errors.Unauthenticated) and "expiredAt" in error.metadata
