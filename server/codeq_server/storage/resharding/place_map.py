"""Where each task and each place of a source went: a file with one number per position, mapped into memory.

The system keeps the parts in use in memory and writes the others to the file, so that the map of any number of tasks
takes little memory of the process.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

_ENTRY_BYTES: Final = 8
_POSITION_BITS: Final = 48
_POSITION: Final = (1 << _POSITION_BITS) - 1


class Span(NamedTuple):
    """Positions of a lane that have rows.

    Attributes:
        lane: Queue and lane, as the five bytes after the table in a key.
        first: The first of them.
        last: The last one.
    """

    lane: bytes
    first: int
    last: int


class PlaceMap:
    """Target shard and position there, by lane and position in a source.

    Args:
        path: File to create.
        spans: The lanes.
    """

    def __init__(self, path: Path, spans: Iterable[Span]) -> None:
        self._offsets: dict[bytes, tuple[int, int, int]] = {}
        """By lane: what to add to a position, the first and the last position."""
        size = 0
        for span in spans:
            self._offsets[span.lane] = (size - span.first, span.first, span.last)
            size += span.last - span.first + 1
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(file, max(size, 1) * _ENTRY_BYTES)  # sparse: only positions with rows take space
            self._map = mmap.mmap(file, 0)
        finally:
            os.close(file)
        self._entries = memoryview(self._map).cast("Q")

    def put(self, lane: bytes, position: int, shard: int, moved_to: int) -> None:
        """Notes where a position of a lane went."""
        self._entries[self._offsets[lane][0] + position] = shard + 1 << _POSITION_BITS | moved_to

    def get(self, lane: bytes, position: int) -> tuple[int, int] | None:
        """Returns the target shard and the position there; None: there was no row at the position."""
        found = self._offsets.get(lane)
        if found is None or not found[1] <= position <= found[2]:
            return None
        entry = self._entries[found[0] + position]
        return ((entry >> _POSITION_BITS) - 1, entry & _POSITION) if entry else None

    def close(self) -> None:
        """Releases the file."""
        self._entries.release()
        self._map.close()
