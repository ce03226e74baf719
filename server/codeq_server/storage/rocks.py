"""The store on disk: one RocksDB in a directory of its own.

Reads, iterations and writes of the binding hold the interpreter's lock, each for microseconds per row; waiting for the
disk (`sync`) and RocksDB's background work do not. A write that would have to wait for background work is refused by
RocksDB (`no_slowdown`) and tried again here from the kept rows, so that the process never stands still.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, cast

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    Checkpoint,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from .durable import DurableMark, make_directory
from .errors import StoreDamaged, StoreError, StoreFailed, StoreLocked, StoreNotWritable

WRITE_BUFFER_BYTES: Final = 64 << 20
WRITE_BUFFERS_MAX: Final = 3
BLOCK_CACHE_BYTES: Final = 32 << 20
OPEN_FILES_MAX: Final = 512
WAL_BYTES_MAX: Final = 512 << 20
MANIFEST_BYTES_MAX: Final = 16 << 20
INFO_LOGS_MAX: Final = 3
INFO_LOG_BYTES_MAX: Final = 4 << 20
STALL_SECONDS_MAX: Final = 60.0
"""How long one write may be kept waiting by RocksDB's background work."""
STALL_PAUSE_SECONDS: Final = 0.001
STALL_PAUSE_SECONDS_MAX: Final = 0.02
RECLAIM_DELETES_MIN: Final = 64
"""Deletes in memory from which `reclaim` writes them out."""
RECLAIM_KEYS_PER_DELETE: Final = 10
"""Rows there are for each delete, at most, for which `reclaim` writes deletes out: a row is rewritten for no less."""
RECLAIM_BUSY_ROWS: Final = 50_000
"""Row changes since the call before from which `reclaim` leaves deletes to the buffer, which will soon be full."""
PAGE_ROWS: Final = 1024
"""Rows that `stored_rows` reads at a time."""

_LAST_KEY: Final = b"\xff" * 32
"""Above every key."""


