"""The parts of a store, as protocols. Each user names the parts that it needs."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol

from codeq_server.core.parsing import RowReader

LOG_PREFIX: Final = b"\xf0"
"""Keys from this prefix on belong to the log of a group and to its member; keys below it are rows of the shard."""
ROWS_POINTER: Final = LOG_PREFIX + b"rows"
"""Row of the log with the name of the current set of rows; used only by the store."""
WRITTEN: Final = LOG_PREFIX + b"written"
"""Row of the log with the number of the last write, 8 bytes big-endian; missing in a store without a log."""
LAST_KEY: Final = b"\xff" * 32
"""Greater than every key."""

_PAGE_ROWS: Final = 256


class Rows(RowReader, Protocol):
    """Rows in key order: the shard's rows, and beside them a log's rows, distinguished by their keys.

    Only a store opened with a log keeps rows of the log. A scan returns rows of the shard or rows of the log, depending
    on its start. Reads happen on the event loop's thread, writes on one writer thread. Every method of every part may
    raise a StoreError.
    """

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        """Writes rows, all or none; None deletes. They are readable on return and survive the process, not the host."""
        ...


class Durability(Protocol):
    """Makes writes durable, and detects on the next opening if durable writes were lost. Used by the writer thread."""

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
        """Durably replaces the number that `check_recovered` compares with: from now on other writes are counted."""
        ...


class RowSets(Protocol):
    """Moves whole sets of rows: imports snapshots from files, writes checkpoints to folders. For stores on disk."""

    def import_rows(self, files: Iterable[Path]) -> str:
        """Imports files made by `export` as a new set of rows, durably, and returns its name; it is not yet current.

        The files are moved if they are on the store's file system. May be called on one thread at a time.
        """
        ...

    def switch_rows(self, name: str, rows: Mapping[bytes, bytes | None]) -> None:
        """Makes a set of rows current and writes rows of the log, atomically and durably; drops the old set.

        A concurrent read finds a row of either the old set or the new one. Called on the writer thread.
        """
        ...

    def drop_rows(self, name: str) -> None:
        """Drops a set of rows that is not current, as the next opening would. May be called on one thread at a time."""
        ...

    def checkpoint(self, path: Path) -> None:
        """Creates a folder that can be opened as a store, with everything written so far; the folder must not exist.

        May be called on any thread while the store is in use.
        """
        ...


class Space(Protocol):
    """Reports and reclaims the space that rows take. May be called on any thread, and must return before `close`."""

    def free_bytes(self) -> int:
        """Returns how many bytes can still be stored."""
        ...

    def reclaim(self) -> None:
        """Reclaims the space of deleted rows if there are many compared with the remaining rows; may take seconds."""
        ...


class DurableRows(Rows, Durability, Protocol):
    """The parts that a log writes to; the log closes them."""

    def close(self) -> None:
        """Closes the store; a second call does nothing. No other method may be called afterwards."""
        ...


class ReplaceableRows(DurableRows, RowSets, Protocol):
    """The parts that a member of a group writes to: a snapshot replaces its rows as a whole."""


class Store(DurableRows, Space, Protocol):
    """An open store, as seen by the host that hands its parts to their users."""

    @property
    def row_sets(self) -> RowSets | None:
        """Sets of rows of the store; None: the store is in memory, so it has no files."""
        ...


def delete_log(rows: Rows, keep: Container[bytes]) -> None:
    """Deletes the rows of the log except those with the keys `keep`."""
    start = LOG_PREFIX
    while page := rows.scan(start, LAST_KEY, _PAGE_ROWS):
        rows.write({key: None for key, _ in page if key not in keep})
        start = page[-1][0] + b"\0"
