"""Invariants of a cluster as a whole: one leader per term, one log, one history of rows, and no premature commit.

The oracle sees every write to every disk, and every message that leaves a machine. For judging clients, an entry is
decided once the first machine has written its rows; by then it must be durable on a majority.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from codeq_internal.v1 import raft_rows_pb2
from codeq_raft_core import read_conf_state
from codeq_server.replication.raft.applying import NORMAL
from codeq_server.replication.raft.disk_identity import GROUP
from codeq_server.replication.raft.entry import BatchEntry, decode
from codeq_server.replication.raft.log_rows import NODE, Applied, GroupKeys, read_applied
from codeq_server.storage.check import check
from codeq_server.storage.store import LOG_PREFIX, ROWS_POINTER
from raft_wire import TYPES, Entry, read
from sim_audit import Audit
from sim_disk import Disk, Image

Rows = Mapping[bytes, "bytes | None"]
KEYS = GroupKeys(GROUP)
CONFS = 3
"""Number of configurations that a leader may be using, because others may have applied a two-step change before it
has."""
_ALL = 1 << 30
_GRANT = TYPES.index("MsgRequestVoteResponse")
_ACCEPT = TYPES.index("MsgAppendResponse")
_OF_LEADERS = frozenset(TYPES.index(kind) for kind in ("MsgAppend", "MsgHeartbeat", "MsgSnapshot"))


def applied_in(image: Image) -> Applied:
    """Returns the applied position of an image's rows."""
    value = image.log.get(KEYS.applied)
    return Applied() if value is None else read_applied(value)


def base_in(image: Image) -> tuple[int, int]:
    """Returns index and term of the last compacted entry."""
    value = image.log.get(KEYS.base) or bytes(16)
    return int.from_bytes(value[:8], "big"), int.from_bytes(value[8:], "big")


class WatchedDisk(Disk):
    """A disk that reports every write to the oracle."""

    def __init__(self, chance: Any, oracle: Oracle, name: str) -> None:
        super().__init__(chance, lambda _: None)
        self.name = name
        self.raft_id = 0
        self._oracle = oracle

    def write(self, rows: Rows) -> None:
        before = applied_in(self.written)
        super().write(rows)
        self._oracle.wrote(self, before, rows)

    def rows(self) -> list[tuple[bytes, bytes]]:
        """Returns the readable rows of the shard."""
        return self.written.sets[self.written.current].scan(b"", LOG_PREFIX, _ALL)