def make_options(write_buffer_bytes: int = WRITE_BUFFER_BYTES) -> Options:
    """Returns the settings of the database: bounded memory, and old rows gone soon after they are deleted."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)  # noqa: FBT003
    # Point in time: a torn or zero-filled end of the log is a normal power cut. DURABLE tells it from damage.
    options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
    options.set_max_total_wal_size(WAL_BYTES_MAX)
    # Two full buffers may wait for their flush while the third fills.
    options.set_write_buffer_size(write_buffer_bytes)
    options.set_max_write_buffer_number(WRITE_BUFFERS_MAX)
    options.set_max_background_jobs(2)
    options.set_compression_type(DBCompressionType.lz4())
    # Most rows live for their retention and go: level sizes that follow the data, and files full of deletes first.
    options.set_level_compaction_dynamic_level_bytes(True)
    # Merging eight buffers at a time rewrites each row half as often as four do: with four, ten million creates in a
    # thousand queues end at 0.7 to 0.9 of the speed they begin with, with eight at 1.0 (bench/depth.py).
    options.set_level_zero_file_num_compaction_trigger(8)
    options.set_max_bytes_for_level_base(8 * write_buffer_bytes)
    options.set_target_file_size_base(write_buffer_bytes)
    options.add_compact_on_deletion_collector_factory(1024, 512, 0.5)
    table = BlockBasedOptions()
    table.set_block_cache(Cache(BLOCK_CACHE_BYTES))
    table.set_block_size(8 << 10)
    # Asking for rows that do not exist is common: most tasks have no state row.
    table.set_bloom_filter(10, False)  # noqa: FBT003
    options.set_block_based_table_factory(table)
    options.set_max_open_files(OPEN_FILES_MAX)
    # Freeing memtables and files is left to the background, as reads run on the event loop.
    options.set_avoid_unnecessary_blocking_io(True)
    options.set_max_manifest_file_size(MANIFEST_BYTES_MAX)
    options.set_keep_log_file_num(INFO_LOGS_MAX)
    options.set_max_log_file_size(INFO_LOG_BYTES_MAX)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


class RocksStore:
    """A `Store` in a directory.

    Args:
        path: The directory; made if it is missing.
        fsync: Whether `sync` waits for the disk.
        options: Settings of the database, for tests that need small ones.

    Raises:
        StoreLocked: Another process has it open.
        StoreNotWritable: The directory cannot be made or written.
        StoreDamaged: Files of the store are missing or unreadable.
        StoreFailed: Anything else.
    """

    def __init__(self, path: Path, *, fsync: bool, options: Options | None = None) -> None:
        self._path = path
        self._fsync = fsync
        self._closed = False
        self._changes = 0
        """Row changes since the last `reclaim`."""
        self._write_options = WriteOptions()
        self._write_options.no_slowdown = True
        try:
            make_directory(path)
        except OSError as error:
            raise StoreNotWritable(f"the store's directory {path} cannot be made: {_reason(error)}") from error
        chosen = options or make_options()
        try:
            # Named for the column family, too: without that an existing store opens with the settings that it has
            # written down itself, and those lack the filters.
            self._db = Rdict(str(path), chosen, {"default": chosen})
        except Exception as error:
            raise _open_error(path, error) from error
        try:
            self._durable = DurableMark(path)
        except BaseException as error:
            self._db.close()
            if isinstance(error, OSError):
                raise StoreNotWritable(f"the store's directory {path} cannot be written: {_reason(error)}") from error
            raise

    @property
    def durable_lsn(self) -> int:
        """LSN that was known to be durable when the store was opened."""
        return self._durable.lsn

    def get(self, key: bytes) -> bytes | None:
        """See `Store.get`."""
        try:
            value: bytes | None = self._db.get(key)
        except Exception as error:
            raise _read_error(self._path, error) from error
        return value

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `Store.scan`."""
        try:
            return _scan(self._db, start, end, limit)
        except Exception as error:
            raise _read_error(self._path, error) from error

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        """See `Store.write`; waits up to STALL_SECONDS_MAX while RocksDB refuses writes."""
        pause = STALL_PAUSE_SECONDS
        deadline = 0.0
        self._changes += len(rows)
        while not self._try_write(rows):
            # Sleeping gives the interpreter's lock to the event loop.
            now = time.monotonic()
            deadline = deadline or now + STALL_SECONDS_MAX
            if now >= deadline:
                raise StoreFailed(
                    f"the store {self._path} refused a write for {STALL_SECONDS_MAX:.0f} s: its disk is too slow"
                )
            time.sleep(pause)
            pause = min(2 * pause, STALL_PAUSE_SECONDS_MAX)

    def _try_write(self, rows: Mapping[bytes, bytes | None]) -> bool:
        """Writes rows, or returns False if RocksDB is too busy: then nothing is written, and the batch is used up."""
        batch = WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        for key, value in rows.items():
            if value is None:
                delete(key)
            else:
                put(key, value)
        try:
            self._db.write(batch, self._write_options)
        except Exception as error:
            if str(error).startswith("Result incomplete"):
                return False
            raise StoreFailed(f"writing to the store {self._path} failed: {_reason(error)}") from error
        return True

    def sync(self) -> None:
        """See `Store.sync`; does nothing when the store was opened without fsync."""
        if not self._fsync:
            return
        try:
            self._db.flush_wal(True)  # noqa: FBT003
        except Exception as error:
            raise StoreFailed(f"making writes of the store {self._path} durable failed: {_reason(error)}") from error

    def note_durable(self, lsn: int) -> None:
        """See `Store.note_durable`; does nothing when the store was opened without fsync."""
        if not self._fsync:
            return
        try:
            self._durable.note(lsn)
        except OSError as error:
            raise StoreFailed(f"writing to the store {self._path} failed: {_reason(error)}") from error

    def check_recovered(self, lsn: int) -> None:
        """See `Store.check_recovered`."""
        if lsn < self._durable.lsn:
            raise StoreDamaged(
                f"the store {self._path} lost durable rows: they end at batch {lsn}, but batch {self._durable.lsn} was "
                "durable. Restore a backup; or, to go on without what is lost, run `codeq store check` and remove "
                f"{self._path / 'DURABLE'}"
            )

    def approximate_bytes(self) -> int:
        """See `Store.approximate_bytes`."""
        names = ("rocksdb.live-sst-files-size", "rocksdb.cur-size-all-mem-tables")
        return sum(self._db.property_int_value(name) or 0 for name in names)

    def free_bytes(self) -> int:
        """See `Store.free_bytes`: what the file system has left for this user."""
        try:
            disk = os.statvfs(self._path)
        except OSError as error:
            raise StoreFailed(f"the store's directory {self._path} cannot be read: {_reason(error)}") from error
        return disk.f_bavail * disk.f_frsize

    def reclaim(self) -> None:
        """See `Store.reclaim`.

        What was deleted goes when files are merged, and files full of deletes are merged at once. But deletes wait in
        memory until the buffer is full, and few of them may stand for a store full of large rows.
        """
        changes, self._changes = self._changes, 0
        if changes >= RECLAIM_BUSY_ROWS:
            return
        try:
            deletes = self._db.property_int_value("rocksdb.num-deletes-active-mem-table") or 0
            keys = self._db.property_int_value("rocksdb.estimate-num-keys") or 0
            if deletes >= RECLAIM_DELETES_MIN and deletes * RECLAIM_KEYS_PER_DELETE >= keys:
                self._db.flush()
        except Exception as error:
            raise StoreFailed(f"writing to the store {self._path} failed: {_reason(error)}") from error

    def checkpoint(self, path: Path) -> None:
        """Makes a folder that can be opened as a store, with all rows of one moment; it must not exist.

        Files are linked where the file system can, else copied. May be called on any thread while the store is in use.
        """
        try:
            # Flushing lets other threads run, making the checkpoint does not: so there is little left to do for it.
            self._db.flush()
            Checkpoint(self._db).create_checkpoint(str(path))
        except Exception as error:
            raise StoreFailed(f"backing up the store {self._path} failed: {_reason(error)}") from error

    def close(self) -> None:
        """See `Store.close`."""
        if self._closed:
            return
        self._closed = True
        try:
            try:
                self._db.close()
            finally:
                self._durable.close()
        except Exception as error:
            raise StoreFailed(f"closing the store {self._path} failed: {_reason(error)}") from error


