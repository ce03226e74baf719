"""Links between a relay and the parts of its stream: over gRPC to another process, in memory to the own shard."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, Protocol

import grpc
import grpc.aio
from codeq import reasons
from codeq_internal.v1 import shard_work_pb2 as pb
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from codeq_server.core.errors import Reason, Rejection

from .internal_callers import Metadata
from .shards import LinkedShards
from .streams import rejection_in

SERVICE: Final = "codeq_internal.v1.ShardWorkService"
WORK_ON_SHARD: Final = f"/{SERVICE}/WorkOnShard"
MESSAGES_MAX: Final = 4
"""Maximum number of messages in each direction that wait in memory for their reader."""


class LinkEndedError(Exception):
    """The link has ended; reading from it says why."""


class PartLink(Protocol):
    """The relay's end of a link."""

    async def write(self, request: pb.WorkOnShardRequest) -> None:
        """Sends a request.

        Raises:
            LinkEndedError: The link has ended.
        """
        ...

    async def done_writing(self) -> None:
        """Half-closes the link.

        Raises:
            LinkEndedError: The link has ended.
        """
        ...

    async def read(self) -> pb.WorkOnShardResponse | None:
        """Returns the next response; None: the shard has ended the link in order.

        Raises:
            Rejection: Why the shard ended it; SERVER_UNREACHABLE: the shard is gone.
        """
        ...

    def cancel(self) -> None:
        """Breaks the link."""
        ...


class PartLinks(Protocol):
    """Opens links to the shards."""

    @property
    def count(self) -> int:
        """Number of shards."""
        ...

    def shard_of(self, task_id: str) -> int:
        """Returns the shard of the task with this id, whether or not it exists."""
        ...

    def open(self, shard: int) -> PartLink:
        """Begins to open a link to a shard."""
        ...


Serve = Callable[[Any], Awaitable[None]]
"""Serves a part of a stream, whose call it gets, to its end."""


class StreamLinks:
    """Links to the shards of this installation.

    Args:
        shards: The shards.
        serve: Serves a part of a stream on the shard of this process.
    """

    def __init__(self, shards: LinkedShards, serve: Serve) -> None:
        self._shards = shards
        self._serve = serve

    @property
    def count(self) -> int:
        """Number of shards."""
        return self._shards.count

    def shard_of(self, task_id: str) -> int:
        """See `PartLinks.shard_of`."""
        return self._shards.shard_of(task_id)

    def open(self, shard: int) -> PartLink:
        """Begins to open a link to a shard."""
        if shard == self._shards.mine:
            return MemoryLink(self._serve)
        return GrpcLink(self._shards.channel(shard), self._shards.metadata(shard))


class LinksToOne:
    """Links to one shard alone.

    Args:
        links: Opens links to all shards.
        shard: The shard.
    """

    count: Final = 1

    def __init__(self, links: PartLinks, shard: int) -> None:
        self._links, self._shard = links, shard

    def open(self, _: int) -> PartLink:
        """Begins to open a link to the shard."""
        return self._links.open(self._shard)

    def shard_of(self, _: str) -> int:
        """Returns the number of the only link, whatever the task."""
        return 0


