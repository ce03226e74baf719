"""The store on disk: one RocksDB in its own directory.

The binding holds the interpreter's lock during reads and writes, for microseconds per row. It does not hold the lock
while it waits for the disk (`sync`) or during RocksDB's background work. RocksDB rejects a write that would have to
wait for background work (`no_slowdown`); the write is retried here, so that the event loop never stops.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from rocksdict import Checkpoint, Options, WriteBatch, WriteOptions

from .durable import DurableMark, make_directory, sync_file, tighten
from .errors import StoreDamaged, StoreError, StoreFailed, StoreNotWritable, reason_of
from .families import DEFAULT, Families
from .rocks_errors import is_busy, is_dropped, read_error
from .rocks_options import OPEN_FILES_MAX, make_options
from .rocks_rows import RocksRows
from .store import LAST_KEY, LOG_PREFIX, ROWS_POINTER, RowSets

STALL_SECONDS_MAX: Final = 60.0
"""Maximum time that RocksDB's background work may hold up one write."""
STALL_PAUSE_SECONDS: Final = 0.001
STALL_PAUSE_SECONDS_MAX: Final = 0.02
RECLAIM_DELETES_MIN: Final = 64
"""Number of deletes in memory from which `reclaim` flushes them."""
RECLAIM_KEYS_PER_DELETE: Final = 10
"""Maximum rows per delete for which `reclaim` flushes deletes; with fewer deletes, rewriting the rows is not worth
it."""
RECLAIM_BUSY_ROWS: Final = 50_000
"""Number of row changes since the previous call from which `reclaim` does not flush, because the buffer will soon be
full."""