def stored_rows(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yields every row of a store in the order of keys, without changing or locking it.

    The rows are those of one moment. A server that runs on the store meanwhile may remove files that are still to be
    read.

    Raises:
        StoreError: There is no store, or it cannot be read.
    """
    if not (path / "CURRENT").is_file():
        raise StoreFailed(f"there is no store at {path}")
    with TemporaryDirectory() as logs:
        options = make_options()
        options.set_db_log_dir(logs)
        # All files are opened at once, so that later removals do no harm.
        options.set_max_open_files(-1)
        try:
            # Logs are read: rows not yet flushed stand only there.
            db = Rdict(str(path), options, access_type=AccessType.read_only(False))  # noqa: FBT003
        except Exception as error:
            raise _open_error(path, error) from error
        try:
            start = b""
            while page := _scan(db, start, _LAST_KEY, PAGE_ROWS):
                yield from page
                start = page[-1][0] + b"\0"
        except StoreError:
            raise
        except Exception as error:
            raise _read_error(path, error) from error
        finally:
            db.close()


def _scan(db: Rdict, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
    bound = ReadOptions()
    bound.set_iterate_upper_bound(end)
    items = cast("Iterator[tuple[bytes, bytes]]", db.items(from_key=start, read_opt=bound))
    rows = list(islice(items, limit))
    if len(rows) < limit:
        # The fast iterator stops at an unreadable block as it does at the end of the rows: ask which it was.
        iterator = db.iter(bound)
        iterator.seek(rows[-1][0] + b"\0" if rows else start)
        iterator.status()
    return rows


def _reason(error: Exception) -> str:
    """Returns the first line of an error's text."""
    text = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return text.partition("\n")[0]


def _open_error(path: Path, error: Exception) -> StoreError:
    text = _reason(error)
    if "LOCK:" in text and ("Resource temporarily unavailable" in text or "lock hold by current process" in text):
        return StoreLocked(f"the store {path} is open in another process; stop that one, or set another path")
    if any(sign in text for sign in ("Permission denied", "Read-only file system", "No space left")):
        return StoreNotWritable(f"the store's directory {path} cannot be written: {text}")
    if "Corruption" in text:
        return StoreDamaged(f"the store {path} is damaged, restore a backup: {text}")
    return StoreFailed(f"the store {path} cannot be opened: {text}")


def _read_error(path: Path, error: Exception) -> StoreError:
    text = _reason(error)
    if "Corruption" in text:
        return StoreDamaged(f"the store {path} is damaged, restore a backup: {text}")
    return StoreFailed(f"reading the store {path} failed: {text}")
