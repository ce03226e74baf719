"""Reads many tasks in slices, each small enough for the event loop.

Keys come from written rows, which hold everything already acknowledged. The tasks themselves are read with the changes
not yet written.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from . import keys
from .clock import Now
from .reads import TaskView, view_at
from .shard import Shard

SLICE_ROWS_MAX: Final = 256
"""Maximum number of rows per read."""
SLICE_ROWS_FIRST: Final = 16
"""Rows of the first read, while their size is unknown."""
SLICE_BYTES: Final = 1 << 20
"""Target size of a slice; estimated from the previous slice."""


@dataclass(slots=True)
class Walk:
    """Reads the rows of a range step by step.

    Attributes:
        start: First key not yet read; backwards: first key of the range.
        end: End of the range; backwards: the key read last.
        rows_max: Maximum number of rows per read.
        back: Whether it runs from the end to the start.
        examined: Rows read so far.
        done: Whether the range has been read completely.
    """

    start: bytes
    end: bytes
    rows_max: int = SLICE_ROWS_MAX
    back: bool = False
    examined: int = 0
    done: bool = False
    _rows: int = field(default=SLICE_ROWS_FIRST, repr=False)

    @property
    def last(self) -> bytes:
        """The key read last."""
        return self.end if self.back else self.start[:-1]

    def go_on(self, last: bytes) -> None:
        """Continues after a key that was read earlier."""
        if self.back:
            self.end = min(self.end, last)
        else:
            self.start = max(self.start, last + b"\0")

    def read(self, shard: Shard, most: int) -> list[tuple[bytes, bytes]]:
        """Returns the next rows of the range as written, at most `most` and at most `rows_max`."""
        limit = min(self._rows, most)
        scan = shard.stored.scan_back if self.back else shard.stored.scan
        rows = scan(self.start, self.end, limit)
        self.done = len(rows) < limit
        if rows:
            self.examined += len(rows)
            if self.back:
                self.end = rows[-1][0]
            else:
                self.start = rows[-1][0] + b"\0"
            size = sum(len(value) for _, value in rows)
            self._rows = max(1, min(self.rows_max, SLICE_BYTES * len(rows) // (size + 1)))
        return rows


def next_queue(shard: Shard, tenant: str, commands: Iterable[str] | None, number: int) -> int | None:
    """Returns the tenant's lowest queue number from `number` up, of these commands if any are given; None: no queue."""
    if commands is not None:
        return min((each for each in _numbers(shard, tenant, commands) if each >= number), default=None)
    of_tenant = shard.directory.tenants.get(tenant)
    if of_tenant is None:
        return None
    index = bisect_left(of_tenant.numbers, number)
    return of_tenant.numbers[index] if index < len(of_tenant.numbers) else None


def previous_queue(shard: Shard, tenant: str, commands: Iterable[str] | None, number: int) -> int | None:
    """Returns the tenant's highest queue number up to `number`, of these commands if any are given; None: no queue."""
    if commands is not None:
        return max((each for each in _numbers(shard, tenant, commands) if each <= number), default=None)
    of_tenant = shard.directory.tenants.get(tenant)
    if of_tenant is None:
        return None
    index = bisect_right(of_tenant.numbers, number)
    return of_tenant.numbers[index - 1] if index else None


def _numbers(shard: Shard, tenant: str, commands: Iterable[str]) -> list[int]:
    queues = (shard.by_name.get((tenant, command)) for command in commands)
    return [queue.number for queue in queues if queue is not None]


def view_home(shard: Shard, key: bytes, now: Now) -> TaskView | None:
    """Returns the task whose home has this key; None: the task was removed, or the row is a pointer.

    Raises:
        CorruptRows: The task's rows contradict each other.
    """
    value = shard.get(key)
    if value is None or value[:1] == keys.POINTER:
        return None
    number, lane, position = keys.split_place_key(key)
    return view_at(shard, shard.lane_named(key, number, lane), position, value, now)
