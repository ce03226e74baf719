"""The rows of a store as they were at one moment, to be read while the store goes on."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from rocksdict import Rdict

from .families import read_error, scan


class StoreView:
    """Rows of one moment. RocksDB keeps what is deleted since, until the view is forgotten."""

    def __init__(self, path: Path, family: Rdict) -> None:
        self._path = path
        # It has the reading half of what a family has.
        self._rows = cast("Rdict", family.snapshot())

    def get(self, key: bytes) -> bytes | None:
        """See `Store.get`."""
        found = self.scan(key, key + b"\0", 1)
        return found[0][1] if found else None

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `Store.scan`."""
        try:
            return scan(self._rows, start, end, limit)
        except Exception as error:
            raise read_error(self._path, error) from error
