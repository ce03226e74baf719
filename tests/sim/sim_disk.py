"""A disk that keeps what was synced. Writes can be read at once; a power cut takes those back that were not synced.

What is left after a power cut is a prefix of the writes, as it is with a write-ahead log.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from codeq_server.storage.memory import MemoryStore
from sim_loop import pause

Rows = Mapping[bytes, "bytes | None"]


class Disk:
    """What outlives processes."""

    def __init__(self, chance: random.Random, on_durable: Callable[[Rows], None]) -> None:
        self.written = MemoryStore()
        self.durable = MemoryStore()
        self._unsynced: list[Rows] = []
        self._chance = chance
        self._on_durable = on_durable

    def write(self, rows: Rows) -> None:
        copy = dict(rows)
        self.written.write(copy)
        self._unsynced.append(copy)

    def sync(self) -> None:
        self._keep(len(self._unsynced))

    def cut_power(self) -> None:
        """Loses a tail of what was not synced."""
        self._keep(self._chance.randint(0, len(self._unsynced)))
        self._unsynced = []
        self.written = MemoryStore()
        self.written.write(dict(self.durable.scan(b"", b"\xff" * 8, 1 << 30)))

    def _keep(self, count: int) -> None:
        for rows in self._unsynced[:count]:
            self.durable.write(rows)
            self._on_durable(rows)
        del self._unsynced[:count]


class DiskStore:
    """A `Store` on a disk, for the life of one process."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def get(self, key: bytes) -> bytes | None:
        return self._disk.written.get(key)

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return self._disk.written.scan(start, end, limit)

    def write(self, rows: Rows) -> None:
        pause()
        self._disk.write(rows)

    def sync(self) -> None:
        pause()
        self._disk.sync()
        pause()

    def note_durable(self, lsn: int) -> None:
        """Damage of what was synced is not simulated."""

    def check_recovered(self, lsn: int) -> None:
        """Damage of what was synced is not simulated."""

    def approximate_bytes(self) -> int:
        return self._disk.written.approximate_bytes()

    def free_bytes(self) -> int:
        return 1 << 40

    def reclaim(self) -> None:
        """Nothing to give back."""

    def close(self) -> None:
        """Nothing to give free."""
