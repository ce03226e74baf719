"""The port of a store: what the engine needs, and what both stores do alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Store(Protocol):
    """Rows in the order of their keys.

    `get` and `scan` are called on the thread of the event loop, `write`, `sync` and `note_durable` on one writer
    thread. Every method may raise a StoreError.
    """

    def get(self, key: bytes) -> bytes | None:
        """Returns the value of a written row, or None."""
        ...

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Returns at most `limit` written rows of [start, end) in the order of keys; nothing outlives the call."""
        ...

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        """Writes rows, None deletes: all or none. They are readable on return and survive the process, not the host."""
        ...

    def sync(self) -> None:
        """Makes everything written durable."""
        ...

    def note_durable(self, lsn: int) -> None:
        """Remembers, outside of the rows, that the batch `lsn` is durable; called after `sync`."""
        ...

    def check_recovered(self, lsn: int) -> None:
        """Compares the LSN of the recovered rows with what was durable; called before anything is written.

        Raises:
            StoreDamaged: Durable rows are missing.
        """
        ...

    def approximate_bytes(self) -> int:
        """Returns about how many bytes the rows take."""
        ...

    def free_bytes(self) -> int:
        """Returns how many bytes can still be stored."""
        ...

    def reclaim(self) -> None:
        """Lets the space of deleted rows come back if they are many beside those that are there; may take seconds.

        May be called on any thread while the store is in use, and must have returned before `close`.
        """
        ...

    def close(self) -> None:
        """Gives the store free; a second call does nothing. No other method may be called any more."""
        ...
