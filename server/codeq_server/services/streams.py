"""What both streams share: the handshake, and the notice before the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from codeq.v1 import error_pb2
from codeq.v1 import producer_service_pb2 as pb
from google.protobuf.message import Message

from codeq_server.core.errors import Reason, Rejection

HELLO_SECONDS: Final = 10
"""Time a client has for its hello."""
STREAMS_MAX: Final = 10_000
"""Streams open at a time."""

T = TypeVar("T", bound=Message)
Notify = Callable[[pb.StreamNotice], Awaitable[None]]


def protocol_error(message: str) -> Rejection:
    """Returns the refusal of a stream that does not keep to the order of messages."""
    return Rejection(Reason.BAD_HANDSHAKE, message)


async def hello_of(context: Any, request_class: type[T]) -> T:
    """Returns the first message of a stream, which must carry the hello.

    Raises:
        Rejection: BAD_HANDSHAKE.
    """
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            first = await context.read()
    except TimeoutError:
        raise protocol_error(f"no hello within {HELLO_SECONDS} seconds") from None
    if not isinstance(first, request_class) or not first.HasField("hello"):
        raise protocol_error("the first message must carry the hello")
    return first


class StreamRegistry:
    """The open streams, to be told when the server stops."""

    def __init__(self) -> None:
        self._members: dict[Notify, asyncio.TaskGroup] = {}
        self._notice: pb.StreamNotice | None = None

    def __len__(self) -> int:
        """Returns the number of open streams."""
        return len(self._members)

    @asynccontextmanager
    async def member(self, notify: Notify, group: asyncio.TaskGroup) -> AsyncIterator[None]:
        """Registers a stream while it is served.

        Raises:
            Rejection: LIMIT_REACHED, or DRAINING once `drain` was called.
        """
        if self._notice is not None:
            raise Rejection(Reason.DRAINING, "the server is stopping")
        if len(self._members) >= STREAMS_MAX:
            raise Rejection(Reason.LIMIT_REACHED, f"{STREAMS_MAX} streams are open, the limit")
        self._members[notify] = group
        try:
            yield
        finally:
            del self._members[notify]

    def drain(self, grace_ms: int) -> None:
        """Sends every stream the notice that the server will end it."""
        self._notice = pb.StreamNotice(reason=error_pb2.ERROR_REASON_DRAINING, grace_ms=grace_ms)
        for notify, group in self._members.items():
            group.create_task(self._tell(notify, self._notice), name="drain-notice")

    @staticmethod
    async def _tell(notify: Notify, notice: pb.StreamNotice) -> None:
        try:
            await notify(notice)
        except (asyncio.InvalidStateError, RuntimeError):
            return  # the stream ended by itself meanwhile
