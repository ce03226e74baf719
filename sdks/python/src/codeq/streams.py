"""What producer and worker streams share: running the two directions of a call, and passing work between threads."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Final, Generic, TypeVar, cast

import grpc

from codeq import errors
from codeq.backoff import Backoff
from codeq.endpoint import Endpoint, Metadata
from codeq.servers import REFRESH_SECONDS, Servers

WELCOME_SECONDS_MAX: Final = 10.0
"""Longest wait for the first message of a server that took the connection."""

WELCOME_OF_MANY_SECONDS_MAX: Final = 3.0
"""Such a wait where there are other servers to go to."""

QUICK_ATTEMPTS: Final = 40
"""Attempts in a row that seek the leader of a cluster without the growing delays: some 15 seconds of them."""

STABLE_SECONDS: Final = 5.0
"""A stream that lived this long counts as a success: the next attempt to connect starts from the shortest delay."""

_Item = TypeVar("_Item")
_Response = TypeVar("_Response")


class Inbox(Generic[_Item]):
    """Hands items of any thread to an event loop; many items share one wake-up of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, take: Callable[[_Item], None]) -> None:
        self._loop = loop
        self._take = take
        self._items: deque[_Item] = deque()
        self._woken = False

    def put(self, item: _Item) -> None:
        """Hand over an item; returns at once.

        Raises:
            RuntimeError: The loop is closed.
        """
        self._items.append(item)
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        # Reset first: an item appended from now on wakes the loop again, one appended before is taken below.
        self._woken = False
        items = self._items
        while items:
            self._take(items.popleft())


class Reconnects:
    """Chooses where and when the next stream is opened after one has ended."""

    def __init__(self, servers: Servers, backoff: Backoff) -> None:
        """For streams to servers.

        Args:
            servers: Servers that are known.
            backoff: Delays where there is one server, and where none of many helps for long.
        """
        self._servers = servers
        self._backoff = backoff
        self._attempt = 0

    def delay_after(self, error: errors.CodeqError, address: str, *, leader: str, is_stable: bool) -> float:
        """Seconds to wait before the next stream is opened, at the current server of those known.

        Args:
            error: Why the stream ended.
            address: The server it was opened at.
            leader: The server that a notice named; empty: none did.
            is_stable: Whether the stream had lived for a while.
        """
        self._attempt = 1 if is_stable else self._attempt + 1
        leader = leader or error.metadata.get("leaderGrpc", "")
        if not (leader or self._servers.are_many or isinstance(error, errors.NotLeader)):
            return max(self._backoff.delay(self._attempt), error.retry_after or 0.0)
        delay = self._servers.left(address, leader)
        if self._attempt > QUICK_ATTEMPTS:
            delay = max(delay, self._backoff.delay(self._attempt - QUICK_ATTEMPTS))
        return delay


@contextlib.asynccontextmanager
async def learning(endpoint: Endpoint, channel: grpc.aio.Channel, metadata: Metadata) -> AsyncIterator[None]:
    """Ask for the members of the cluster now and from time to time, beside a stream."""

    async def ask() -> None:
        while True:
            await endpoint.refresh(channel, metadata)
            await asyncio.sleep(REFRESH_SECONDS)

    asking = asyncio.create_task(ask(), name="codeq-topology")
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def open_call(call: grpc.aio.StreamStreamCall[bytes, _Response], hello: bytes, *, others: bool) -> _Response:
    """Send the first message of a stream and read the answer to it.

    Args:
        call: The call.
        hello: The first message.
        others: Whether there are other servers to go to, so that the wait is short.

    A server that refuses the call while the message is being written may be heard as INTERNAL, because grpc.aio then
    forgets the status. The next attempt gets it.

    Raises:
        grpc.RpcError: The call failed.
        TimeoutError: No answer in time.
        BadHandshake: The server ended the call without an answer.
    """
    async with asyncio.timeout(WELCOME_OF_MANY_SECONDS_MAX if others else WELCOME_SECONDS_MAX):
        with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.UsageError):  # over already: reading tells why
            await call.write(hello)
        first = await call.read()
    if first is grpc.aio.EOF:
        raise errors.BadHandshake("the server ended the stream without a welcome")
    return cast("_Response", first)


async def run_both(reading: Coroutine[None, None, None], writing: Coroutine[None, None, None]) -> None:
    """Run both directions of a call until the reading one ends.

    Raises:
        grpc.RpcError: The call failed.
        asyncio.CancelledError: The caller was cancelled.
    """
    reader = asyncio.create_task(reading, name="codeq-read")
    writer = asyncio.create_task(writing, name="codeq-write")
    try:
        await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
        if writer.done() and not _is_call_over(writer.exception()):
            writer.result()
        await reader
    finally:
        for task in (reader, writer):
            task.cancel()
        await asyncio.gather(reader, writer, return_exceptions=True)


def _is_call_over(error: BaseException | None) -> bool:
    """Whether a writer ended because the call did: then the reader knows why."""
    return error is None or isinstance(error, grpc.RpcError | asyncio.InvalidStateError | grpc.aio.UsageError)


CONNECTION_ERRORS: Final = (
    grpc.RpcError,
    TimeoutError,
    asyncio.InvalidStateError,
    grpc.aio.UsageError,
    errors.CodeqError,
)
"""What may end a stream; anything else is a defect of the SDK."""


def typed(error: Exception) -> errors.CodeqError:
    """The typed error of what ended a stream, one of CONNECTION_ERRORS."""
    match error:
        case errors.CodeqError():
            return error
        case grpc.RpcError():
            return errors.from_rpc(error)
        case TimeoutError():
            return errors.Unavailable("no welcome from the server in time")
        case _:
            return errors.Unavailable(f"the stream is over: {error}")


_FINAL: Final = errors.Unauthenticated | errors.PermissionDenied | errors.InvalidField | errors.Unsupported


def is_final(error: errors.CodeqError) -> bool:
    """Whether connecting again cannot help: the token or the request itself is refused, or this is no such server."""
    return isinstance(error, _FINAL)
