"""A table of tasks ordered by queue, and within a queue by time.

The head of each queue is in memory; the rest is read in pages. Queues with due entries take turns, tenant by tenant. A
queue's mark says where its rows begin, so that reads do not have to skip rows deleted earlier.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from . import keys
from .alarms import Alarms
from .batch import Batch
from .model import Queue, Timeline
from .parsing import RowReader

PAGE = 256
"""Maximum number of rows of a queue per read; the first page is smaller."""
HEAD_MAX = 1024
"""Maximum entries of a queue in memory. A longer head is trimmed to half of that, but entries not yet written stay."""
ENTRIES_MAX = 131_072
"""Maximum entries of all queues in memory, about 60 bytes each. Beyond it, the least recently read heads are trimmed to
one entry."""

_KEY: Final = keys.TIME_KEY_BYTES
_AFTER: Final = b"\xff"
"""Suffix of a key that sorts after its entry and before the next key."""


class Rows(Protocol):
    """The written rows, and the batches not yet written."""

    stored: RowReader
    batch: Batch
    in_flight: deque[Batch]

    def touch(self, queue: Queue) -> None:
        """Marks a queue as changed by the batch."""
        ...


class TimeIndex:
    """One table, with the heads of its queues in memory.

    A queue's head holds every entry up to `Timeline.loaded`, and beyond that at least the entries not yet written. It
    may hold entries whose rows are deleted, which are listed in `Timeline.gone`.

    Attributes:
        alarms: When the first entry of each queue is due; a queue not read since startup counts as due.
        entries: Entries in memory.
    """

    __slots__ = ("_heads", "_rows", "_shrink_at", "alarms", "entries", "table")

    def __init__(self, table: bytes, rows: Rows) -> None:
        self.table = table
        self.alarms: Alarms[Timeline] = Alarms()
        self.entries = 0
        self._rows = rows
        self._heads: dict[Timeline, None] = {}
        """Queues with more than one entry in memory; the most recently read queue is last."""
        self._shrink_at = ENTRIES_MAX

    def adopt(self, queue: Queue, count: int, mark: bytes) -> None:
        """Registers the stored rows of a queue."""
        line = queue.timeline(self.table)
        line.count, line.mark = count, mark
        if count:
            line.loaded = line.prefix + mark
            self.alarms.set(line, 0)

    def forget(self, queue: Queue) -> None:
        """Forgets a queue that was removed; it had no rows left."""
        line = queue.timelines.get(self.table)
        if line is not None:
            self.alarms.drop(line)
            self._heads.pop(line, None)

    def put(self, queue: Queue, time_ms: int, lane: int, position: int, value: bytes) -> None:
        """Adds the task with this home, due at a time that has not come yet."""
        line = queue.timeline(self.table)
        key = keys.time_key(self.table, queue.number, time_ms, lane, position)
        self._rows.batch.rows[key] = value
        self._rows.touch(queue)
        line.count += 1
        heapq.heappush(line.heap, key + value)
        self.entries += 1
        self.alarms.set(line, time_ms)
        self._bound(line)

    def remove(self, queue: Queue, time_ms: int, lane: int, position: int) -> None:
        """Removes a task before it is due."""
        line = queue.timeline(self.table)
        key = keys.time_key(self.table, queue.number, time_ms, lane, position)
        self._rows.batch.rows[key] = None
        self._rows.touch(queue)
        line.count -= 1
        line.gone.add(key)
        if not line.count:
            self._replace(line, ())
            line.loaded = None
            self.alarms.drop(line)
        elif len(line.gone) > len(line.heap) // 2 + HEAD_MAX // 16:
            self._replace(line, line.heap)

    def take(
        self, now_ms: int, most: int, room: Callable[[str], int] | None = None
    ) -> tuple[Queue, list[bytes]] | None:
        """Takes due entries of the queue whose turn it is.

        Args:
            now_ms: Time; never less than in earlier calls.
            most: Maximum number of entries to take.
            room: Returns the maximum number of entries to take for a tenant. A queue whose tenant has no room gets no
                further turns until the caller sets its alarm again. None: there is room.

        Returns:
            The queue, and entries of it in the order of their times: keys followed by values. The list is empty if the
            queue's first entry turned out to be due later. None: nothing is due.
        """
        line = self.alarms.turn(now_ms)
        if line is None:
            return None
        if room is not None:
            most = min(most, room(line.tenant))
            if most <= 0:
                self.alarms.rest(line, None, now_ms)
                return line.queue, []
        taken: list[bytes] = []
        rows, bound = self._rows.batch.rows, keys.time_bound(line.prefix, now_ms + 1)
        entry = self._first(line)
        while entry is not None and entry < bound and len(taken) < most:
            taken.append(entry)
            rows[entry[:_KEY]] = None
            self._pop(line, entry)
            entry = self._first(line)
        line.count -= len(taken)
        if taken:
            self._rows.touch(line.queue)
            # Entries added from now on are due later than now, so nothing will ever precede the mark.
            line.mark = (taken[-1] if entry is not None and entry < bound else bound)[5:_KEY]
        self.alarms.rest(line, None if entry is None else keys.time_of(entry), now_ms)
        return line.queue, taken

    def _first(self, line: Timeline) -> bytes | None:
        """Returns the first entry of a queue, reading it if it is not in memory."""
        heap, gone = line.heap, line.gone
        while True:
            if line.loaded is not None and (not heap or heap[0] > line.loaded):
                self._load(line)
            elif not heap:
                return None
            elif gone and heap[0][:_KEY] in gone:
                gone.remove(heap[0][:_KEY])
                self._pop(line, heap[0])
            else:
                return heap[0]

    def _pop(self, line: Timeline, entry: bytes) -> None:
        """Removes the first entry of a head. An entry that was read while already in memory is there twice."""
        heap = line.heap
        while heap and heap[0] == entry:
            heapq.heappop(heap)
            self.entries -= 1

    def _load(self, line: Timeline) -> None:
        """Reads the next page of a queue."""
        assert line.loaded is not None
        unwritten = [batch.rows for batch in (*self._rows.in_flight, self._rows.batch)]
        _, end = keys.queue_rows(self.table, line.queue.number)
        found = self._rows.stored.scan(line.loaded, end, line.page)
        line.loaded = found[-1][0] + _AFTER if len(found) == line.page else None
        line.page = min(4 * line.page, PAGE)
        # Rows with unwritten changes are skipped: added rows are already in memory, and deleted rows will soon be gone.
        for key, value in found:
            if not any(key in rows for rows in unwritten):
                heapq.heappush(line.heap, key + value)
                self.entries += 1
        self._heads.pop(line, None)
        self._bound(line)

    def _bound(self, line: Timeline) -> None:
        """Trims a head that has grown, and all heads together, to their limits."""
        size = len(line.heap)
        if size > 1 and line not in self._heads:
            self._heads[line] = None
        if size > max(HEAD_MAX, line.cut_at):
            self._cut(line, HEAD_MAX // 2)
            # Entries not yet written cannot be trimmed; do not try again on every further entry.
            line.cut_at = 2 * len(line.heap)
        if self.entries > self._shrink_at:
            self._shrink(line)
            self._shrink_at = (
                ENTRIES_MAX if self.entries <= ENTRIES_MAX * 3 // 4 else max(ENTRIES_MAX, 2 * self.entries)
            )

    def _replace(self, line: Timeline, entries: Iterable[bytes]) -> None:
        """Replaces the entries in memory with these, without duplicates and without entries whose rows are deleted."""
        gone = line.gone
        kept = sorted(entry for entry in set(entries) if entry[:_KEY] not in gone)
        gone.clear()
        self.entries += len(kept) - len(line.heap)
        line.heap[:] = kept
        if len(kept) > 1:
            self._heads[line] = None
        else:
            self._heads.pop(line, None)

    def _cut(self, line: Timeline, keep: int) -> None:
        """Forgets the entries of a queue after the first `keep`, except entries not yet written."""
        self._replace(line, line.heap)
        entries = line.heap
        if len(entries) > keep:
            bound = entries[keep - 1][:_KEY] + _AFTER
            if line.loaded is None or bound < line.loaded:
                line.loaded = bound
        loaded = line.loaded
        if loaded is not None:
            unwritten = [batch.rows for batch in (*self._rows.in_flight, self._rows.batch)]
            self._replace(line, [e for e in entries if e < loaded or any(e[:_KEY] in rows for rows in unwritten)])

    def _shrink(self, keep: Timeline) -> None:
        """Trims heads, least recently read first, until all heads are within the limit; `keep` is not trimmed."""
        for line in list(self._heads):
            if self.entries <= ENTRIES_MAX * 3 // 4:
                break
            if line is not keep:
                self._cut(line, 1)
                self._heads.pop(line, None)