class Oracle:
    """Judges the machines of a run.

    Attributes:
        last: Index of the last decided entry.
    """

    def __init__(self, audit: Audit) -> None:
        self.audit = audit
        self.last = 0
        self._disks: dict[int, WatchedDisk] = {}
        self._entries: dict[int, bytes] = {}
        self._terms: dict[int, int] = {}
        self._rows: dict[int, Rows] = {}
        self._lsn: dict[int, int] = {}
        self._digest: dict[int, int] = {}
        self._last_of_term: dict[int, int] = {}
        self._leaders: dict[int, int] = {}
        self._serving: dict[int, int] = {}
        self._confs: list[bytes] = []

    # -- writes --------------------------------------------------------------------------------------------------------

    def wrote(self, disk: WatchedDisk, before: Applied, rows: Rows) -> None:
        """Judges a write."""
        if rows.get(NODE):
            disk.raft_id = raft_rows_pb2.NodeRow.FromString(rows[NODE] or b"").raft_id
            self._disks[disk.raft_id] = disk
        self._check_end(disk, rows)
        shard_rows = {key: value for key, value in rows.items() if key < LOG_PREFIX}
        applied = applied_in(disk.written)
        if ROWS_POINTER in rows:
            self.audit.count("snapshot installed")
            self._check_rows(disk, "a snapshot")
            return
        if applied.index == before.index:
            self.audit.demand(not shard_rows, f"{disk.name} writes rows without an entry")
            return
        self._note_conf(disk)
        if not before.index:
            self._founded(applied, disk)
            return
        expected: dict[bytes, bytes | None] = {}
        for index in range(before.index + 1, applied.index + 1):
            self._decide(disk, index)
            expected.update(self._rows[index])
        self.audit.demand(expected == shard_rows, f"{disk.name} applies rows that differ from the log's")
        right = Applied(applied.index, self._terms[applied.index], self._lsn[applied.index])
        self.audit.demand(applied == right, f"{disk.name} records {applied} where {right} is applied")

    def _note_conf(self, disk: WatchedDisk) -> None:
        conf = disk.written.log.get(KEYS.conf_state) or b""
        if conf not in self._confs:
            self._confs = [*self._confs, conf][-CONFS:]

    def _founded(self, applied: Applied, disk: WatchedDisk) -> None:
        self.audit.demand(self.last <= applied.index, f"{disk.name} founds a second cluster")
        self.last = applied.index
        self._lsn[self.last] = self._digest[self.last] = 0
        self._terms[self.last] = applied.term

    def _decide(self, disk: WatchedDisk, index: int) -> None:
        value = disk.written.log.get(KEYS.entry(index))
        self.audit.demand(value is not None, f"{disk.name} applies entry {index}, which is not in its log")
        assert value is not None
        if index <= self.last:
            self.audit.demand(value == self._entries[index], f"{disk.name} applies another entry {index}")
            return
        self.audit.demand(index == self.last + 1, f"{disk.name} skips entries before {index}")
        self.audit.demand(
            any(self._majority_has(index, value, conf) for conf in self._confs),
            f"{disk.name} applies entry {index}, which is not durable on a majority",
        )
        entry = Entry.FromString(value)
        self.last, self._entries[index], self._terms[index] = index, value, entry.term
        self._last_of_term[entry.term] = index
        rows: Rows = {}
        lsn = self._lsn[index - 1]
        if entry.entry_type == NORMAL and entry.data:
            batch = decode(entry.data)
            if isinstance(batch, BatchEntry) and batch.term == entry.term and batch.previous == lsn:
                rows, lsn = batch.rows, batch.lsn
            elif isinstance(batch, BatchEntry):
                self.audit.count("batch skipped")
        self._rows[index], self._lsn[index] = rows, lsn
        digest = self._digest[index - 1]
        for key, value in rows.items():
            old = self.audit.rows.get(key)
            digest ^= _hash(key, old) ^ _hash(key, value)
        self._digest[index] = digest
        if rows:
            self.audit.durable(rows)

    def _majority_has(self, index: int, value: bytes, conf: bytes) -> bool:
        members = read_conf_state(conf)
        return all(
            2 * sum(self._has_durably(voter, index, value) for voter in voters) > len(voters)
            for voters in (members.voters, members.voters_outgoing)
            if voters
        )

    def _has_durably(self, raft_id: int, index: int, value: bytes) -> bool:
        disk = self._disks.get(raft_id)
        if disk is None:
            return False
        return disk.durable.log.get(KEYS.entry(index)) == value or base_in(disk.durable)[0] >= index

    def started(self, disk: WatchedDisk) -> None:
        """Handles the start of a member; the content of its disk counts as durable from now on."""
        same = disk.written.log.get(KEYS.hard_state) == disk.durable.log.get(KEYS.hard_state)
        stem = KEYS.entry(0)
        logs = [image.log.scan(stem, stem[:-8] + b"\xff" * 8, _ALL) for image in (disk.written, disk.durable)]
        self.audit.demand(same and logs[0] == logs[1], f"{disk.name} uses a log or a vote that is not durable")

    # -- messages ------------------------------------------------------------------------------------------------------

    def sent(self, disk: WatchedDisk, content: bytes) -> None:
        """Judges a message when it leaves a machine: its contents must be durable."""
        message = read(content)
        durable = disk.durable
        if message.msg_type == _GRANT and not message.reject:
            value = durable.log.get(KEYS.hard_state) or bytes(24)
            term, vote = int.from_bytes(value[:8], "big"), int.from_bytes(value[8:16], "big")
            kept = term > message.term or (term, vote) == (message.term, message.to)
            self.audit.demand(kept, f"{disk.name} grants a vote that is not durable")
        elif message.msg_type == _ACCEPT and not message.reject:
            index = message.index
            has = base_in(durable)[0] >= index or durable.log.get(KEYS.entry(index)) is not None
            self.audit.demand(has, f"{disk.name} accepts entry {index}, which is not durable")
        elif message.msg_type in _OF_LEADERS:
            leader = self._leaders.setdefault(message.term, message.from_)
            self.audit.demand(leader == message.from_, f"two members lead in term {message.term}")

    def serves(self, disk: WatchedDisk, term: int) -> None:
        """Judges a machine that starts serving: no other serves in this term, and it has every decided entry."""
        self.audit.count("leadership")
        server = self._serving.setdefault(term, disk.raft_id)
        self.audit.demand(server == disk.raft_id, f"two members serve in term {term}")
        known = applied_in(disk.written).index
        missing = max((last for of, last in self._last_of_term.items() if of < term), default=0)
        self.audit.demand(known >= missing, f"{disk.name} serves in term {term} but has {known} of {missing} entries")

    # -- disks ---------------------------------------------------------------------------------------------------------

    def check(self, disk: WatchedDisk, *, offline: bool = False) -> None:
        """Judges a disk: its rows must be those of its applied index, and its log in order.

        Args:
            disk: The disk.
            offline: Whether to run the offline checker too.
        """
        self._check_log(disk)
        if applied_in(disk.written).index:
            self._check_rows(disk, "a disk")
        if offline:
            found = [str(difference) for difference in check(disk.rows())]
            self.audit.demand(not found, f"rows of {disk.name} are inconsistent: {found}")

    def _check_rows(self, disk: WatchedDisk, what: str) -> None:
        index, term, lsn = applied_in(disk.written)
        self.audit.demand(index in self._digest, f"{what} of {disk.name} is at entry {index}, which is not decided")
        self.audit.demand((term, lsn) == (self._terms[index], self._lsn[index]), f"{what} of {disk.name} is misnamed")
        digest = 0
        for key, value in disk.rows():
            digest ^= _hash(key, value)
        self.audit.demand(digest == self._digest[index], f"{what} of {disk.name} differs from others at {index}")

    def _check_end(self, disk: WatchedDisk, rows: Rows) -> None:
        stem = KEYS.entry(0)[:-8]
        written = [key for key, value in rows.items() if value is not None and key.startswith(stem)]
        if written:
            last = int.from_bytes(max(written)[-8:], "big")
            stale = disk.written.log.get(KEYS.entry(last + 1))
            self.audit.demand(stale is None, f"the log of {disk.name} has entries after its last one, {last}")

    def _check_log(self, disk: WatchedDisk) -> None:
        index, term = base_in(disk.written)
        first = KEYS.entry(0)
        for key, value in disk.written.log.scan(first, first[:-8] + b"\xff" * 8, _ALL):
            entry = Entry.FromString(value)
            index += 1
            right = key == KEYS.entry(index) and entry.index == index and entry.term >= term
            self.audit.demand(right, f"the log of {disk.name} has entry {entry.index} of term {entry.term} at {index}")
            term = entry.term


def _hash(key: bytes, value: bytes | None) -> int:
    if value is None:
        return 0
    return int.from_bytes(blake2b(b"%d:%b%b" % (len(key), key, value), digest_size=8).digest(), "big")
