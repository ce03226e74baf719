"""Shared parts of producer and worker streams: the handshake, notices, and the ways in which a stream ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar, TypeVarTuple

from codeq.v1 import error_pb2
from codeq.v1 import producer_service_pb2 as pb
from google.protobuf.message import Message

from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.tenants import STREAMS, Tenants

from .connected import ConnectedWorkers
from .convert import reason_number
from .stream_token import StreamToken

HELLO_SECONDS: Final = 10
"""Time for a client to send its hello."""
STREAMS_MAX = 6_000
"""Maximum number of open streams."""
FAREWELL_SECONDS: Final = 0.2
"""Time for a client to read the notice of a new leader before its stream ends."""

T = TypeVar("T", bound=Message)
Ts = TypeVarTuple("Ts")
Notify = Callable[[pb.StreamNotice], Awaitable[None]]


def protocol_error(message: str) -> Rejection:
    """Returns the rejection of a stream that violates the protocol."""
    return Rejection(Reason.BAD_HANDSHAKE, message)


async def hello_of(context: Any, request_class: type[T]) -> T:
    """Reads the first message of a stream, which must carry the hello.

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


def rejection_in(problem: BaseException) -> Rejection | None:
    """Returns the first rejection among the reasons why a stream has ended; None: it ended for another reason."""
    stack = [problem]
    while stack:
        cause = stack.pop()
        if isinstance(cause, Rejection):
            return cause.again()
        if isinstance(cause, BaseExceptionGroup):
            stack.extend(cause.exceptions)
    return None


class StreamRegistry:
    """The open streams; notifies them when the server shuts down or another node becomes leader.

    Attributes:
        workers: Open streams of workers.

    Args:
        tenants: The shard's tenants, whose limits on streams apply.
        most: Maximum number of open streams; 0: STREAMS_MAX.
    """

    def __init__(self, tenants: Tenants, most: int = 0) -> None:
        self._most = most
        self.workers = ConnectedWorkers()
        self._tenants = tenants
        self._counts: dict[str, int] = {}
        """Open streams by tenant."""
        self._members: dict[Notify, asyncio.TaskGroup] = {}
        self._refusal: Rejection | None = None
        """Why new streams are rejected; None: they are accepted."""
        self._ended = False

    def __len__(self) -> int:
        """Returns the number of open streams."""
        return len(self._members)

    def count(self, tenant: str) -> int:
        """Returns the number of a tenant's open streams."""
        return self._counts.get(tenant, 0)

    async def serve(
        self, notify: Notify, token: StreamToken, work: Callable[[asyncio.TaskGroup], Awaitable[None]]
    ) -> None:
        """Serves a stream as a member, with a group for its tasks.

        Raises:
            Rejection: Why the stream ends; see `member`.
        """
        async with asyncio.TaskGroup() as group, self.member(notify, group, token):
            await work(group)

    @asynccontextmanager
    async def member(self, notify: Notify, group: asyncio.TaskGroup, token: StreamToken) -> AsyncIterator[None]:
        """Registers a stream while it is served, and ends it when its token expires.

        Raises:
            Rejection: LIMIT_REACHED; QUOTA_EXCEEDED; DRAINING after `drain`; the rejection given to `end` after `end`.
        """
        if self._refusal is not None:
            raise self._refusal.again()
        most = self._most or STREAMS_MAX
        if len(self._members) >= most:
            raise Rejection(Reason.LIMIT_REACHED, f"{most} streams are open, the limit")
        tenant = token.claims.tenant_id
        count = self.count(tenant)
        most = self._tenants.limits_of(tenant).streams_max
        if most and count >= most:
            text = f"the tenant's quota of streams is {most} ({STREAMS}), all in use"
            raise self._tenants.refuse(tenant, STREAMS, most, text)
        self._members[notify] = group
        self._counts[tenant] = count + 1
        tell = partial(self._start, group, notify)
        watching = group.create_task(self.part(token.watch, tell), name="stream-token")
        try:
            yield
        finally:
            watching.cancel()
            del self._members[notify]
            self._counts[tenant] -= 1
            if not self._counts[tenant]:
                del self._counts[tenant]

    async def part(self, work: Callable[[*Ts], Awaitable[None]], *args: *Ts) -> None:
        """Runs a part of a stream; drops its rejections after `end`, because the stream ends with that rejection."""
        try:
            await work(*args)
        except Rejection:
            if not self._ended:
                raise
            await asyncio.get_running_loop().create_future()  # until the farewell ends the stream

    def drain(self, grace_ms: int, leader: str = "") -> None:
        """Notifies every stream that the server will end it.

        Args:
            grace_ms: Time until the stream ends.
            leader: gRPC address of the next leader; "": unknown.
        """
        self._refusal = Rejection(Reason.DRAINING, "the server is stopping")
        notice = pb.StreamNotice(reason=error_pb2.ERROR_REASON_DRAINING, grace_ms=grace_ms, leader=leader)
        for notify, group in self._members.items():
            self._start(group, notify, notice)

    def end(self, refusal: Rejection) -> None:
        """Notifies every stream that another node leads, and ends it with the rejection after FAREWELL_SECONDS."""
        self._refusal, self._ended = refusal, True
        notice = pb.StreamNotice(
            reason=reason_number(refusal),
            grace_ms=int(FAREWELL_SECONDS * 1000),
            leader=refusal.metadata.get("leaderGrpc", ""),
        )
        for notify, group in self._members.items():
            self._start(group, notify, notice, refusal)

    def _start(
        self, group: asyncio.TaskGroup, notify: Notify, notice: pb.StreamNotice, refusal: Rejection | None = None
    ) -> None:
        """Sends a notice without waiting; with a rejection, the stream ends with it after FAREWELL_SECONDS."""
        telling = self._tell(notify, notice) if refusal is None else self._say_farewell(notify, notice, refusal)
        try:
            group.create_task(telling, name="stream-notice")
        except RuntimeError:
            telling.close()  # the stream is ending anyway

    async def _say_farewell(self, notify: Notify, notice: pb.StreamNotice, refusal: Rejection) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + FAREWELL_SECONDS
        with contextlib.suppress(TimeoutError):  # the client does not read
            async with asyncio.timeout_at(until):
                await self._tell(notify, notice)
        await asyncio.sleep(until - loop.time())
        raise refusal.again()

    @staticmethod
    async def _tell(notify: Notify, notice: pb.StreamNotice) -> None:
        try:
            await notify(notice)
        except (asyncio.InvalidStateError, RuntimeError):
            return  # the stream has ended in the meantime
