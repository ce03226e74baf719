"""Moves the rows of one lane of a source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from codeq_internal.v1 import rows_pb2

from codeq_server.core import ids, keys
from codeq_server.core.parsing import parsed
from codeq_server.core.task_bytes import created_ms_of, keys_of, ordering_number, webhook_of
from codeq_server.storage.errors import StoreDamaged

from .sources import POSITION_MAX, SourceQueue
from .targets import Count

if TYPE_CHECKING:
    from .tasks import TaskPass


Waiting = tuple[int, int, int, bytes, bytes]
"""A row of a lane: time at which its task came there, source, position, key, value. The order is that of all sources,
and rows of a source keep their own."""


class LaneMover:
    """Moves the rows of table "t" in one lane.

    Attributes:
        queue: Queue of the lane.

    Args:
        tasks: Takes what is moved.
        queue: Queue of the lane.
        lane: The lane.
    """

    def __init__(self, tasks: TaskPass, queue: SourceQueue, lane: int) -> None:
        source = queue.source
        self.queue = queue
        self._tasks, self._source, self._lane = tasks, source, lane
        self._mark = queue.marks[lane]
        self._prefix = keys.lane_prefix(keys.TASKS, queue.number, lane)
        self._end = keys.lane_prefix(keys.TASKS, queue.number, lane + 1)
        self._new_prefix = keys.lane_prefix(keys.TASKS, queue.new_number, lane)
        numbers = source.numbers
        route = ids.Route(source.index, numbers.sources) if numbers.sources > 1 else None
        self._ids = ids.PlaceIds(queue.number, lane, route)
        self._by_source = source.index % tasks.size if numbers.sources % tasks.size == 0 else None
        """Where the ids that the source assigned lead, if they all lead to one new shard."""
        self._home = ids.shard_of("\n".join(queue.name), tasks.size)
        self._limited = tasks.is_limited(queue.name)
        self._counts: dict[int, Count] = {}

    def keep_all(self) -> None:
        """Moves all rows, each to the same position."""
        for position, key, value in self._rows(1, POSITION_MAX):
            self._take(position, key, value, position)

    def move_behind(self) -> None:
        """Moves the rows at places that were claimed, or have no order."""
        for position, key, value in self._rows(1, self._mark):
            self._take(position, key, value, self.queue.behind(self._lane, position))

    def waiting(self) -> Iterator[Waiting]:
        """Yields the rows behind the mark in order, with the times at which their tasks came there."""
        at_ms, index = 0, self._source.index
        for position, key, value in self._rows(self._mark + 1, POSITION_MAX):
            at_ms = max(at_ms, self._came_ms(key, value))
            yield at_ms, index, position, key, value

    def append(self, row: Waiting) -> None:
        """Moves a row to the end of the lane."""
        self._take(row[2], row[3], row[4], 0)

    def _rows(self, first: int, last: int) -> Iterator[tuple[int, bytes, bytes]]:
        start, end = keys.place_key(self._prefix, first), self._end
        if last < POSITION_MAX:
            end = keys.place_key(self._prefix, last + 1)
        for key, value in self._source.rows.between(start, end) if first <= last else ():
            yield keys.split_place_key(key)[2], key, value

    def _came_ms(self, key: bytes, value: bytes) -> int:
        if value[:1] != keys.POINTER:
            return created_ms_of(keys.task_bytes(value))
        lane, position, _ = keys.split_pointer(value)
        state_key = keys.place_key(keys.lane_prefix(keys.STATES, self.queue.number, lane), position)
        state = self._source.rows.get(state_key)
        if state is None:
            raise StoreDamaged(f"the row {key.hex()} leads to a task without a state row")
        return parsed(rows_pb2.StateRow, state_key, state).changed_ms

    def _count(self, shard: int) -> Count:
        count = self._counts.get(shard)
        if count is None:
            count = self._counts[shard] = self._tasks.count_of(shard, self.queue)
        return count

    def _take(self, position: int, key: bytes, value: bytes, moved_to: int) -> None:
        """Moves a row to a position; 0: to the end of its lane."""
        if value[:1] == keys.POINTER:
            self._take_pointer(position, key, value, moved_to)
            return
        queue, tasks = self.queue, self._tasks
        epoch, task_id, name = keys.home_epoch(value), keys.name_of(value), None
        if task_id:
            name = self._name_row(task_id)
            by_id = ids.hash_of(task_id) % tasks.size if tasks.size > 1 else 0
        else:
            task_id = self._ids.of(position, epoch)
            by_id = self._ids.hash_of(task_id) % tasks.size if self._by_source is None else self._by_source
        task = keys.task_bytes(value) if queue.row.keyed or queue.row.hooked else b""
        shard = self._shard(self._wanted(task, task_id, name, by_id), by_id)
        count = self._count(shard)
        if not moved_to:
            moved_to = count.lanes[self._lane].tail = count.lanes[self._lane].tail + 1
        if queue.renumbers:
            value = self._renumbered(value, task)
        if name is None and (not self._source.numbers.keeps or shard != by_id):
            name = rows_pb2.NameRow(epoch=epoch)
            value = _named(value, epoch, task_id)
        if shard != by_id:
            tasks.moved(ids.hash_of(task_id), shard)
        if name is not None:
            self._name(shard, name, task_id, keys.pack_home(self._lane, moved_to))
            count.row.named += 1
        tasks.put(shard, keys.place_key(self._new_prefix, moved_to), value)
        self._source.places.put(self._prefix[1:], position, shard, moved_to)
        self._note(shard, value, task, waits=position > self._mark)
        tasks.counted()

    def _note(self, shard: int, value: bytes, task: bytes, *, waits: bool) -> None:
        """Counts a task in its new shard."""
        count, queue = self._counts[shard], self.queue
        count.homes += 1
        queue.homes[shard] = queue.homes.get(shard, 0) + 1
        if queue.row.hooked and webhook_of(task):
            count.row.hooked += 1
        if waits and value[:1] == keys.HOME:
            count.ready(self._lane)

    def _name_row(self, task_id: str) -> rows_pb2.NameRow:
        key = keys.name_key(self.queue.row.tenant, task_id)
        value = self._source.rows.get(key)
        if value is None:
            raise StoreDamaged(f"no row leads to the task {task_id!r}")
        return parsed(rows_pb2.NameRow, key, value)

    def _wanted(self, task: bytes, task_id: str, name: rows_pb2.NameRow | None, by_id: int) -> int:
        """Returns the shard in which a task should be: with tasks that share its keys, its batch or its schedule."""
        if self.queue.row.keyed and keys_of(task) is not None:
            return self._home
        if name is not None and name.digest and self._limited:
            return self._home  # a repeated request is executed there
        if name is not None and name.batch:
            return ids.shard_of(name.batch, self._tasks.size)
        pinned = self._tasks.pin(self.queue.row.tenant, task_id)
        return by_id if pinned is None else pinned

    def _shard(self, wanted: int, by_id: int) -> int:
        numbers = self._source.numbers
        if not numbers.keeps:
            return wanted
        # Where tasks keep their places, a new shard gets the tasks of one source only.
        for shard in (wanted, by_id):
            if shard % numbers.sources == self._source.index:
                return shard
        return self._source.index

    def _renumbered(self, value: bytes, task: bytes) -> bytes:
        """Returns a home with a new number within the ordering key; the last of several numbers counts."""
        of = keys_of(task)
        if of is None or not of.ordering:
            return value
        return value + ordering_number(self.queue.at_gate(of.number))

    def _name(self, shard: int, name: rows_pb2.NameRow, task_id: str, home: int) -> None:
        name.queue, name.home = self.queue.new_number, home
        key = keys.name_key(self.queue.row.tenant, task_id)
        self._tasks.put(shard, key, name.SerializeToString())
        if name.batch:
            self._tasks.batches.add(shard, self._source, keys.name_beside(key, name.batch))

    def _take_pointer(self, position: int, key: bytes, value: bytes, moved_to: int) -> None:
        lane, home, attempts = keys.split_pointer(value)
        found = self._source.places.get(keys.lane_prefix(b"", self.queue.number, lane), home)
        if found is None:
            raise StoreDamaged(f"the row {key.hex()} leads to no task")
        shard, new_home = found
        count = self._count(shard)
        if not moved_to:
            moved_to = count.lanes[self._lane].tail = count.lanes[self._lane].tail + 1
        self._tasks.put(shard, keys.place_key(self._new_prefix, moved_to), keys.pointer(lane, new_home, attempts))
        self._source.places.put(self._prefix[1:], position, shard, moved_to)
        count.ready(self._lane)


def _named(value: bytes, epoch: int, task_id: str) -> bytes:
    """Returns a home that carries its id."""
    head = keys.PARKED_HEAD if value[:1] == keys.PARKED else keys.HOME_HEAD
    marked = (epoch | keys.NAMED_EPOCH).to_bytes(4, "big")
    return value[:1] + marked + value[5:head] + keys.name_head(task_id) + value[head:]
