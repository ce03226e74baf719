"""Reads rows from RocksDB, for a store in use and for a store opened only for reading.

The binding holds the interpreter's lock during a read, for microseconds per row.
"""

from __future__ import annotations

from pathlib import Path

from .families import Families
from .rocks_errors import read_error
from .scanning import scan, scan_back
from .store import LOG_PREFIX


class RocksRows:
    """The `RowReader` of an open database."""

    def __init__(self, path: Path, families: Families) -> None:
        self._path = path
        self._families = families

    def get(self, key: bytes) -> bytes | None:
        """See `RowReader.get`.

        Raises:
            StoreError: The row cannot be read.
        """
        try:
            family = self._families.rows if key < LOG_PREFIX else self._families.log
            value: bytes | None = None if family is None else family.get(key)
        except Exception as error:
            raise read_error(self._path, error) from error
        return value

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `RowReader.scan`; no iterator outlives the call.

        Raises:
            StoreError: The rows cannot be read.
        """
        try:
            family = self._families.of(start)
            return [] if family is None else scan(family, start, end, limit)
        except Exception as error:
            raise read_error(self._path, error) from error

    def scan_back(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `RowReader.scan_back`.

        Raises:
            StoreError: The rows cannot be read.
        """
        try:
            family = self._families.of(start)
            return [] if family is None else scan_back(family, start, end, limit)
        except Exception as error:
            raise read_error(self._path, error) from error
