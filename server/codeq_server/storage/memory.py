"""The store in memory, for tests, the simulator and `PERSISTENCE_PROVIDER=memory`."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping
from threading import Lock
from typing import Final

from .store import LOG_PREFIX

CHUNK_KEYS_MAX: Final = 1024
"""Maximum number of keys in a chunk; a longer chunk is split in half."""


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
    """A `Store` whose rows are lost when the process ends."""

    row_sets = None

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}
        self._keys = _SortedKeys()
        self._lock = Lock()
        """Makes writes atomic for readers on other threads."""

    def get(self, key: bytes) -> bytes | None:
        """See `RowReader.get`."""
        with self._lock:
            return self._rows.get(key)

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `RowReader.scan`."""
        if start < LOG_PREFIX:
            end = min(end, LOG_PREFIX)
        with self._lock:
            rows = self._rows
            return [(key, rows[key]) for key in self._keys.page(start, end, limit)]

    def scan_back(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See `RowReader.scan_back`."""
        if start < LOG_PREFIX:
            end = min(end, LOG_PREFIX)
        with self._lock:
            rows = self._rows
            return [(key, rows[key]) for key in self._keys.page_back(start, end, limit)]

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        """See `Rows.write`."""
        with self._lock:
            stored = self._rows
            for key, value in rows.items():
                if value is not None:
                    if key not in stored:
                        self._keys.add(key)
                    stored[key] = value
                elif stored.pop(key, None) is not None:
                    self._keys.remove(key)

    def sync(self) -> None:
        """See `Durability.sync`; rows in memory are never durable."""

    def note_durable(self, lsn: int) -> None:
        """See `Durability.note_durable`; the rows do not outlive the process."""

    def check_recovered(self, lsn: int) -> None:
        """See `Durability.check_recovered`; a store in memory starts empty."""

    def reset_durable(self, number: int) -> None:
        """See `Durability.reset_durable`; the rows do not outlive the process."""

    def free_bytes(self) -> int:
        """See `Space.free_bytes`; memory is bounded by other limits, so this limit never applies."""
        return 1 << 62

    def reclaim(self) -> None:
        """See `Space.reclaim`; deleting a row frees its memory at once."""

    def close(self) -> None:
        """See `DurableRows.close`."""
