"""Tasks of a producer's frames that belong in other shards.

They go there in calls of up to CALL_TASKS_MAX tasks. For each shard there is one call at a time, so that the tasks of
the stream keep their order; it carries those of all frames that have arrived since the last one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

from codeq.v1 import error_pb2, task_pb2
from codeq.v1 import producer_service_pb2 as pb
from codeq_internal.v1 import shard_create_pb2

from codeq_server.auth.claims import Claims
from codeq_server.core.errors import Rejection

from .convert import item_error
from .routing.placing import of_spec
from .shards import Caller, Shards
from .stream_token import StreamToken

CREATE_SERVICE: Final = "codeq_internal.v1.ShardCreateService"
"""Full name of the service that creates the tasks; it is served on call streams alone."""
CREATE_ON_SHARD: Final = f"/{CREATE_SERVICE}/CreateOnShard"
CALL_TASKS_MAX: Final = 1000
CALL_BYTES_MAX: Final = 4 << 20
"""Maximum bytes of tasks in one call, not counting its last task."""


@dataclass(slots=True, eq=False)
class _Frame:
    """A frame, and how many of its tasks other shards have not answered."""

    ack: pb.FrameAck
    left: int
    complete: asyncio.Future[None]


class _Item(NamedTuple):
    """A task of a frame, and its index there."""

    frame: _Frame
    number: int
    spec: task_pb2.TaskSpec


class Elsewhere:
    """Creates tasks of one stream in other shards.

    Attributes:
        group: Runs the calls; set it before the first frame.

    Args:
        shards: Reaches the shards.
        token: Token of the stream.
        origin: Address of the producer in gRPC's form.
    """

    def __init__(self, shards: Shards, token: StreamToken, origin: str) -> None:
        self.group: asyncio.TaskGroup | None = None
        self._shards = shards
        self._token = token
        self._origin = origin
        self._taken: list[tuple[int, int, task_pb2.TaskSpec]] = []
        """Shard, index and spec of the tasks of the frame being created."""
        self._lines: dict[int, deque[_Item]] = {}
        """Tasks that wait for a call, by shard; a shard with a line has a call in flight."""

    def takes(self, claims: Claims, spec: task_pb2.TaskSpec, index: int) -> bool:
        """Takes a task of the present frame if it belongs in another shard; returns whether it does.

        Raises:
            Rejection: INVALID_FIELD: it belongs in several.
        """
        if spec.HasField("idempotency_key") and spec.HasField("task_id"):
            return False  # the spec is invalid
        shard = of_spec(self._shards, claims, spec)
        if shard == self._shards.mine:
            return False
        self._taken.append((shard, index, spec))
        return True

    def send(self, ack: pb.FrameAck) -> asyncio.Future[None] | None:
        """Sends the tasks taken from a frame to their shards.

        Args:
            ack: The ack of the frame, with an empty id for each of these tasks.

        Returns:
            Resolves once the ack is complete; None: it is.
        """
        taken = self._taken
        if not taken:
            return None
        assert self.group is not None
        self._taken = []
        frame = _Frame(ack, len(taken), asyncio.get_running_loop().create_future())
        for shard, index, spec in taken:
            line = self._lines.get(shard)
            if line is None:
                line = self._lines[shard] = deque()
                self.group.create_task(self._serve(shard, line), name="producer-elsewhere")
            line.append(_Item(frame, index, spec))
        return frame.complete

    async def _serve(self, shard: int, line: deque[_Item]) -> None:
        while line:
            items = _next_call(line)
            request = pb.ProduceRequest(tasks=[item.spec for item in items])
            response: object = None
            refusal: Rejection | None = None
            caller = Caller(self._token.claims, self._token.shown, self._origin)
            try:
                response = await self._shards.call(
                    shard,
                    CREATE_ON_SHARD,
                    shard_create_pb2.CreateOnShardRequest(frame=request.SerializeToString()),
                    caller,
                    part=True,
                )
            except Rejection as rejection:
                refusal = rejection.again()
            if isinstance(response, shard_create_pb2.CreateOnShardResponse):
                _note(items, response.ack)
            elif refusal is not None:
                for item in items:
                    item.frame.ack.errors.append(item_error(item.number, refusal))
            _complete(items)
        del self._lines[shard]


def _next_call(line: deque[_Item]) -> list[_Item]:
    items: list[_Item] = []
    size = 0
    while line and len(items) < CALL_TASKS_MAX and size < CALL_BYTES_MAX:
        item = line.popleft()
        size += item.spec.ByteSize()
        items.append(item)
    return items


def _note(items: list[_Item], answer: pb.FrameAck) -> None:
    """Adds the outcomes of tasks to the acks of their frames."""
    for item, task_id in zip(items, answer.task_ids, strict=True):
        item.frame.ack.task_ids[item.number] = task_id
    for error in answer.errors:
        item = items[error.index]
        told = error_pb2.ItemError(index=item.number, reason=error.reason, message=error.message)
        item.frame.ack.errors.append(told)
    for index in answer.duplicates:
        item = items[index]
        item.frame.ack.duplicates.append(item.number)


def _complete(items: list[_Item]) -> None:
    """Notes that tasks are answered, and resolves the futures of frames without others."""
    for item in items:
        frame = item.frame
        frame.left -= 1
        if not frame.left:
            errors = sorted(frame.ack.errors, key=_index_of)
            del frame.ack.errors[:]
            frame.ack.errors.extend(errors)
            duplicates = sorted(frame.ack.duplicates)
            frame.ack.duplicates[:] = duplicates
            if not frame.complete.done():
                frame.complete.set_result(None)


def _index_of(error: error_pb2.ItemError) -> int:
    return error.index
