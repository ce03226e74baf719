"""Applies committed entries: every member makes the same row changes for the same entries, in the same order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from codeq_internal.v1 import raft_rows_pb2
from codeq_raft_core import RaftNode, Snapshot, read_conf_state

from . import members
from .entry import BatchEntry, decode
from .log_rows import Applied, GroupKeys, Stored, applied_value

NORMAL: Final = 0
"""Kind of an entry that does not change voters."""

Rows = dict[bytes, bytes | None]


class AppliedState:
    """The state that entries change: the rows of the shard, and the members of the group.

    Args:
        keys: Keys of the group.
        stored: The stored state.
        node: The consensus core.
        members_changed: Called whenever the members have changed.

    Attributes:
        applied: How far entries have been handed to the disk.
        conf_state: Conf state of Raft as of `applied`.
        members: Table of members as of `applied`.
        skipped: Batches in the log that changed nothing because another leader's batches came first.
    """

    def __init__(self, keys: GroupKeys, stored: Stored, node: RaftNode, members_changed: Callable[[], None]) -> None:
        self.applied = stored.applied
        self.conf_state = stored.conf_state
        self.members = stored.members
        self.skipped = 0
        self._keys, self._node, self._members_changed = keys, node, members_changed

    def apply(
        self, committed: Sequence[tuple[int, int, int, bytes, bytes]]
    ) -> tuple[Rows, int, list[tuple[int, int, bool]]]:
        """Applies entries.

        Args:
            committed: Index, term, kind, data and context of each.

        Returns:
            The row changes, their approximate size in bytes, and for each entry its index, its term and whether its
            rows were applied.
        """
        rows: Rows = {}
        done: list[tuple[int, int, bool]] = []
        size = 0
        for index, term, kind, data, context in committed:
            accepted = True
            self.applied = self.applied._replace(index=index, term=term)
            if kind != NORMAL:
                self._apply_voters(kind, data, context, rows)
            elif data:
                accepted = self._apply_entry(term, data, rows)
                size += len(data)
            done.append((index, term, accepted))
        rows[self._keys.applied] = applied_value(self.applied)
        return rows, size, done

    def replace(self, snapshot: Snapshot, rows: Rows) -> None:
        """Replaces the state with the state of a snapshot, and adds the row changes other than the shard's rows."""
        keys, data = self._keys, raft_rows_pb2.SnapshotData.FromString(snapshot.data)
        self.applied = Applied(snapshot.index, snapshot.term, data.lsn)
        self.conf_state, self.members = snapshot.conf_state, data.members
        rows[keys.applied] = applied_value(self.applied)
        rows[keys.conf_state] = snapshot.conf_state
        rows[keys.members] = data.members.SerializeToString()

    def _apply_entry(self, term: int, data: bytes, rows: Rows) -> bool:
        """Applies an entry; returns False if it changes nothing, on every member alike."""
        entry = decode(data)
        if not isinstance(entry, BatchEntry):
            self._apply_members(entry, rows)
            return True
        if entry.term != term or entry.previous != self.applied.lsn:
            self.skipped += 1
            return False
        rows.update(entry.rows)
        self.applied = self.applied._replace(lsn=entry.lsn)
        return True

    def _apply_voters(self, kind: int, data: bytes, context: bytes, rows: Rows) -> None:
        self.conf_state = self._node.apply_members(kind, data)
        rows[self._keys.conf_state] = self.conf_state
        self._apply_members(raft_rows_pb2.MembersChange.FromString(context), rows)

    def _apply_members(self, change: raft_rows_pb2.MembersChange, rows: Rows) -> None:
        voters = len(read_conf_state(self.conf_state).voters)
        self.members = members.changed(self.members, change, voters)
        rows[self._keys.members] = self.members.SerializeToString()
        self._members_changed()
