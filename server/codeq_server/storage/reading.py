"""Reads a store that this process has not opened, without changing or locking it: for checks, exports and views."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rocksdict import AccessType

from .errors import StoreFailed
from .families import Families
from .rocks_errors import read_error
from .rocks_options import make_options
from .rocks_rows import RocksRows
from .scanning import every_row, rows_between


class Stored(RocksRows):
    """Stored rows as of one moment."""

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Yields every row of the shard in key order, without the log's rows.

        Raises:
            StoreError: The rows cannot be read.
        """
        try:
            yield from every_row(self._families.rows)
        except Exception as error:
            raise read_error(self._path, error) from error

    def between(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yields the rows of the shard from one key on, before another key, in key order.

        Raises:
            StoreError: The rows cannot be read.
        """
        try:
            yield from rows_between(self._families.rows, start, end)
        except Exception as error:
            raise read_error(self._path, error) from error


@contextmanager
def open_stored(path: Path, files_max: int = -1) -> Iterator[Stored]:
    """Opens a store for reading. A server running on the store may remove files that have yet to be opened.

    Args:
        path: The store.
        files_max: Maximum files open at a time, for a store from which no running server removes files; -1: all files
            are opened at once.

    Raises:
        StoreError: The store does not exist or cannot be read.
    """
    if not (path / "CURRENT").is_file():
        raise StoreFailed(f"there is no store at {path}")
    with TemporaryDirectory() as logs:
        options = make_options()
        options.set_db_log_dir(logs)
        options.set_max_open_files(files_max)
        # Write-ahead logs are read as well, because rows not yet flushed are only there.
        families = Families(path, options, AccessType.read_only(False))  # noqa: FBT003
        try:
            yield Stored(path, families)
        finally:
            families.close()


def stored_rows(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yields every row of a store in key order, without changing or locking it.

    Raises:
        StoreError: The store does not exist or cannot be read.
    """
    with open_stored(path) as stored:
        yield from stored.rows()
