"""The column families of the store's RocksDB: the log, and sets of rows, one of which is current.

The rows of a shard are in the family "default" until an imported set, the family "rows-N", replaces them. The row
ROWS_POINTER of the log names the current set. Keys of the log are in the family "log", which only members of a group
have. All families share one write-ahead log: a batch that changes several of them is written whole or not at all, and
RocksDB makes that log durable before it installs the files of a single family.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rocksdict import AccessType, ColumnFamily, IngestExternalFileOptions, Options, Rdict, WriteBatch

from .errors import StoreDamaged, StoreError, StoreFailed
from .rocks_errors import is_dropped, open_error, read_error
from .rocks_options import make_log_options
from .scanning import scan
from .store import LAST_KEY, LOG_PREFIX, ROWS_POINTER
from .write_batch import fill

DEFAULT: Final = "default"
LOG: Final = "log"

_SET: Final = re.compile(r"rows-([1-9][0-9]*)")


class Families:
    """The families of one open database.

    Args:
        path: Folder of the database.
        options: Settings of the database and of the sets of rows.
        access: How to open the database.

    Attributes:
        db: The database.
        log: The family of the log; None: the store has no log.
        rows: The current set of rows.
        current: Name of the current set.

    Raises:
        StoreError: The database cannot be opened.
    """

    def __init__(self, path: Path, options: Options, access: AccessType | None = None) -> None:
        self._path = path
        self._options = options
        try:
            # Each family is named with its settings. Otherwise an existing family would open with the settings recorded
            # in it, which lack the filters.
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
        """Returns the family of a key; None: the key belongs to the log, and the store has no log."""
        return self.rows if key < LOG_PREFIX else self.log

    def batch(self, rows: Mapping[bytes, bytes | None]) -> WriteBatch:
        """Returns a batch that writes rows of the shard and of the log at once; None deletes.

        Raises:
            StoreFailed: The batch has rows of the log, but the store has no log.
        """
        batch = WriteBatch(raw_mode=True)
        if self._rows_handle is not None:
            batch.set_default_column_family(self._rows_handle)
        if not fill(batch, rows, self._log_handle):
            raise StoreFailed(f"the store {self._path} was opened without a log")
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
        """Makes a set current for all reads and writes from now on."""
        if name not in self._sets:
            raise StoreDamaged(f"the store {self._path} is damaged, restore a backup: its rows {name} are missing")
        handle = self.db.get_column_family_handle(name)
        self._rows_handle, self.rows, self.current = handle, self._sets[name], name

    def drop(self, name: str) -> None:
        """Removes a set that is neither current nor "default"; the handle is closed by its last user."""
        self.db.drop_column_family(name)
        del self._sets[name]

    def flush(self) -> None:
        """Flushes memory to files; other threads can run during the flush."""
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
