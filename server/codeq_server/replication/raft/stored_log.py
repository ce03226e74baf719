"""The log of a group on the disk: grows at the end, is truncated at the front, and can be replaced by a snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from codeq_raft_core import RaftNode

from .disk import Disk, Work
from .log_rows import GroupKeys, base_value

LOG_BYTES: Final = 64 << 20
"""Log length at which the log is truncated, to half of this or more; a leader keeps the entries that a member lacks."""
LOG_BYTES_MAX: Final = 256 << 20
"""Length at which a leader removes even entries that a member lacks; that member then gets a snapshot. About 10 s at
full load."""
CUT_ENTRIES_MAX: Final = 8_000
"""Maximum entries removed at once, because deleting them blocks the event loop for about 10 ms. The rest is removed
with the next applied entries."""
ENTRY_BYTES: Final = 256
"""Memory of an entry in addition to its content."""


class StoredLog:
    """The entries of a group that were handed to the disk.

    Args:
        keys: Keys of the group.
        disk: Writes the rows.
        base: Index of the last removed entry.
        last: Index of the last entry.

    Attributes:
        base: Index of the last removed entry.
        last: Index of the last entry handed to the disk.
        held: Index after which entries are kept for a snapshot in transit; None: no snapshot is in transit.
    """

    def __init__(self, keys: GroupKeys, disk: Disk, base: int = 0, last: int = 0) -> None:
        self.base, self.last = base, last
        self.held: int | None = None
        self._keys, self._disk = keys, disk

    def append(self, entries: Sequence[tuple[int, int, bytes]], rows: dict[bytes, bytes | None]) -> int:
        """Adds the row changes of new entries, replacing stored ones from the first index on; returns their size."""
        keys, size = self._keys, 0
        for index, _, content in entries:
            rows[keys.entry(index)] = content
            size += len(content)
        last = entries[-1][0]
        for index in range(last + 1, self.last + 1):
            rows[keys.entry(index)] = None  # after a restart, a stale tail would count as decided
        self.last = last
        return size

    def replace(self, index: int, term: int) -> dict[bytes, bytes | None]:
        """Returns the row changes that replace the whole log with a snapshot of the entries up to `index`."""
        keys = self._keys
        rows: dict[bytes, bytes | None] = {keys.entry(index): None for index in range(self.base + 1, self.last + 1)}
        rows[keys.base] = base_value(index, term)
        self.last = self.base = index
        return rows

    def keep_short(self, node: RaftNode, written: int, *, leading: bool) -> None:
        """Truncates the log if it has grown too long.

        Args:
            node: The consensus core.
            written: Last entry whose rows are written; their order in the store's own log makes truncation safe.
            leading: Whether this member leads.
        """
        status = node.status
        entries = status.last_index - status.first_index + 1
        size = status.log_bytes + entries * ENTRY_BYTES
        if size <= LOG_BYTES:
            return
        until = min(written, status.last_index - entries * LOG_BYTES // (2 * size))
        if leading and size <= LOG_BYTES_MAX:
            until = min([until, *(p.matched for p in node.progress())])
            if self.held is not None:
                until = min(until, self.held)
        self.cut(node, min(until, status.first_index + CUT_ENTRIES_MAX - 1))

    def cut(self, node: RaftNode, until: int) -> None:
        """Removes the entries up to `until`, which must be applied."""
        first = node.status.first_index
        if until < first:
            return
        rows: dict[bytes, bytes | None] = {self._keys.entry(index): None for index in range(first, until + 1)}
        rows[self._keys.base] = base_value(until, node.term_of(until))
        node.compact(until)
        self.base = until
        self._disk.submit(Work(rows))
