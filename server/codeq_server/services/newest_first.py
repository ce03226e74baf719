"""Lists of tasks, newest first: a queue's lanes are read from their tails and merged by creation time."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from typing import Final

from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb

from codeq_server.core import keys
from codeq_server.core.listing import Walk, previous_queue
from codeq_server.core.model import Lane, Queue
from codeq_server.engine.runner import ShardRunner

from .convert import task_message, unix_ms
from .listing import NEWEST, PAGE_DEFAULT, PAGE_ROWS_MAX, Filter, Page, view_of
from .page_tokens import last_key, page_token

_LANES: Final = (*range(keys.LANES), keys.PARKED_LANE)
_BOUND_BYTES: Final = 6
_TOKEN_BYTES: Final = 4 + _BOUND_BYTES * len(_LANES)


class _Tail:
    """A lane, read backwards from its tail.

    Attributes:
        bound: Position from which on the whole lane has been listed or skipped.
        index: Index of the lane.
        done: Whether the lane has been read to its start.
    """

    def __init__(self, lane: Lane, bound: int) -> None:
        self.bound = bound
        self.index = lane.index
        self._walk = Walk(lane.task_prefix, keys.place_key(lane.task_prefix, bound), back=True)
        self._keys: deque[bytes] = deque()
        self._head = bound

    @property
    def done(self) -> bool:
        return self._walk.done and not self._keys

    async def next(self, runner: ShardRunner, rows_max: int) -> tuple[task_pb2.Task | None, int]:
        """Returns the next task, None if `rows_max` rows contain no task, and the number of rows examined.

        Raises:
            Rejection: CORRUPT_DATA.
        """
        examined = 0
        while examined < rows_max and not self.done:
            if not self._keys:
                self._keys.extend(key for key, _ in self._walk.read(runner.shard, rows_max))
                await asyncio.sleep(0)
                continue
            key = self._keys.popleft()
            examined += 1
            self._head = keys.split_place_key(key)[2]
            view = view_of(runner, key)
            if view is not None:
                return task_message(view), examined
            self.bound = self._head
        return None, examined

    def told(self) -> None:
        """Marks the most recently returned task as listed or filtered out."""
        self.bound = self._head


async def list_newest(
    runner: ShardRunner, tenant: str, request: pb.ListTasksRequest, seen: frozenset[str] | None = None
) -> pb.ListTasksResponse:
    """Returns a page of a tenant's tasks: the newest queue first, and within a queue the newest task first.

    Args:
        runner: Runner of the shard.
        tenant: The tenant.
        request: The request.
        seen: Commands that a request for all of them shows; None: all.

    Raises:
        Rejection: INVALID_PAGE_TOKEN, CORRUPT_DATA.
    """
    wanted, shard = Filter(request, seen), runner.shard
    of = (NEWEST, tenant, request.command, *wanted.said)
    page, left, number, bounds = Page(request.page_size or PAGE_DEFAULT), PAGE_ROWS_MAX, keys.QUEUE_NUMBER_MAX, b""
    if request.page_token:
        content = last_key(request.page_token, _TOKEN_BYTES, *of)
        number, bounds = int.from_bytes(content[:4], "big"), content[4:]
    begun = number
    next_number = previous_queue(shard, tenant, wanted.commands, number)
    while next_number is not None:
        number = next_number
        tails = _tails(shard.queues[number], bounds if number == begun else b"")
        left = await _merge(runner, list(tails.values()), wanted, page, left)
        if page.full or left <= 0:
            await runner.wait_durable()
            return pb.ListTasksResponse(tasks=page.tasks, next_page_token=page_token(_position(number, tails), *of))
        next_number = previous_queue(shard, tenant, wanted.commands, number - 1)
    await runner.wait_durable()
    return pb.ListTasksResponse(tasks=page.tasks)


async def _merge(runner: ShardRunner, tails: list[_Tail], wanted: Filter, page: Page, left: int) -> int:
    """Adds the tasks of a queue to the page until it is full; returns how many more rows may be examined."""
    heads: list[tuple[int, int, _Tail, task_pb2.Task]] = []
    waiting = tails
    while left > 0 and not page.full:
        for tail in waiting:
            task, examined = await tail.next(runner, left)
            left -= examined
            if task is not None:
                heapq.heappush(heads, (-unix_ms(task.created_at), tail.index, tail, task))
            elif not tail.done:
                return 0
        if not heads:
            break
        _, _, tail, task = heapq.heappop(heads)
        tail.told()
        if wanted.status(task.status) and wanted.task(task):
            page.add(task)
        waiting = [tail]
    return left


def _tails(queue: Queue, bounds: bytes) -> dict[int, _Tail]:
    """Returns the lanes of a queue by index, each read from its bound in the page token, or from its tail."""
    tails = {}
    for slot, index in enumerate(_LANES):
        lane = queue.lanes[index]
        if lane is not None:
            at = slot * _BOUND_BYTES
            bound = int.from_bytes(bounds[at : at + _BOUND_BYTES], "big") if bounds else lane.tail + 1
            tails[index] = _Tail(lane, bound)
    return tails


def _position(number: int, tails: dict[int, _Tail]) -> bytes:
    """Returns the end of a page: its queue, and the bound of each lane. Lanes created later are skipped as newer."""
    bounds = (tails[index].bound if index in tails else 0 for index in _LANES)
    return number.to_bytes(4, "big") + b"".join(bound.to_bytes(_BOUND_BYTES, "big") for bound in bounds)
