"""A store whose n-th change fails. It also tracks which rows would survive a power cut."""

from __future__ import annotations

from collections.abc import Mapping

from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys
from codeq_server.storage.errors import StoreFailed
from codeq_server.storage.memory import MemoryStore
from codeq_server.storage.store import DurableRows


class FailingStore:
    """Forwards everything to another store, until a change fails.

    Changes are writes, syncs and durability notes. Once a change has failed, all later changes fail too, as in RocksDB.

    Attributes:
        failed: Whether the change has failed.
        calls_after: Number of changes attempted after the failure.
        durable: The synced rows.
        durable_lsn: The last batch among the synced rows.
    """

    def __init__(self, inner: DurableRows, fail_at: int, *, late: bool) -> None:
        """Wraps a store.

        Args:
            inner: The store.
            fail_at: Number of the change that fails, counted from 1.
            late: Whether the failing change takes effect nevertheless; otherwise it does nothing.
        """
        self._inner = inner
        self._left = fail_at
        self._late = late
        self._unsynced: dict[bytes, bytes | None] = {}
        self.failed = False
        self.calls_after = 0
        self.durable = MemoryStore()
        self.durable_lsn = 0

    def get(self, key: bytes) -> bytes | None:
        """See `RowReader.get`."""
        return self._inner.get(key)

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `RowReader.scan`."""
        return self._inner.scan(start, end, limit)

    def scan_back(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `RowReader.scan_back`."""
        return self._inner.scan_back(start, end, limit)

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        """See `Rows.write`."""
        fails = self._fails()
        if not fails or self._late:
            self._inner.write(rows)
            self._unsynced |= rows
        self._raise(fails)

    def sync(self) -> None:
        """See `Durability.sync`."""
        fails = self._fails()
        if not fails or self._late:
            self._inner.sync()
            self.durable.write(self._unsynced)
            tick = self._unsynced.get(keys.TICK)
            self._unsynced = {}
            if tick is not None and not fails:
                self.durable_lsn = rows_pb2.TickRow.FromString(tick).lsn
        self._raise(fails)

    def note_durable(self, lsn: int) -> None:
        """See `Durability.note_durable`."""
        fails = self._fails()
        if not fails or self._late:
            self._inner.note_durable(lsn)
        self._raise(fails)

    def reset_durable(self, number: int) -> None:
        """See `Durability.reset_durable`."""
        self._inner.reset_durable(number)

    def check_recovered(self, lsn: int) -> None:
        """See `Durability.check_recovered`."""
        self._inner.check_recovered(lsn)

    def close(self) -> None:
        """See `DurableRows.close`."""
        self._inner.close()

    def _fails(self) -> bool:
        if self.failed:
            self.calls_after += 1
            self._raise(fails=True)
        self._left -= 1
        self.failed = self._left == 0
        return self.failed

    @staticmethod
    def _raise(fails: bool) -> None:
        if fails:
            raise StoreFailed("the disk is broken")
