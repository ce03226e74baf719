"""Keeps the log short: cuts off applied entries at its front."""

from __future__ import annotations

from typing import Final

from codeq_raft_core import RaftNode

from .disk import Disk, Work
from .log_rows import GroupKeys, base_value

LOG_BYTES: Final = 64 << 20
"""Log length from which it is cut, leaving at least half of this; a leader keeps what any member lacks."""
LOG_BYTES_MAX: Final = 256 << 20
"""Length from which a leader cuts whatever members lack: they get a snapshot. About ten seconds at full load."""
CUT_ENTRIES_MAX: Final = 8_000
"""Most entries cut off at once: deleting them blocks the event loop for about 10 ms. The rest follows with the next
applied entries."""
ENTRY_BYTES: Final = 256
"""Memory of an entry in addition to its content."""


class LogKeeper:
    """Cuts the log of a group.

    Attributes:
        base: Index of the last entry cut off.
        held: Index after which entries are kept for a snapshot in transit; None: there is none.
    """

    def __init__(self, keys: GroupKeys, disk: Disk, base: int = 0) -> None:
        self.base = base
        self.held: int | None = None
        self._keys, self._disk = keys, disk

    def keep_short(self, node: RaftNode, written: int, *, leading: bool) -> None:
        """Cuts the log if it is long.

        Args:
            node: The consensus core.
            written: Last entry whose rows are written: their order in the store's own log makes the cut safe.
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
        """Cuts off the entries up to `until`, which must be applied."""
        first = node.status.first_index
        if until < first:
            return
        rows: dict[bytes, bytes | None] = {self._keys.entry(index): None for index in range(first, until + 1)}
        rows[self._keys.base] = base_value(until, node.term_of(until))
        node.compact(until)
        self.base = until
        self._disk.submit(Work(rows))
