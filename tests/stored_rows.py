"""Copies the rows of a store to disk and back."""

from __future__ import annotations

from pathlib import Path

from codeq_server.core.parsing import RowReader
from codeq_server.storage.memory import MemoryStore
from codeq_server.storage.reading import open_stored
from codeq_server.storage.rocks import RocksStore
from codeq_server.storage.store import LOG_PREFIX

ROWS_AT_ONCE = 4096


def to_disk(rows: RowReader, path: Path) -> None:
    """Creates a store with these rows."""
    store = RocksStore(path, fsync=False)
    start = b""
    while page := rows.scan(start, LOG_PREFIX, ROWS_AT_ONCE):
        store.write(dict(page))
        start = page[-1][0] + b"\0"
    store.close()


def to_memory(path: Path) -> MemoryStore:
    """Returns a store in memory with the rows of the one on disk."""
    store = MemoryStore()
    with open_stored(path) as stored:
        store.write(dict(stored.rows()))
    return store