class GrpcLink:
    """A link to the process of another shard."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        exchange: Any = channel.stream_stream(
            WORK_ON_SHARD,
            request_serializer=pb.WorkOnShardRequest.SerializeToString,
            response_deserializer=pb.WorkOnShardResponse.FromString,
        )
        self._rpc = exchange(metadata=metadata)

    async def write(self, request: pb.WorkOnShardRequest) -> None:
        """See `PartLink`."""
        try:
            await self._rpc.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            raise LinkEndedError from None

    async def done_writing(self) -> None:
        """See `PartLink`."""
        try:
            await self._rpc.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            raise LinkEndedError from None

    async def read(self) -> pb.WorkOnShardResponse | None:
        """See `PartLink`."""
        try:
            response = await self._rpc.read()
        except grpc.aio.AioRpcError as problem:
            raise rejection_of(problem) from None
        return None if response is grpc.aio.EOF else response

    def cancel(self) -> None:
        """See `PartLink`."""
        self._rpc.cancel()


class MemoryLink:
    """A link to the shard of this process."""

    def __init__(self, serve: Serve) -> None:
        self._requests = _Pipe()
        self._responses = _Pipe()
        self._task = asyncio.get_running_loop().create_task(
            self._run(serve, _MemoryCall(self._requests, self._responses)), name="part-in-memory"
        )
        self._task.add_done_callback(partial(_end, self._requests, self._responses))
        self._problem: Rejection | None = None

    async def write(self, request: pb.WorkOnShardRequest) -> None:
        """See `PartLink`."""
        await self._requests.put(request)

    async def done_writing(self) -> None:
        """See `PartLink`."""
        self._requests.end()

    async def read(self) -> pb.WorkOnShardResponse | None:
        """See `PartLink`."""
        response: pb.WorkOnShardResponse | None = await self._responses.get()
        if response is None and self._problem is not None:
            raise self._problem.again()
        return response

    def cancel(self) -> None:
        """See `PartLink`."""
        self._task.cancel()

    async def _run(self, serve: Serve, call: _MemoryCall) -> None:
        try:
            await serve(call)
        except asyncio.CancelledError:
            self._problem = Rejection(Reason.SERVER_UNREACHABLE, "the link was cancelled")
            raise
        except (Exception, BaseExceptionGroup) as problem:
            self._problem = rejection_in(problem) or Rejection(Reason.INTERNAL, "internal error")
            if self._problem.reason is Reason.INTERNAL:
                raise


def _end(requests: _Pipe, responses: _Pipe, _: asyncio.Task[None]) -> None:
    requests.end()
    responses.end()


class _Pipe:
    """Messages in one direction."""

    def __init__(self) -> None:
        self._messages: deque[Any] = deque()
        self._changed = asyncio.Event()
        self._has_ended = False

    async def put(self, message: Any) -> None:
        """Adds a message once there is room.

        Raises:
            LinkEndedError: The pipe has ended.
        """
        while len(self._messages) >= MESSAGES_MAX and not self._has_ended:
            self._changed.clear()
            await self._changed.wait()
        if self._has_ended:
            raise LinkEndedError
        self._messages.append(message)
        self._changed.set()

    async def get(self) -> Any:
        """Returns the next message; None: the pipe has ended."""
        while not self._messages:
            if self._has_ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        self._changed.set()
        return self._messages.popleft()

    def end(self) -> None:
        """Marks the end: no further messages follow."""
        self._has_ended = True
        self._changed.set()


class _MemoryCall:
    """The shard's end of a link in memory; it resembles the context of a gRPC call."""

    def __init__(self, requests: _Pipe, responses: _Pipe) -> None:
        self._requests, self._responses = requests, responses

    async def read(self) -> Any:
        """Returns the next request; None at the end."""
        return await self._requests.get()

    async def write(self, response: pb.WorkOnShardResponse) -> None:
        """Sends a response."""
        try:
            await self._responses.put(response)
        except LinkEndedError:
            raise asyncio.InvalidStateError from None


def rejection_of(problem: grpc.aio.AioRpcError) -> Rejection:
    """Returns the failure of a call to another process as the rejection that the process gave."""
    status = rpc_status.from_call(problem)
    info = error_details_pb2.ErrorInfo()
    for detail in () if status is None else status.details:
        if detail.Unpack(info) and info.domain == reasons.DOMAIN and info.reason in Reason.__members__:
            return Rejection(Reason[info.reason], problem.details() or "", (), dict(info.metadata))
    return Rejection(Reason.SERVER_UNREACHABLE, f"the process of the shard is unreachable: {problem.code().name}")
