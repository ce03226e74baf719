"""The column families of the store's RocksDB: the log, and the sets of rows, one of which is current.

The rows of a shard are in the family "default" until an imported set takes their place, which is the family "rows-N".
The row ROWS_POINTER of the log says which set is current. Keys of the log are in the family "log", which only members
of a group have. All families share one write-ahead log: a batch that changes several of them is written whole or not at
all, and RocksDB makes that log durable before it installs the files of a single family.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice, takewhile
from pathlib import Path
from typing import Final, cast

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    ColumnFamily,
    DBCompressionType,
    DBRecoveryMode,
    IngestExternalFileOptions,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
)

from .errors import StoreDamaged, StoreError, StoreFailed, StoreLocked, StoreNotWritable
from .store import LAST_KEY, LOG_PREFIX, ROWS_POINTER

WRITE_BUFFER_BYTES: Final = 64 << 20
WRITE_BUFFERS_MAX: Final = 3
LOG_WRITE_BUFFER_BYTES: Final = 16 << 20
"""Rows of the log are deleted soon; those deleted while still in this buffer are never written to a file."""
DELETES_RATIO: Final = 0.7
"""Deletes among the entries of a file of rows from which it is merged at once."""
BLOCK_CACHE_BYTES: Final = 32 << 20
LOG_BLOCK_CACHE_BYTES: Final = 4 << 20
OPEN_FILES_MAX: Final = 512
WAL_BYTES_MAX: Final = 512 << 20
MANIFEST_BYTES_MAX: Final = 16 << 20
INFO_LOGS_MAX: Final = 3
INFO_LOG_BYTES_MAX: Final = 4 << 20

DEFAULT: Final = "default"
LOG: Final = "log"

_SET: Final = re.compile(r"rows-([1-9][0-9]*)")


def make_options(write_buffer_bytes: int = WRITE_BUFFER_BYTES, files_max: int = OPEN_FILES_MAX) -> Options:
    """Returns the database settings: bounded memory and open files, and deleted rows soon gone from disk."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)  # noqa: FBT003
    # Point in time: a torn or zero-filled end of the log is normal after a power cut. DURABLE tells it from damage.
    options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
    options.set_max_total_wal_size(WAL_BYTES_MAX)
    # Two full buffers may wait for their flush while the third fills.
    options.set_write_buffer_size(write_buffer_bytes)
    options.set_max_write_buffer_number(WRITE_BUFFERS_MAX)
    options.set_max_background_jobs(2)
    options.set_compression_type(DBCompressionType.lz4())
    # Most rows live for their retention, then go: level sizes follow the data, files full of deletes come first.
    # Under load half of what is written are deletes, of neighbours, and so are those of leases: a file must have more
    # of them than that, and no number of deletes in a row counts. Else each buffer would be merged as soon as flushed.
    options.set_level_compaction_dynamic_level_bytes(True)
    options.add_compact_on_deletion_collector_factory(0, 0, DELETES_RATIO)
    # Merging eight buffers at a time rewrites each row half as often as four do: with four, ten million creates in a
    # thousand queues end at 0.7 to 0.9 of the speed they begin with, with eight at 1.0 (bench/depth.py).
    options.set_level_zero_file_num_compaction_trigger(8)
    options.set_max_bytes_for_level_base(8 * write_buffer_bytes)
    options.set_target_file_size_base(write_buffer_bytes)
    table = BlockBasedOptions()
    table.set_block_cache(Cache(BLOCK_CACHE_BYTES))
    table.set_block_size(8 << 10)
    # Lookups of missing rows are common: most tasks have no state row.
    table.set_bloom_filter(10, False)  # noqa: FBT003
    options.set_block_based_table_factory(table)
    options.set_max_open_files(files_max)
    # Memtables and files are freed in the background, as reads run on the event loop.
    options.set_avoid_unnecessary_blocking_io(True)
    options.set_max_manifest_file_size(MANIFEST_BYTES_MAX)
    options.set_keep_log_file_num(INFO_LOGS_MAX)
    options.set_max_log_file_size(INFO_LOG_BYTES_MAX)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


