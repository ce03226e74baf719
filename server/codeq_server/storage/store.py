"""The port of a store: what the engine needs, and what both stores do alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol

LOG_PREFIX: Final = b"\xf0"
"""Keys from here on are those of the log and of whoever keeps it; the ones below are rows of the shard."""
ROWS_POINTER: Final = LOG_PREFIX + b"rows"
"""Row of the log with the name of the current set of rows; the store's own."""
WRITTEN: Final = LOG_PREFIX + b"written"
"""Row of the log with the number of the last write, 8 bytes big-endian; missing in a store without a log."""
LAST_KEY: Final = b"\xff" * 32
"""Above every key."""


class Store(Protocol):
    """Rows in the order of their keys, and beside them rows of a log.

    A log is kept only by a store that was opened with one. Rows of the log are told by their keys, and written together
    with the others. The rows of the shard are a set that can be replaced as a whole by one that came as files.

    `get`, `scan` and `scan_back` are called on the thread of the event loop, `write`, `sync`, `note_durable` and
    `switch_rows` on one writer thread, `import_rows` and `drop_rows` on one thread of any kind. Every method may raise
    a StoreError.
    """

    def get(self, key: bytes) -> bytes | None:
        """Returns the value of a written row, or None."""
        ...

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Returns at most `limit` written rows of [start, end) in the order of keys; nothing outlives the call.

        They are all rows of the shard or all rows of the log, as `start` is.
        """
        ...

    def scan_back(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Returns at most `limit` written rows of [start, end), the last one first; otherwise as `scan`."""
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

    def reset_durable(self, number: int) -> None:
        """Makes `number` what `check_recovered` compares with, durably: other writes are counted from now on."""
        ...

    def import_rows(self, files: Iterable[Path]) -> str:
        """Takes files that `export` made into a new set of rows, durably, and returns its name; it is not yet current.

        The files are moved when they are on the store's file system.
        """
        ...

    def switch_rows(self, name: str, rows: Mapping[bytes, bytes | None]) -> None:
        """Makes a set of rows the current one and writes rows of the log, all or nothing, durably; drops the old set.

        A read meanwhile finds a row of the old set or of the new one.
        """
        ...

    def drop_rows(self, name: str) -> None:
        """Drops a set of rows that is not current, as the next opening would."""
        ...

    def checkpoint(self, path: Path) -> None:
        """Makes a folder that can be opened as a store, with all that was written before; it must not exist.

        May be called on any thread while the store is in use.
        """
        ...

    def approximate_bytes(self) -> int:
        """Returns about how many bytes the rows and the log take."""
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
