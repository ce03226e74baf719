"""Reads a store that this process has not opened, without changing or locking it: for checks, exports and views."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rocksdict import AccessType

from .errors import StoreFailed
from .families import Families, every_row, make_options, read_error, scan, scan_back


class Stored:
    """Stored rows as of one moment."""

    def __init__(self, path: Path, families: Families) -> None:
        self._path = path
        self._families = families

    def get(self, key: bytes) -> bytes | None:
        """Returns the value of a row or of a row of the log, or None.

        Raises:
            StoreError: It cannot be read.
        """
        family = self._families.of(key)
        try:
            value: bytes | None = None if family is None else family.get(key)
        except Exception as error:
            raise read_error(self._path, error) from error
        return value

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Returns at most `limit` rows of [start, end) in key order.

        Raises:
            StoreError: They cannot be read.
        """
        family = self._families.of(start)
        try:
            return [] if family is None else scan(family, start, end, limit)
        except Exception as error:
            raise read_error(self._path, error) from error

    def scan_back(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Returns at most `limit` rows of [start, end), last one first.

        Raises:
            StoreError: They cannot be read.
        """
        family = self._families.of(start)
        try:
            return [] if family is None else scan_back(family, start, end, limit)
        except Exception as error:
            raise read_error(self._path, error) from error

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Yields every row of the shard in key order, without those of the log.

        Raises:
            StoreError: They cannot be read.
        """
        try:
            yield from every_row(self._families.rows)
        except Exception as error:
            raise read_error(self._path, error) from error


@contextmanager
def open_stored(path: Path, files_max: int = -1) -> Iterator[Stored]:
    """Opens a store for reading. A server running on it may remove files that have yet to be opened.

    Args:
        path: The store.
        files_max: Most files open at a time, if nobody removes any; -1: all are opened at once.

    Raises:
        StoreError: There is no store, or it cannot be read.
    """
    if not (path / "CURRENT").is_file():
        raise StoreFailed(f"there is no store at {path}")
    with TemporaryDirectory() as logs:
        options = make_options()
        options.set_db_log_dir(logs)
        options.set_max_open_files(files_max)
        # Write-ahead logs are read as well: rows not yet flushed are only there.
        families = Families(path, options, AccessType.read_only(False))  # noqa: FBT003
        try:
            yield Stored(path, families)
        finally:
            families.close()


def stored_rows(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yields every row of a store in key order, without changing or locking it.

    Raises:
        StoreError: There is no store, or it cannot be read.
    """
    with open_stored(path) as stored:
        yield from stored.rows()
