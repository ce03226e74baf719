"""The stores that resharding makes: rows are written in batches, and the tasks of each queue are counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from codeq_internal.v1 import rows_pb2

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


class Target:
    """A new store.

    Attributes:
        shard: Its shard.
        counts: Its queues by number.
        tokens: Tokens of its leases.

    Args:
        shard: Its shard.
        path: Folder to create.
    """

    def __init__(self, shard: int, path: Path) -> None:
        self.shard = shard
        self.store = RocksStore(path, fsync=True)
        self.counts: dict[int, Count] = {}
        self.tokens: set[int] = set()
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
