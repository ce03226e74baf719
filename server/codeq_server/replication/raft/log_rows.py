"""Rows of a member in addition to its shard's rows: the log, the vote, the applied state, and the members.

Keys (all begin with LOG_PREFIX, so that they are in the column family of the log):

    prefix "node"                     NodeRow: identity of this disk
    prefix "written"                  number of the last write of the process to the store
    prefix "g" group u32 "l" index    an entry of the log, whole
    prefix "g" group u32 "h"          hard state: term, vote, commit
    prefix "g" group u32 "b"          base: index and term of the last truncated entry
    prefix "g" group u32 "a"          applied: index, term, and number of the last batch applied
    prefix "g" group u32 "c"          conf state of Raft as of the applied index
    prefix "g" group u32 "m"          MembersRow as of the applied index
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from codeq_internal.v1 import raft_rows_pb2

from codeq_server.core.parsing import RowReader
from codeq_server.storage.errors import StoreDamaged, StoreFormat
from codeq_server.storage.store import LOG_PREFIX, WRITTEN

FORMAT: Final = 1
NODE: Final = LOG_PREFIX + b"node"
PAGE: Final = 256

_GROUP = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_THREE = struct.Struct(">QQQ")
_TWO = struct.Struct(">QQ")


class HardState(NamedTuple):
    """State that a member must not forget: its term, its vote in that term, and the last entry known as committed."""

    term: int = 0
    vote: int = 0
    commit: int = 0


class Applied(NamedTuple):
    """The state of the rows: index and term of the last applied entry, number of the last applied batch."""

    index: int = 0  # type: ignore[assignment] # hides a method of tuples that nobody needs here
    term: int = 0
    lsn: int = 0


@dataclass(slots=True)
class Stored:
    """A group's state as found in the store.

    Attributes:
        hard_state: Term, vote and commit.
        base: Index and term before the first entry of the log.
        applied: State of the rows.
        conf_state: Conf state of Raft; empty: the node belongs to no group yet.
        members: Table of members.
        entries: Entries above the base, whole.
        last_index: Index of the last entry.
    """

    hard_state: HardState = field(default_factory=HardState)
    base: tuple[int, int] = (0, 0)
    applied: Applied = field(default_factory=Applied)
    conf_state: bytes = b""
    members: raft_rows_pb2.MembersRow = field(default_factory=raft_rows_pb2.MembersRow)
    entries: list[bytes] = field(default_factory=list)
    last_index: int = 0


class GroupKeys:
    """The keys of one group."""

    def __init__(self, group: int) -> None:
        self._log = LOG_PREFIX + b"g" + _GROUP.pack(group) + b"l"
        stem = self._log[:-1]
        self.hard_state, self.base, self.applied = stem + b"h", stem + b"b", stem + b"a"
        self.conf_state, self.members = stem + b"c", stem + b"m"

    def entry(self, index: int) -> bytes:
        """Returns the key of an entry."""
        return self._log + _U64.pack(index)

    def forgotten(self, base: int, last: int) -> dict[bytes, bytes | None]:
        """Returns the row changes that make a store forget the group, whose log begins after `base`."""
        rows = [self.hard_state, self.base, self.applied, self.conf_state, self.members]
        return dict.fromkeys([*rows, *(self.entry(index) for index in range(base + 1, last + 1))])

    def load_members(self, rows: RowReader) -> raft_rows_pb2.MembersRow:
        """Returns the stored table of members; empty if no table is stored."""
        return raft_rows_pb2.MembersRow.FromString(rows.get(self.members) or b"")

    def load(self, rows: RowReader) -> Stored:
        """Returns the stored state of the group.

        Raises:
            StoreDamaged: The log has a gap, or does not fit the applied index.
        """
        stored = Stored()
        if (value := rows.get(self.hard_state)) is not None:
            stored.hard_state = HardState(*_THREE.unpack(value))
        if (value := rows.get(self.base)) is not None:
            stored.base = _TWO.unpack(value)
        if (value := rows.get(self.applied)) is not None:
            stored.applied = Applied(*_THREE.unpack(value))
        stored.conf_state = rows.get(self.conf_state) or b""
        stored.members = self.load_members(rows)
        stored.last_index = stored.base[0]
        start, end = self.entry(stored.base[0] + 1), self._log[:-1] + b"m"
        while page := rows.scan(start, end, PAGE):
            for key, value in page:
                stored.last_index += 1
                if key != self.entry(stored.last_index):
                    raise StoreDamaged(
                        f"the log has no entry {stored.last_index}; remove the node from the cluster and add it again"
                    )
                stored.entries.append(value)
            start = page[-1][0] + b"\0"
        if stored.applied.index < stored.base[0] or stored.applied.index > stored.last_index:
            raise StoreDamaged(
                f"the log has entries {stored.base[0] + 1} to {stored.last_index}, but entry {stored.applied.index} is "
                "applied; remove the node from the cluster and add it again"
            )
        # Applied entries prove a commit that the stored hard state may not include yet.
        commit = max(stored.hard_state.commit, stored.applied.index)
        stored.hard_state = stored.hard_state._replace(commit=commit)
        return stored


def hard_state_value(state: tuple[int, int, int]) -> bytes:
    """Returns the value of a hard state: term, vote, commit."""
    return _THREE.pack(*state)


def base_value(index: int, term: int) -> bytes:
    """Returns the value of a base."""
    return _TWO.pack(index, term)


def applied_value(applied: Applied) -> bytes:
    """Returns the value of the applied state."""
    return _THREE.pack(*applied)


def read_applied(value: bytes) -> Applied:
    """Returns the applied state in a value."""
    return Applied(*_THREE.unpack(value))


def written_value(number: int) -> bytes:
    """Returns the value of the counter of writes."""
    return _U64.pack(number)


def read_written(rows: RowReader) -> int:
    """Returns the number of the last write in the store."""
    value = rows.get(WRITTEN)
    return 0 if value is None else int(_U64.unpack(value)[0])


def load_node(rows: RowReader) -> raft_rows_pb2.NodeRow | None:
    """Returns the identity of the disk; None: the disk was never in a cluster.

    Raises:
        StoreFormat: A newer server wrote the row.
    """
    value = rows.get(NODE)
    if value is None:
        return None
    row = raft_rows_pb2.NodeRow.FromString(value)
    if row.format > FORMAT:
        raise StoreFormat(f"the log has format {row.format}, but this server knows only formats up to {FORMAT}")
    return row