def make_log_options() -> Options:
    """Returns the settings of the log: written once, read when the store opens, deleted after minutes."""
    options = Options(raw_mode=True)
    options.set_write_buffer_size(LOG_WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(WRITE_BUFFERS_MAX)
    options.set_compression_type(DBCompressionType.none())
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_max_bytes_for_level_base(4 * LOG_WRITE_BUFFER_BYTES)
    options.set_target_file_size_base(LOG_WRITE_BUFFER_BYTES)
    options.add_compact_on_deletion_collector_factory(1024, 512, 0.5)
    table = BlockBasedOptions()
    table.set_block_cache(Cache(LOG_BLOCK_CACHE_BYTES))
    table.set_block_size(32 << 10)
    options.set_block_based_table_factory(table)
    return options


class Families:
    """The families of one open database.

    Args:
        path: Folder of the database.
        options: Settings of the database and of the sets of rows.
        access: How to open it.

    Attributes:
        db: The database.
        log: The family of the log; None: it is missing.
        rows: The current set of rows.
        current: Its name.

    Raises:
        StoreError: It cannot be opened.
    """

    def __init__(self, path: Path, options: Options, access: AccessType | None = None) -> None:
        self._path = path
        self._options = options
        try:
            # Each family is named with its settings: otherwise an existing one opens with the settings it recorded
            # itself, and those lack the filters.
            names = Rdict.list_cf(str(path)) if (path / "CURRENT").is_file() else [DEFAULT]
            settings = {name: make_log_options() if name == LOG else options for name in names}
            self.db = Rdict(str(path), options, settings, access or AccessType.read_write())
        except Exception as error:
            raise open_error(path, error) from error
        self.log: Rdict | None = None
        self._log_handle: ColumnFamily | None = None
        self._rows_handle: ColumnFamily | None = None
        self._sets: dict[str, Rdict] = {}
        try:
            for name in names:
                if name == LOG:
                    self._use_log(self.db.get_column_family(name))
                elif name == DEFAULT or _SET.fullmatch(name):
                    self._sets[name] = self.db.get_column_family(name)
            self.rows = self._sets[DEFAULT]
            self.current = DEFAULT
            pointer = self.log.get(ROWS_POINTER) if self.log is not None else None
            if pointer is not None:
                self.use(pointer.decode(errors="replace"))
        except BaseException as error:
            self.close()
            raise error if isinstance(error, StoreError) else read_error(path, error) from error

    def make_log(self) -> None:
        """Creates the family of the log if it is missing."""
        if self.log is None:
            self._use_log(self.db.create_column_family(LOG, make_log_options()))

    def others(self) -> list[str]:
        """Returns the names of the sets of rows that are not current; "default" only if it is not empty."""
        return [
            name
            for name, rows in list(self._sets.items())
            if name != self.current and (name != DEFAULT or scan(rows, b"", LAST_KEY, 1))
        ]

    def each(self) -> list[Rdict]:
        """Returns every family."""
        return [*([] if self.log is None else [self.log]), *self._sets.values()]

    def of(self, key: bytes) -> Rdict | None:
        """Returns the family of a key; None: it is a key of the log, and there is no log."""
        return self.rows if key < LOG_PREFIX else self.log

    def batch(self, rows: Mapping[bytes, bytes | None]) -> WriteBatch:
        """Returns a batch that writes rows of the shard and of the log at once; None deletes.

        Raises:
            StoreFailed: There are rows of the log, but no log.
        """
        batch = WriteBatch(raw_mode=True)
        if self._rows_handle is not None:
            batch.set_default_column_family(self._rows_handle)
        log = self._log_handle
        for key, value in rows.items():
            if key >= LOG_PREFIX:
                if log is None:
                    raise StoreFailed(f"the store {self._path} was opened without a log")
                if value is None:
                    batch.delete(key, log)
                else:
                    batch.put(key, value, log)
            elif value is None:
                del batch[key]
            else:
                batch[key] = value
        return batch

    def create(self) -> str:
        """Creates an empty set of rows and returns its name."""
        last = max((int(match[1]) for name in self._sets if (match := _SET.fullmatch(name))), default=0)
        name = f"rows-{last + 1}"
        self._sets[name] = self.db.create_column_family(name, self._options)
        return name

    def ingest(self, name: str, file: Path) -> None:
        """Moves a file of rows into a set, durably."""
        options = IngestExternalFileOptions()
        options.set_move_files(True)
        self._sets[name].ingest_external_file([str(file)], options)

    def use(self, name: str) -> None:
        """Makes a set the current one for all reads and writes from now on."""
        if name not in self._sets:
            raise StoreDamaged(f"the store {self._path} is damaged, restore a backup: its rows {name} are missing")
        handle = self.db.get_column_family_handle(name)
        self._rows_handle, self.rows, self.current = handle, self._sets[name], name

    def drop(self, name: str) -> None:
        """Removes a set that is neither current nor "default"; its last user closes its handle."""
        self.db.drop_column_family(name)
        del self._sets[name]

    def flush(self) -> None:
        """Flushes memory to files; other threads can run meanwhile."""
        for family in self.each():
            try:
                family.flush()
            except Exception as error:
                if not is_dropped(error):
                    raise

    def close(self) -> None:
        """Releases everything; RocksDB closes with the last handle."""
        self._log_handle = self._rows_handle = None
        first: Exception | None = None
        for family in (*self.each(), self.db):
            try:
                family.close()
            except Exception as error:  # noqa: BLE001 - the others must be closed as well
                first = first or error
        if first is not None:
            raise first

    def _use_log(self, log: Rdict) -> None:
        self.log = log
        self._log_handle = self.db.get_column_family_handle(LOG)


def is_dropped(error: Exception) -> bool:
    """Returns whether an operation failed because its family was dropped meanwhile."""
    return "Column family dropped" in str(error)


def scan(family: Rdict, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
    """Returns at most `limit` rows of [start, end) of a family.

    Raises:
        Exception: They cannot be read; `read_error` turns it into a StoreError.
    """
    bound = ReadOptions()
    bound.set_iterate_upper_bound(end)
    items = cast("Iterator[tuple[bytes, bytes]]", family.items(from_key=start, read_opt=bound))
    rows = list(islice(items, limit))
    if len(rows) < limit:
        _check_end(family, rows[-1][0] + b"\0" if rows else start, bound)
    return rows


def scan_back(family: Rdict, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
    """Returns at most `limit` rows of [start, end) of a family, last one first.

    Raises:
        Exception: They cannot be read; `read_error` turns it into a StoreError.
    """
    bound = ReadOptions()
    bound.set_iterate_upper_bound(end)
    items = cast("Iterator[tuple[bytes, bytes]]", family.items(backwards=True, from_key=end, read_opt=bound))
    # The binding's backward iterator has no lower bound.
    rows = list(islice(takewhile(lambda row: row[0] >= start, items), limit))
    if len(rows) < limit:
        iterator = family.iter(bound)
        iterator.seek_for_prev(end)
        if rows:
            iterator.seek_for_prev(rows[-1][0])
            iterator.prev()
        iterator.status()
    return rows


def every_row(family: Rdict) -> Iterator[tuple[bytes, bytes]]:
    """Yields all rows of a family in key order, as they were at the first read; fails like `scan`."""
    key = b""
    for key, value in cast("Iterator[tuple[bytes, bytes]]", family.items()):
        yield key, value
    _check_end(family, key + b"\0" if key else b"", ReadOptions())


def _check_end(family: Rdict, start: bytes, bound: ReadOptions) -> None:
    # The fast iterator stops at an unreadable block as it does at the end of the rows; find out which it was.
    iterator = family.iter(bound)
    iterator.seek(start)
    iterator.status()


def reason_of(error: BaseException) -> str:
    """Returns the first line of an error's text."""
    text = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return text.partition("\n")[0]


def open_error(path: Path, error: Exception) -> StoreError:
    """Returns the StoreError for a failed open."""
    text = reason_of(error)
    if "LOCK:" in text and ("Resource temporarily unavailable" in text or "lock hold by current process" in text):
        return StoreLocked(f"the store {path} is open in another process; stop that one, or set another path")
    if any(sign in text for sign in ("Permission denied", "Read-only file system", "No space left")):
        return StoreNotWritable(f"the store's directory {path} cannot be written: {text}")
    if "Corruption" in text:
        return StoreDamaged(f"the store {path} is damaged, restore a backup: {text}")
    return StoreFailed(f"the store {path} cannot be opened: {text}")


def read_error(path: Path, error: BaseException) -> StoreError:
    """Returns the StoreError for a failed read."""
    text = reason_of(error)
    if "Corruption" in text:
        return StoreDamaged(f"the store {path} is damaged, restore a backup: {text}")
    return StoreFailed(f"reading the store {path} failed: {text}")
