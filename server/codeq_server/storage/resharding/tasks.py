"""The first pass: every task, and every later place of a task, gets its new shard and its position there."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from codeq_internal.v1 import rows_pb2

from codeq_server.core import keys
from codeq_server.core.parsing import parsed
from codeq_server.storage.errors import StoreDamaged
from codeq_server.storage.moved import Moved

from .lanes import LaneMover
from .sources import LANE_ORDER, Source, SourceQueue
from .targets import Count, Target

PROGRESS_TASKS = 50_000
"""Tasks between two calls of the progress function."""


class Batches:
    """The rows of the keys of atomic batches: each new shard counts the tasks that it got."""

    def __init__(self) -> None:
        self._left: dict[tuple[int, bytes], tuple[Source, int]] = {}

    def add(self, shard: int, source: Source, key: bytes) -> None:
        """Counts a task of a batch."""
        _, count = self._left.get((shard, key), (source, 0))
        self._left[shard, key] = (source, count + 1)

    def rows(self) -> Iterator[tuple[int, bytes, rows_pb2.NameRow]]:
        """Yields shard, key and row of each batch."""
        for (shard, key), (source, count) in self._left.items():
            value = source.rows.get(key)
            if value is None:
                raise StoreDamaged(f"the row {key.hex()} of an atomic batch is missing")
            row = parsed(rows_pb2.NameRow, key, value)
            row.batch_left = count
            yield shard, key, row


class TaskPass:
    """Moves the tasks of all queues.

    Attributes:
        size: Number of new stores.
        batches: The atomic batches met.
        count: Tasks moved so far.

    Args:
        targets: The new stores.
        pinned: Shard of tasks that stay with something else, by tenant and id.
        limited: Tenants and commands whose policy limits the queue.
        moved: Gets the tasks that live in another shard than that of their ids.
        progress: Called now and then with the number of tasks moved.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        pinned: Mapping[tuple[str, str], int],
        limited: AbstractSet[tuple[str, str]],
        moved: Moved,
        progress: Callable[[int], None],
    ) -> None:
        self._targets, self._pinned, self._limited = targets, pinned, limited
        self._moved, self._progress = moved, progress
        self.size = len(targets)
        self.batches = Batches()
        self.count = 0

    def move(self, queues: Sequence[SourceQueue]) -> None:
        """Moves the tasks of the queues of one name, one of each source that has it."""
        for lane in LANE_ORDER:
            movers = [LaneMover(self, queue, lane) for queue in queues if lane in queue.marks]
            if queues[0].source.numbers.keeps:
                for mover in movers:
                    mover.keep_all()
                continue
            for mover in movers:
                mover.move_behind()
            by_source = {mover.queue.source.index: mover for mover in movers}
            for row in heapq.merge(*[mover.waiting() for mover in movers]):
                by_source[row[1]].append(row)

    def pin(self, tenant: str, task_id: str) -> int | None:
        """Returns the shard of a task that stays with something else."""
        return self._pinned.get((tenant, task_id)) if self._pinned else None

    def is_limited(self, name: tuple[str, str]) -> bool:
        """Returns whether new tasks of a tenant's command are all created in its home."""
        return name in self._limited

    def put(self, shard: int, key: bytes, value: bytes) -> None:
        """Writes a row of a new shard."""
        self._targets[shard].put(key, value)

    def moved(self, hashed: int, shard: int) -> None:
        """Notes a task that lives in another shard than that of its id."""
        self._moved.add(hashed, shard)

    def counted(self) -> None:
        """Counts a task that was moved."""
        self.count += 1
        if not self.count % PROGRESS_TASKS:
            self._progress(self.count)

    def count_of(self, shard: int, queue: SourceQueue) -> Count:
        """Returns the count of a queue in a new shard."""
        counts = self._targets[shard].counts
        count = counts.get(queue.new_number)
        if count is None:
            count = counts[queue.new_number] = new_count(queue)
        return count


def new_count(queue: SourceQueue) -> Count:
    """Returns the row of a queue in a new shard, without tasks."""
    tenant, command = queue.name
    count = Count(rows_pb2.QueueRow(tenant=tenant, command=command, paused=queue.row.paused, keyed=queue.row.keyed))
    keeps = queue.source.numbers.keeps
    factor = 1 if keeps else queue.source.numbers.sources
    tails = {lane.lane: lane.tail for lane in queue.row.lanes} if keeps else {}
    for lane, high in (queue.marks if keeps else queue.highs).items():
        mark = factor * high
        parked = lane == keys.PARKED_LANE
        count.lanes[lane] = rows_pb2.LaneState(lane=lane, mark=0 if parked else mark, tail=tails.get(lane, mark))
    return count
