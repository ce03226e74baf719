"""The store in memory, for tests, the simulator and `PERSISTENCE_PROVIDER=memory`."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Lock
from typing import Final

from .errors import StoreFailed
from .store import LOG_PREFIX

CHUNK_KEYS_MAX: Final = 1024
"""Most keys in a chunk; a longer one is split in half."""


class _SortedKeys:
    """Sorted keys, in chunks that are cheap to insert into and to delete from."""

    __slots__ = ("_chunks", "_lasts")

    def __init__(self) -> None:
        self._chunks: list[list[bytes]] = []
        self._lasts: list[bytes] = []
        """Last key of each chunk."""

    def add(self, key: bytes) -> None:
        """Adds a key that is not present."""
        chunks, lasts = self._chunks, self._lasts
        if not chunks:
            chunks.append([key])
            lasts.append(key)
            return
        index = bisect_left(lasts, key)
        if index == len(lasts):
            index -= 1
            lasts[index] = key
            chunks[index].append(key)
        else:
            insort(chunks[index], key)
        chunk = chunks[index]
        if len(chunk) > CHUNK_KEYS_MAX:
            half = len(chunk) // 2
            chunks.insert(index, chunk[:half])
            lasts.insert(index, chunk[half - 1])
            del chunk[:half]

    def remove(self, key: bytes) -> None:
        """Removes a key that is present."""
        index = bisect_left(self._lasts, key)
        chunk = self._chunks[index]
        del chunk[bisect_left(chunk, key)]
        if not chunk:
            del self._chunks[index], self._lasts[index]
        else:
            self._lasts[index] = chunk[-1]

    def page(self, start: bytes, end: bytes, limit: int) -> list[bytes]:
        """Returns the first `limit` keys of [start, end)."""
        page: list[bytes] = []
        index = bisect_left(self._lasts, start)
        while index < len(self._chunks) and len(page) < limit:
            chunk = self._chunks[index]
            first = 0 if page else bisect_left(chunk, start)
            after = len(chunk) if chunk[-1] < end else bisect_left(chunk, end)
            page.extend(chunk[first : min(after, first + limit - len(page))])
            if after < len(chunk):
                break
            index += 1
        return page

    def page_back(self, start: bytes, end: bytes, limit: int) -> list[bytes]:
        """Returns the last `limit` keys of [start, end), last one first."""
        page: list[bytes] = []
        index = min(bisect_left(self._lasts, end), len(self._chunks) - 1)
        while index >= 0 and len(page) < limit:
            chunk = self._chunks[index]
            first = 0 if chunk[0] >= start else bisect_left(chunk, start)
            after = bisect_left(chunk, end)
            page.extend(reversed(chunk[max(first, after - (limit - len(page))) : after]))
            if first > 0:
                break
            index -= 1
        return page


class MemoryStore:
    """A `Store` that forgets everything when the process ends."""

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}
        self._keys = _SortedKeys()
        self._bytes = 0
        self._lock = Lock()
        """A write and a scan on two threads never see each other halfway."""

    def get(self, key: bytes) -> bytes | None:
        """See `Store.get`."""
        with self._lock:
            return self._rows.get(key)

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `Store.scan`."""
        if start < LOG_PREFIX:
            end = min(end, LOG_PREFIX)
        with self._lock:
            rows = self._rows
            return [(key, rows[key]) for key in self._keys.page(start, end, limit)]

    def scan_back(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `Store.scan_back`."""
        if start < LOG_PREFIX:
            end = min(end, LOG_PREFIX)
        with self._lock:
            rows = self._rows
            return [(key, rows[key]) for key in self._keys.page_back(start, end, limit)]

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        """See `Store.write`."""
        with self._lock:
            stored = self._rows
            for key, value in rows.items():
                old = stored.get(key)
                if old is not None:
                    self._bytes -= len(key) + len(old)
                if value is not None:
                    stored[key] = value
                    self._bytes += len(key) + len(value)
                    if old is None:
                        self._keys.add(key)
                elif old is not None:
                    del stored[key]
                    self._keys.remove(key)

    def sync(self) -> None:
        """See `Store.sync`; memory is as durable as it gets."""

    def note_durable(self, lsn: int) -> None:
        """See `Store.note_durable`; no later opening could ask for it."""

    def check_recovered(self, lsn: int) -> None:
        """See `Store.check_recovered`; nothing was ever recovered."""

    def reset_durable(self, number: int) -> None:
        """See `Store.reset_durable`; no later opening could ask for it."""

    def import_rows(self, files: Iterable[Path]) -> str:
        """Always fails: a store in memory has no files."""
        raise StoreFailed(f"a store in memory takes no files: {', '.join(map(str, files))}")

    def switch_rows(self, name: str, rows: Mapping[bytes, bytes | None]) -> None:  # noqa: ARG002 - part of the port
        """Always fails: there is only one set of rows."""
        raise StoreFailed(f"a store in memory has no rows {name} to switch to")

    def drop_rows(self, name: str) -> None:
        """Always fails: there is only one set of rows."""
        raise StoreFailed(f"a store in memory has no rows {name} to drop")

    def checkpoint(self, path: Path) -> None:
        """Always fails: a store in memory has no files."""
        raise StoreFailed(f"a store in memory makes no files: {path}")

    def approximate_bytes(self) -> int:
        """See `Store.approximate_bytes`."""
        return self._bytes

    def free_bytes(self) -> int:
        """See `Store.free_bytes`; memory is bounded by other means, so there is always plenty."""
        return 1 << 62

    def reclaim(self) -> None:
        """See `Store.reclaim`; a deleted row is gone at once."""

    def close(self) -> None:
        """See `Store.close`."""
