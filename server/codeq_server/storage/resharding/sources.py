"""The stores that are resharded: their queues, and the positions that rows of their queues get in the new stores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from codeq_internal.v1 import rows_pb2

from codeq_server.core import ids, keys
from codeq_server.core.parsing import parsed
from codeq_server.storage.errors import StoreFailed, StoreFormat
from codeq_server.storage.identity import load_identity
from codeq_server.storage.reading import Stored

from .place_map import PlaceMap, Span

POSITION_MAX: Final = ids.POSITION_MAX
LANE_ORDER: Final = (keys.PARKED_LANE, *range(keys.LANES))
"""Lanes in an order in which a pointer always comes after the home that it leads to."""


class Numbers(NamedTuple):
    """Numbers of shards.

    Attributes:
        sources: Present number.
        targets: New number.
        keeps: Whether each new shard gets its tasks from one present shard, so that they keep their places and so
            their ids: the new number is a multiple of the present one.
    """

    sources: int
    targets: int

    @property
    def keeps(self) -> bool:
        """Whether tasks keep their places."""
        return self.targets % self.sources == 0


def interleaved(position: int, mark: int, high: int, sources: int, source: int) -> int:
    """Returns a position that no position of another source gets, in a sequence that several sources share.

    Positions keep their order within a source. The marks of all sources meet at `sources * high`, so positions on
    either side of their mark stay there.

    Args:
        position: Position in the source.
        mark: Mark of the source.
        high: Greatest mark of all sources.
        sources: Number of sources.
        source: Index of the source.

    Raises:
        StoreFailed: The position is above the last one of a lane.
    """
    distance = position - mark
    made = sources * (high + distance) - source if distance <= 0 else sources * (high + distance - 1) + source + 1
    if made > POSITION_MAX:
        raise StoreFailed(f"position {position} of shard {source} would become {made}, above the last, {POSITION_MAX}")
    return made


@dataclass(slots=True)
class SourceQueue:
    """A queue of a source.

    Attributes:
        source: The source.
        number: Its number there.
        row: Its row.
        new_number: Its number in the new shards.
        marks: Mark by lane; of the parked lane, its tail.
        highs: Greatest mark of all sources, by lane.
        outbox_high: Greatest mark of all outboxes.
        renumbers: Whether several sources have tasks with keys in this queue, so that numbers at gates change.
        homes: Number of tasks that went to each new shard.
        completed: Number of its tasks that have completed and were not removed.
        failed: The same for tasks that failed.
    """

    source: Source
    number: int
    row: rows_pb2.QueueRow
    new_number: int = 0
    marks: dict[int, int] = field(default_factory=dict)
    highs: dict[int, int] = field(default_factory=dict)
    outbox_high: int = 0
    renumbers: bool = False
    homes: dict[int, int] = field(default_factory=dict)
    completed: int = 0
    failed: int = 0

    @property
    def name(self) -> tuple[str, str]:
        """Tenant and command."""
        return self.row.tenant, self.row.command

    def behind(self, lane: int, position: int) -> int:
        """Returns the new position of one at or before the lane's mark, or in the parked lane."""
        if self.source.numbers.keeps:
            return position
        return interleaved(position, self.marks[lane], self.highs[lane], self.source.numbers.sources, self.source.index)

    def place(self, lane: int, position: int) -> int:
        """Returns the new position of a place, be there a row or not; 0: nothing is known of it."""
        if position <= self.marks.get(lane, 0):
            return self.behind(lane, position)
        found = self.source.places.get(keys.lane_prefix(b"", self.number, lane), position)
        return 0 if found is None else found[1]

    def callback(self, position: int) -> int:
        """Returns the new position of a callback."""
        if self.source.numbers.keeps:
            return position
        numbers = self.source.numbers
        return interleaved(position, self.row.outbox.mark, self.outbox_high, numbers.sources, self.source.index)

    def at_gate(self, number: int) -> int:
        """Returns the new number of a task at a gate."""
        if not self.renumbers:
            return number
        return interleaved(number, 0, 0, self.source.numbers.sources, self.source.index)


