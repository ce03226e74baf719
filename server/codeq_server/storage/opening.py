"""Opens the store of a single server."""

from __future__ import annotations

from pathlib import Path

from .memory import MemoryStore
from .rocks import RocksStore
from .store import Store


def open_store(path: Path | None, *, fsync: bool, files_max: int) -> Store:
    """Opens the store in a directory, which is created if missing; None: opens a store in memory.

    Args:
        path: The directory.
        fsync: Whether `sync` waits for the disk.
        files_max: Maximum number of database files open at a time.

    Raises:
        StoreError: The store cannot be opened.
    """
    return MemoryStore() if path is None else RocksStore(path, fsync=fsync, files_max=files_max)
