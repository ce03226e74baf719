"""The audit trail: a row for each administrative act and each refused access.

The row of an act is part of the batch that decides the act, so neither exists without the other. Rows are kept for a
time and up to a number; the oldest are removed first. Anyone can cause refusals, so only the first ones of each minute
get a row of their own. The others are counted, and share a row for each reason when the minute is over.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from codeq_internal.v1 import rows_pb2

from . import keys
from .alarms import NEVER
from .batch import Batch
from .clock import Now
from .parsing import RowReader, unpacked

if TYPE_CHECKING:
    from .shard import Shard

AUDIT_ROWS_MAX = 100_000
"""Maximum number of rows; at the limit, the oldest row makes room."""
AUDIT_REFUSALS_PER_MINUTE = 60
"""Refusals of a minute that get a row of their own."""
MINUTE_MS: Final = 60_000
SLICE: Final = 256
"""Maximum number of rows removed per call."""
_LOOK_AGAIN_MS: Final = 1_000
"""Time after which removal continues if the oldest rows are not written yet."""


class Trail:
    """The audit rows of a shard.

    Attributes:
        first_ms: When a row may have to be removed or counted refusals recorded, in Unix milliseconds.
        count: Number of rows.

    Args:
        shard: The shard.
        retention_ms: How long rows are kept.
    """

    __slots__ = (
        "_counted",
        "_minute_ms",
        "_number",
        "_oldest_ms",
        "_recorded",
        "_removed",
        "_retention_ms",
        "_shard",
        "count",
        "first_ms",
    )

    def __init__(self, shard: Shard, retention_ms: int) -> None:
        self._shard = shard
        self._retention_ms = retention_ms
        self.first_ms = NEVER
        self.count = 0
        self._number = 0
        """Number of the row made last."""
        self._removed = b""
        """Key of the row removed last; earlier keys have no rows."""
        self._oldest_ms = 0
        """Time of the oldest row."""
        self._minute_ms = 0
        """Start of the minute in which refusals were last made."""
        self._recorded = 0
        """Refusals of that minute with a row of their own."""
        self._counted: Counter[str] = Counter()
        """Its other refusals, by reason."""

    def adopt(self, rows: RowReader) -> None:
        """Continues after the stored rows.

        Raises:
            CorruptRows: The key of a row is malformed.
        """
        start, end = keys.table_rows(keys.AUDIT)
        first = rows.scan(start, end, 1)
        if first:
            oldest, newest = first[0][0], rows.scan_back(start, end, 1)[0][0]
            self._oldest_ms, number = unpacked(keys.split_audit_key, oldest, oldest)
            self._number = unpacked(keys.split_audit_key, newest, newest)[1]
            self.count = self._number - number + 1
            self._arm()

    def record(self, row: rows_pb2.AuditRow, now: Now) -> bytes:
        """Adds a row to the batch, with the time of the decision; returns its key."""
        row.at_ms = now.wall_ms
        self._number += 1
        key = keys.audit_key(now.wall_ms, self._number)
        if not self.count:
            self._oldest_ms = now.wall_ms
        self.count += 1
        self._put(self._shard.batch, key, row)
        self._arm()
        return key

    def rewrite(self, key: bytes, row: rows_pb2.AuditRow) -> None:
        """Puts the new state of a recorded row into the batch, unless the row was removed since."""
        if key > self._removed:
            self._put(self._shard.batch, key, row)

    @staticmethod
    def _put(batch: Batch, key: bytes, row: rows_pb2.AuditRow) -> None:
        value = row.SerializeToString()
        batch.rows[key] = value
        batch.size += len(value)

    def admits(self, reason: str, now: Now) -> bool:
        """Returns whether a refusal gets a row of its own; otherwise it is counted."""
        if now.wall_ms >= self._minute_ms + MINUTE_MS:
            self._record_counted(now)
            self._minute_ms, self._recorded = now.wall_ms, 0
        if self._recorded < AUDIT_REFUSALS_PER_MINUTE:
            self._recorded += 1
            return True
        self._counted[reason] += 1
        self._arm()
        return False

    def work(self, now: Now) -> bool:
        """Records the counted refusals of a minute that is over, and removes rows; returns whether more are due."""
        if self.first_ms > now.wall_ms:
            return False
        if now.wall_ms >= self._minute_ms + MINUTE_MS:
            self._record_counted(now)
        limit = now.wall_ms - self._retention_ms
        if self.count > AUDIT_ROWS_MAX or (self.count and self._oldest_ms <= limit):
            return self._remove(limit, now)
        self._arm()
        return False

    def _record_counted(self, now: Now) -> None:
        counted, self._counted = self._counted, Counter()
        for reason, count in counted.items():
            self.record(rows_pb2.AuditRow(outcome=reason, count=count), now)

    def _remove(self, limit: int, now: Now) -> bool:
        """Removes written rows made at `limit` or before, and those beyond the maximum number."""
        shard = self._shard
        rows = shard.stored.scan(*keys.audited_after(self._removed), SLICE + 1)
        for place, (key, _) in enumerate(rows):
            self._oldest_ms = unpacked(keys.split_audit_key, key, key)[0]
            due = self._oldest_ms <= limit or self.count > AUDIT_ROWS_MAX
            if not due or place == SLICE:
                self._arm()
                return due
            shard.batch.rows[key] = None
            self._removed = key
            self.count -= 1
        self._arm()
        if self.count:  # the next rows are not written yet
            self.first_ms = now.wall_ms + _LOOK_AGAIN_MS
        return False

    def _arm(self) -> None:
        at_ms = NEVER
        if self.count > AUDIT_ROWS_MAX:
            at_ms = 0
        elif self.count:
            at_ms = self._oldest_ms + self._retention_ms
        if self._counted:
            at_ms = min(at_ms, self._minute_ms + MINUTE_MS)
        self.first_ms = at_ms


def work(shard: Shard, now: Now) -> bool:
    """Records and removes what is due in a shard's audit trail; returns whether more is due."""
    return shard.audit.work(now)
