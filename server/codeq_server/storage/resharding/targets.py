"""The stores that resharding makes: rows are written in batches, and the tasks of each queue are counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from codeq_internal.v1 import rows_pb2

from codeq_server.core.claims import CLAIM_MAX
from codeq_server.storage.rocks import RocksStore

BATCH_ROWS: Final = 4096
"""Rows written at once."""


@dataclass(slots=True)
class Count:
    """The row of a queue in a new shard, as its tasks are counted.

    Attributes:
        row: The row; its lanes are in `lanes`.
        lanes: Its lanes.
        homes: Number of tasks.
    """

    row: rows_pb2.QueueRow
    lanes: dict[int, rows_pb2.LaneState] = field(default_factory=dict)
    homes: int = 0

    def ready(self, lane: int) -> None:
        """Counts a task that waits at its place."""
        self.lanes[lane].ready += 1


class Lease(NamedTuple):
    """A claim with live deliveries.

    Attributes:
        tenant: Tenant of the worker.
        row: Its row.
        extension: The row of its extended leases; it may list none.
    """

    tenant: str
    row: rows_pb2.LeaseRow
    extension: rows_pb2.ExtensionRow

    def join(self, other: Lease) -> bool:
        """Takes over the deliveries of a lease with the same token, if the same worker has both; returns whether."""
        row, added = self.row, other.row
        same = (self.tenant, row.worker, row.subject) == (other.tenant, added.worker, added.subject)
        if not same or len(row.homes) + len(added.homes) > CLAIM_MAX:
            return False
        for name in ("queues", "homes", "places", "attempts"):
            getattr(row, name).extend(getattr(added, name))
        row.lease_ms, row.claimed_ms = max(row.lease_ms, added.lease_ms), min(row.claimed_ms, added.claimed_ms)
        for name in ("queues", "homes", "lease_ms"):
            getattr(self.extension, name).extend(getattr(other.extension, name))
        return True


class Target:
    """A new store.

    Attributes:
        shard: Its shard.
        counts: Its queues by number.
        leases: Its leases by token; servers keep them in memory, too.

    Args:
        shard: Its shard.
        path: Folder to create.
    """

    def __init__(self, shard: int, path: Path) -> None:
        self.shard = shard
        self.store = RocksStore(path, fsync=True)
        self.counts: dict[int, Count] = {}
        self.leases: dict[int, Lease] = {}
        self._rows: dict[bytes, bytes | None] = {}

    def put(self, key: bytes, value: bytes) -> None:
        """Writes a row."""
        rows = self._rows
        rows[key] = value
        if len(rows) >= BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Writes what is left."""
        if self._rows:
            self.store.write(self._rows)
            self._rows = {}

    def finish(self, lsn: int) -> None:
        """Makes everything durable and closes the store."""
        self.flush()
        self.store.sync()
        self.store.reset_durable(lsn)
        self.store.close()