class RocksStore(RocksRows):
    """A `Store` in a directory, with sets of rows.

    Args:
        path: The directory; created if missing.
        fsync: Whether `sync` waits for the disk.
        log: Whether the store will have rows of a log. A store with a log can also be opened without it.
        files_max: Maximum number of database files open at a time.
        options: Settings of the database, for tests that need small limits.

    Raises:
        StoreLocked: Another process has the store open.
        StoreNotWritable: The directory cannot be created or written.
        StoreDamaged: Files of the store are missing or unreadable.
        StoreFailed: Anything else.
    """

    def __init__(
        self,
        path: Path,
        *,
        fsync: bool,
        log: bool = False,
        files_max: int = OPEN_FILES_MAX,
        options: Options | None = None,
    ) -> None:
        self._fsync = fsync
        self._closed = False
        self._changes = 0
        """Row changes since the last `reclaim`."""
        self._write_options = WriteOptions()
        self._write_options.no_slowdown = True
        try:
            make_directory(path)
        except OSError as error:
            raise StoreNotWritable(f"the store's directory {path} cannot be created: {reason_of(error)}") from error
        try:
            tighten(path)
        except OSError as error:
            reason = reason_of(error)
            raise StoreNotWritable(f"the store's directory {path} cannot be used by this user: {reason}") from error
        super().__init__(path, Families(path, options or make_options(files_max=files_max)))
        try:
            self._durable = DurableMark(path)
            if log:
                self._families.make_log()
            for name in self._families.others():
                self.drop_rows(name)
        except BaseException as error:
            self._families.close()
            if isinstance(error, OSError):
                reason = reason_of(error)
                raise StoreNotWritable(f"the store's directory {path} cannot be written to: {reason}") from error
            if isinstance(error, StoreError) or not isinstance(error, Exception):
                raise
            raise read_error(path, error) from error

    @property
    def row_sets(self) -> RowSets:
        """See `Store.row_sets`: every store on disk has them."""
        return self

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        """See `Rows.write`; waits up to STALL_SECONDS_MAX while RocksDB rejects writes."""
        self._changes += len(rows)
        self._persist(lambda: self._try_write(rows))

    def _persist(self, attempt: Callable[[], bool]) -> None:
        pause = STALL_PAUSE_SECONDS
        deadline = 0.0
        while not attempt():
            # Sleeping releases the interpreter's lock to the event loop.
            now = time.monotonic()
            deadline = deadline or now + STALL_SECONDS_MAX
            if now >= deadline:
                raise StoreFailed(
                    f"the store {self._path} rejected every write for {STALL_SECONDS_MAX:.0f} s: its disk is too slow"
                )
            time.sleep(pause)
            pause = min(2 * pause, STALL_PAUSE_SECONDS_MAX)

    def _try_write(self, rows: Mapping[bytes, bytes | None]) -> bool:
        return self._try_batch(self._families.batch(rows))

    def _try_empty_default(self) -> bool:
        batch = WriteBatch(raw_mode=True)
        batch.delete_range(b"", LAST_KEY)
        return self._try_batch(batch)

    def _try_batch(self, batch: WriteBatch) -> bool:
        """Writes a batch; returns False, having written nothing, if RocksDB is too busy. The batch is used up."""
        try:
            self._families.db.write(batch, self._write_options)
        except Exception as error:
            if is_busy(error):
                return False
            raise StoreFailed(f"could not write to the store {self._path}: {reason_of(error)}") from error
        return True

    def sync(self) -> None:
        """See `Durability.sync`; does nothing when the store was opened without fsync."""
        if not self._fsync:
            return
        try:
            self._families.db.flush_wal(True)  # noqa: FBT003
        except Exception as error:
            raise StoreFailed(f"could not make writes to the store {self._path} durable: {reason_of(error)}") from error

    def note_durable(self, lsn: int) -> None:
        """See `Durability.note_durable`; does nothing when the store was opened without fsync."""
        if not self._fsync:
            return
        try:
            self._durable.note(lsn)
        except OSError as error:
            raise StoreFailed(f"could not write to the store {self._path}: {reason_of(error)}") from error

    def check_recovered(self, lsn: int) -> None:
        """See `Durability.check_recovered`."""
        if lsn < self._durable.lsn:
            raise StoreDamaged(
                f"the store {self._path} lost durable rows: they end at batch {lsn}, but batch {self._durable.lsn} was "
                "durable. Restore a backup; or, to continue without the lost rows, run `codeq store check` and remove "
                f"{self._path / 'DURABLE'}"
            )

    def reset_durable(self, number: int) -> None:
        """See `Durability.reset_durable`; done even without fsync."""
        try:
            self._durable.reset(number)
        except OSError as error:
            raise StoreFailed(f"could not write to the store {self._path}: {reason_of(error)}") from error

    def import_rows(self, files: Iterable[Path]) -> str:
        """See `RowSets.import_rows`.

        Importing a file holds the interpreter's lock for a millisecond, or while it is copied if it is on another file
        system.
        """
        name = ""
        try:
            name = self._families.create()
            for file in files:
                # RocksDB would hold the interpreter's lock while it syncs the file. Sync it here, so that nothing is
                # left to do.
                sync_file(file)
                self._families.ingest(name, file)
        except Exception as error:
            if name:
                self.drop_rows(name)
            raise StoreFailed(f"could not import rows into the store {self._path}: {reason_of(error)}") from error
        return name

    def switch_rows(self, name: str, rows: Mapping[bytes, bytes | None]) -> None:
        """See `RowSets.switch_rows`."""
        old = self._families.current
        if name not in self._families.others():
            raise StoreFailed(f"the store {self._path} has no set of rows {name} to switch to")
        if any(key < LOG_PREFIX for key in rows):
            raise StoreFailed("a switch of the rows can write rows of the log only")
        self.write({**rows, ROWS_POINTER: name.encode()})
        self.sync()
        self._families.use(name)
        self.drop_rows(old)

    def drop_rows(self, name: str) -> None:
        """See `RowSets.drop_rows`; RocksDB cannot drop the set "default", so its rows are deleted."""
        if name == self._families.current:
            raise StoreFailed(f"the set of rows {name} of the store {self._path} is the current one")
        try:
            if name == DEFAULT:
                self._persist(self._try_empty_default)
                self._families.db.flush()
            else:
                self._families.drop(name)
        except StoreError:
            raise
        except Exception as error:
            raise StoreFailed(f"could not drop rows of the store {self._path}: {reason_of(error)}") from error

    def free_bytes(self) -> int:
        """See `Space.free_bytes`: the space the file system has left for this user."""
        try:
            disk = os.statvfs(self._path)
        except OSError as error:
            raise StoreFailed(f"the store's directory {self._path} cannot be read: {reason_of(error)}") from error
        return disk.f_bavail * disk.f_frsize

    def reclaim(self) -> None:
        """See `Space.reclaim`.

        RocksDB removes deleted rows when it merges files, and merges files full of deletes at once. But deletes stay in
        memory until the buffer is full, and the space of many large rows may depend on a few deletes.
        """
        changes, self._changes = self._changes, 0
        families = self._families
        try:
            if families.current != DEFAULT and families.db.property_int_value("rocksdb.live-sst-files-size"):
                families.db.compact_range(None, None)  # all its rows are deleted
            if changes >= RECLAIM_BUSY_ROWS:
                return
            deletes = families.rows.property_int_value("rocksdb.num-deletes-active-mem-table") or 0
            keys = families.rows.property_int_value("rocksdb.estimate-num-keys") or 0
            if deletes >= RECLAIM_DELETES_MIN and deletes * RECLAIM_KEYS_PER_DELETE >= keys:
                families.rows.flush()
        except Exception as error:
            if is_dropped(error):
                return
            raise StoreFailed(f"could not write to the store {self._path}: {reason_of(error)}") from error

    def checkpoint(self, path: Path) -> None:
        """See `RowSets.checkpoint`: files are linked where the file system allows it, otherwise copied."""
        try:
            # A flush lets other threads run, but making a checkpoint does not, so leave little to do for the
            # checkpoint.
            self._families.flush()
            Checkpoint(self._families.db).create_checkpoint(str(path))
        except Exception as error:
            raise StoreFailed(f"could not back up the store {self._path}: {reason_of(error)}") from error

    def close(self) -> None:
        """See `DurableRows.close`."""
        if self._closed:
            return
        self._closed = True
        try:
            try:
                self._families.close()
            finally:
                self._durable.close()
        except Exception as error:
            raise StoreFailed(f"could not close the store {self._path}: {reason_of(error)}") from error