class Source:
    """A store that is resharded, open for reading.

    Attributes:
        index: Its shard.
        numbers: Numbers of shards.
        rows: Its rows.
        identity: Its identity.
        tick: Its last batch.
        queues: Its queues by number.
        places: Where its tasks and places went.

    Args:
        index: Its shard.
        numbers: Numbers of shards.
        rows: Its rows.
        map_path: File for the map of places.

    Raises:
        StoreFormat: It is of another shard, or cannot be resharded.
    """

    def __init__(self, index: int, numbers: Numbers, rows: Stored, map_path: Path) -> None:
        self.index, self.numbers, self.rows = index, numbers, rows
        identity = load_identity(rows)
        if identity is None:
            raise StoreFormat(f"the store of shard {index} is empty: start the server once")
        if (identity.shard, identity.num_shards) != (index, numbers.sources):
            hint = "the number of nodes of a static cluster cannot be changed"
            if numbers.sources > 1:
                hint = "put each store into the folder of its shard"
            raise StoreFormat(
                f"the store is shard {identity.shard} of {identity.num_shards}, not shard {index} of "
                f"{numbers.sources}; {hint}"
            )
        self.identity = identity
        tick = rows.get(keys.TICK)
        self.tick = rows_pb2.TickRow() if tick is None else parsed(rows_pb2.TickRow, keys.TICK, tick)
        self.queues: dict[int, SourceQueue] = {}
        for key, value in rows.between(*keys.table_rows(keys.QUEUES)):
            number = keys.queue_of(key)
            self.queues[number] = _queue(self, number, parsed(rows_pb2.QueueRow, key, value))
        self.places = PlaceMap(map_path, self._spans())

    def _spans(self) -> Iterator[Span]:
        for number, queue in self.queues.items():
            for lane in queue.row.lanes:
                prefix = keys.lane_prefix(keys.TASKS, number, lane.lane)
                found = self.rows.scan(prefix, keys.place_key(prefix, POSITION_MAX), 1)
                if found:
                    yield Span(prefix[1:], keys.split_place_key(found[0][0])[2], lane.tail)

    def table(self, table: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yields the rows of a table."""
        return self.rows.between(*keys.table_rows(table))

    def home(self, number: int, packed: int) -> tuple[SourceQueue, int, int] | None:
        """Returns queue, target shard and new packed home of the task with this home; None: it was removed."""
        lane, position = keys.unpack_home(packed)
        found = self.places.get(keys.lane_prefix(b"", number, lane), position)
        if found is None:
            return None
        return self.queues[number], found[0], keys.pack_home(lane, found[1])


def _queue(source: Source, number: int, row: rows_pb2.QueueRow) -> SourceQueue:
    if row.HasField("purge"):
        raise StoreFormat(
            f"the queue {row.command} of {row.tenant} is being purged; start the server, and try again when it is done"
        )
    marks = {lane.lane: lane.tail if lane.lane == keys.PARKED_LANE else lane.mark for lane in row.lanes}
    return SourceQueue(source, number, row, new_number=number, marks=marks)


def align(sources: Sequence[Source]) -> dict[tuple[str, str], list[SourceQueue]]:
    """Returns the queues of all sources by name, having determined what they have in common."""
    named: dict[tuple[str, str], list[SourceQueue]] = {}
    for source in sources:
        for queue in source.queues.values():
            named.setdefault(queue.name, []).append(queue)
    for number, name in enumerate(sorted(named), 1):
        queues = named[name]
        highs: dict[int, int] = {}
        for queue in queues:
            for lane, mark in queue.marks.items():
                highs[lane] = max(highs.get(lane, 0), mark)
        for queue in queues:
            if not sources[0].numbers.keeps:
                queue.new_number = number
                queue.renumbers = sum(each.row.keyed for each in queues) > 1
            queue.highs = highs
            queue.outbox_high = max(each.row.outbox.mark for each in queues)
    return named
