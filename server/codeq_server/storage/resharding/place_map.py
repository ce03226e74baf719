"""Where each task and each place of a source went: a file with one number per position.

The file takes little memory of the process, whatever the number of tasks. It is not mapped into memory: a full disk
would end the process instead of failing a write.
"""

from __future__ import annotations

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
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(self._file, size * _ENTRY_BYTES)  # sparse: only positions with rows take space
        except OSError:
            os.close(self._file)
            raise

    def put(self, lane: bytes, position: int, shard: int, moved_to: int) -> None:
        """Notes where a position of a lane went.

        Raises:
            OSError: The file cannot be written.
        """
        entry = shard + 1 << _POSITION_BITS | moved_to
        at = (self._offsets[lane][0] + position) * _ENTRY_BYTES
        os.pwrite(self._file, entry.to_bytes(_ENTRY_BYTES, "big"), at)

    def get(self, lane: bytes, position: int) -> tuple[int, int] | None:
        """Returns the target shard and the position there; None: there was no row at the position.

        Raises:
            OSError: The file cannot be read.
        """
        found = self._offsets.get(lane)
        if found is None or not found[1] <= position <= found[2]:
            return None
        entry = int.from_bytes(os.pread(self._file, _ENTRY_BYTES, (found[0] + position) * _ENTRY_BYTES), "big")
        return ((entry >> _POSITION_BITS) - 1, entry & _POSITION) if entry else None

    def close(self) -> None:
        """Releases the file."""
        os.close(self._file)
