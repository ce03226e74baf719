"""The port of a store: what the engine needs, and what all stores have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol

LOG_PREFIX: Final = b"\xf0"
"""Keys from here on belong to the log and its keeper; the ones below are rows of the shard."""
ROWS_POINTER: Final = LOG_PREFIX + b"rows"
"""Row of the log with the name of the current set of rows; used by the store only."""
WRITTEN: Final = LOG_PREFIX + b"written"
"""Row of the log with the number of the last write, 8 bytes big-endian; missing in a store without a log."""
LAST_KEY: Final = b"\xff" * 32
"""Greater than every key."""


class Store(Protocol):
    """Rows in key order, and next to them the rows of a log.

    Only a store opened with a log keeps one. Rows of the log are recognised by their keys, and written together with
    the others. The rows of the shard are a set that can be replaced as a whole by an imported one.

    `get`, `scan` and `scan_back` are called on the thread of the event loop, `write`, `sync`, `note_durable` and
    `switch_rows` on one writer thread, `import_rows` and `drop_rows` on any one thread. Every method may raise a
    StoreError.
    """

    def get(self, key: bytes) -> bytes | None:
        """Returns the value of a written row, or None."""
        ...

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Returns at most `limit` written rows of [start, end) in key order; no iterator outlives the call.

        All of them are rows of the shard or all are rows of the log, depending on `start`.
        """
        ...

    def scan_back(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Returns at most `limit` written rows of [start, end), last one first; otherwise like `scan`."""
        ...

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        """Writes rows, all or none; None deletes. They are readable on return and survive the process, not the host."""
        ...

    def sync(self) -> None:
        """Makes everything written durable."""
        ...

    def note_durable(self, lsn: int) -> None:
        """Records, outside the rows, that batch `lsn` is durable; called after `sync`."""
        ...

    def check_recovered(self, lsn: int) -> None:
        """Compares the LSN of the recovered rows with the recorded one; called before anything is written.

        Raises:
            StoreDamaged: Durable rows are missing.
        """
        ...

    def reset_durable(self, number: int) -> None:
        """Makes `number` what `check_recovered` compares with, durably: from now on other writes are counted."""
        ...

    def import_rows(self, files: Iterable[Path]) -> str:
        """Imports files made by `export` as a new set of rows, durably, and returns its name; it is not yet current.

        The files are moved if they are on the store's file system.
        """
        ...

    def switch_rows(self, name: str, rows: Mapping[bytes, bytes | None]) -> None:
        """Makes a set of rows current and writes rows of the log, atomically and durably; drops the old set.

        A concurrent read finds a row of either the old set or the new one.
        """
        ...

    def drop_rows(self, name: str) -> None:
        """Drops a set of rows that is not current, as the next opening would."""
        ...

    def checkpoint(self, path: Path) -> None:
        """Creates a folder that can be opened as a store, with everything written before; it must not exist.

        May be called on any thread while the store is in use.
        """
        ...

    def approximate_bytes(self) -> int:
        """Returns approximately how many bytes the rows and the log take."""
        ...

    def free_bytes(self) -> int:
        """Returns how many bytes can still be stored."""
        ...

    def reclaim(self) -> None:
        """Reclaims the space of deleted rows if they are many compared with the remaining ones; may take seconds.

        May be called on any thread while the store is in use, and must have returned before `close`.
        """
        ...

    def close(self) -> None:
        """Closes the store; a second call does nothing. No other method may be called afterwards."""
        ...
