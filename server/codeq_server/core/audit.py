"""The audit trail: a row for each administrative act and each refused access.

The row of an act is part of the batch that decides the act, so neither exists without the other. Rows are kept for a
time and up to a number; the oldest are removed first. Anyone can cause refusals, so only so many get a row of their own
that they leave most rows to acts, however long a flood lasts. The others are counted, and share a row for each reason
when the hour is over.
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
AUDIT_REFUSALS_AT_ONCE = 60
"""Refusals that get a row of their own at once, after a time without any."""
AUDIT_REFUSAL_EVERY_MS: Final = 300_000
"""Time after which one more refusal gets a row of its own."""
HOUR_MS: Final = 3_600_000
"""Time from the first counted refusal to the rows of those counted until then."""
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
        "_counted_since_ms",
        "_number",
        "_oldest_ms",
        "_removed",
        "_retention_ms",
        "_shard",
        "_spare_ms",
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
        self._spare_ms = 0
        """When AUDIT_REFUSALS_AT_ONCE more refusals may get a row of their own."""
        self._counted: Counter[str] = Counter()
        """Refusals that share a row, by reason."""
        self._counted_since_ms = 0
        """When the first of them was made."""

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
        spare_ms = max(self._spare_ms, now.wall_ms) + AUDIT_REFUSAL_EVERY_MS
        if spare_ms <= now.wall_ms + AUDIT_REFUSALS_AT_ONCE * AUDIT_REFUSAL_EVERY_MS:
            self._spare_ms = spare_ms
            return True
        if not self._counted:
            self._counted_since_ms = now.wall_ms
        self._counted[reason] += 1
        self._arm()
        return False

    def work(self, now: Now) -> bool:
        """Records the counted refusals of an hour that is over, and removes rows; returns whether more are due."""
        if self.first_ms > now.wall_ms:
            return False
        if self._counted and now.wall_ms >= self._counted_since_ms + HOUR_MS:
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
            at_ms = min(at_ms, self._counted_since_ms + HOUR_MS)
        self.first_ms = at_ms


def work(shard: Shard, now: Now) -> bool:
    """Records and removes what is due in a shard's audit trail; returns whether more is due."""
    return shard.audit.work(now)
