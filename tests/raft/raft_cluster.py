"""Groups of RaftNodes in one process.

Disks can be slow or lost, and the network can be cut. No two members may see different entries at a committed index.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from codeq_raft_core import RaftNode, Ready, Status, conf_state, read_conf_state

ELECTION_TICKS = 10
HEARTBEAT_TICKS = 1
STEPS_MAX = 20_000
"""Maximum number of messages delivered in a row; with more than that, a group never settles."""


@dataclass(slots=True)
class Disk:
    """The durable state of a member."""

    conf_state: bytes
    hard_state: tuple[int, int, int] = (0, 0, 0)
    base: tuple[int, int] = (0, 0)
    entries: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    applied: int = 0
    rows: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Limits:
    """Settings of a member."""

    message_bytes_max: int = 1 << 20
    inflight_max: int = 64
    uncommitted_bytes_max: int = 1 << 24
    committed_bytes_max: int = 1 << 24


class Member:
    """One node with its disk. `slow` holds each Ready back until `flush`."""

    def __init__(self, cluster: Cluster, raft_id: int, disk: Disk, limits: Limits, seed: int | None = None) -> None:
        self.cluster, self.id, self.disk, self.limits = cluster, raft_id, disk, limits
        self.seed = raft_id if seed is None else seed
        self.slow = False
        self.start()

    def start(self) -> None:
        """Starts a node from the disk."""
        disk = self.disk
        term, vote, commit = disk.hard_state
        self.node = RaftNode(
            self.id,
            seed=self.seed,
            term=term,
            vote=vote,
            commit=max(commit, disk.applied),
            conf_state=disk.conf_state,
            base_index=disk.base[0],
            base_term=disk.base[1],
            entries=[disk.entries[index][1] for index in sorted(disk.entries)],
            applied=disk.applied,
            election_ticks=ELECTION_TICKS,
            heartbeat_ticks=HEARTBEAT_TICKS,
            message_bytes_max=self.limits.message_bytes_max,
            inflight_max=self.limits.inflight_max,
            uncommitted_bytes_max=self.limits.uncommitted_bytes_max,
            committed_bytes_max=self.limits.committed_bytes_max,
        )
        self.rows, self.reads = list(disk.rows), list[tuple[int, bytes]]()
        self.waiting: deque[tuple[Ready, bytes, int, list[str]]] = deque()
        self.conf_state, self.applied, self.conf_states = disk.conf_state, disk.applied, list[bytes]()
        self.up = True

    @property
    def status(self) -> Status:
        return self.node.status

    @property
    def members(self) -> list[int]:
        return read_conf_state(self.conf_state).voters

    def pump(self) -> bool:
        """Does the work that the node has ready; returns whether there was any."""
        busy = False
        while self.up and (ready := self.node.ready()) is not None:
            busy = True
            self.cluster.post(self.id, ready.messages)
            if (snapshot := ready.snapshot) is not None:
                self.rows, self.conf_state, self.applied = (
                    json.loads(snapshot.data), snapshot.conf_state, snapshot.index,
                )  # fmt: skip
            for index, term, kind, data, context in ready.committed:
                self.cluster.remember(index, (term, kind, data, context))
                assert index == self.applied + 1
                self.applied = index
                if kind:
                    self.conf_state = self.node.apply_members(kind, data)
                    self.conf_states.append(self.conf_state)
                elif data:
                    self.rows.append(data.decode())
            self.reads += ready.read_states
            self.waiting.append((ready, self.conf_state, self.applied, list(self.rows)))
        if not self.slow:
            busy |= self.flush()
        return busy

    def flush(self, count: int = STEPS_MAX) -> bool:
        """Makes at most `count` waiting items durable; returns whether any were waiting."""
        busy = bool(self.waiting)
        while self.up and self.waiting and count > 0:
            count -= 1
            ready, members, applied, rows = self.waiting.popleft()
            self._store(ready, members, applied, rows)
            self.node.on_persisted(ready.number)
            if applied > self.status.applied:
                self.node.on_applied(applied)
            self.cluster.post(self.id, ready.persisted_messages)
        return busy

    def _store(self, ready: Ready, members: bytes, applied: int, rows: list[str]) -> None:
        disk = self.disk
        disk.hard_state = ready.hard_state or disk.hard_state
        if ready.snapshot is not None:
            disk.base, disk.entries = (ready.snapshot.index, ready.snapshot.term), {}
        if ready.entries:
            first = ready.entries[0][0]
            disk.entries = {index: kept for index, kept in disk.entries.items() if index < first}
            disk.entries |= {index: (term, entry) for index, term, entry in ready.entries}
        disk.conf_state, disk.applied, disk.rows = members, applied, rows

    def crash(self) -> None:
        """Loses everything that is not durable."""
        self.up = False
        self.waiting.clear()

    def offer(self) -> None:
        """Offers a snapshot of the applied state."""
        data = json.dumps(self.rows).encode()
        self.node.offer_snapshot(self.applied, self.node.term_of(self.applied), self.conf_state, data)

    def compact(self) -> None:
        """Forgets all entries that are applied, in memory and on disk."""
        self.disk.base = (self.applied, self.node.term_of(self.applied))
        self.node.compact(self.applied)
        self.disk.entries = {index: kept for index, kept in self.disk.entries.items() if index > self.applied}


class Cluster:
    """Members and the network between them. `post` asks every filter whether a message arrives.

    Founders with a `base` have an empty log behind index 1 and term 1, so that a newcomer starts from a snapshot and
    never from entries alone, which do not name the founders.
    """

    def __init__(
        self, voters: Iterable[int], learners: Iterable[int] = (), limits: Limits | None = None, *, base: bool = False
    ) -> None:
        self.limits = limits or Limits()
        self.offers = base
        self.committed: dict[int, tuple[int, int, bytes, bytes]] = {}
        self.filters: list[Callable[[int, int, str], bool]] = []
        self.mail: deque[tuple[int, int, str, bytes]] = deque()
        self.seen: list[tuple[int, int, str, bytes]] = []
        self.members: dict[int, Member] = {}
        founded = conf_state(list(voters), list(learners))
        for raft_id in sorted({*voters, *learners}):
            self.add(raft_id, Disk(founded, (1, 0, 1), (1, 1), applied=1) if base else Disk(founded))

    def add(self, raft_id: int, disk: Disk | None = None) -> Member:
        """Adds a node, with an empty disk when none is given."""
        self.members[raft_id] = Member(self, raft_id, disk or Disk(b""), self.limits)
        return self.members[raft_id]

    def __getitem__(self, raft_id: int) -> Member:
        return self.members[raft_id]

    def remember(self, index: int, entry: tuple[int, int, bytes, bytes]) -> None:
        """Checks that all members see the same entry at an index."""
        assert self.committed.setdefault(index, entry) == entry

    def post(self, sender: int, messages: list[tuple[int, str, bytes]]) -> None:
        """Sends messages unless a filter holds them back."""
        for to, kind, message in messages:
            arrives = all(allows(sender, to, kind) for allows in self.filters)
            if arrives:
                self.mail.append((sender, to, kind, message))
            elif kind == "MsgSnapshot":
                self.members[sender].node.report_snapshot(to, False)

    def cut(self, *ids: int) -> None:
        """Separates these members from the others."""
        side = set(ids)
        self.filters.append(lambda sender, to, _: (sender in side) == (to in side))

    def lose(self, kind: str) -> None:
        """Loses messages of a type."""
        self.filters.append(lambda _sender, _to, sent: sent != kind)

    def heal(self) -> None:
        """Lets all messages pass."""
        self.filters.clear()

    def settle(self) -> None:
        """Delivers messages until no node has anything left to do."""
        for _ in range(STEPS_MAX):
            busy = sum(member.pump() for member in self.members.values()) > 0
            if self.mail:
                sender, to, kind, message = self.mail.popleft()
                self.seen.append((sender, to, kind, message))
                if to in self.members and self.members[to].up:
                    self.members[to].node.step(message)
                    if kind == "MsgSnapshot":
                        self.members[to].pump()
                        self.members[sender].node.report_snapshot(to, True)
            elif not busy:
                return
        raise AssertionError("the group does not come to rest")

    def tick(self, count: int = 1, *ids: int) -> None:
        """Lets time pass for all members, or for these."""
        for _ in range(count):
            for raft_id in ids or tuple(self.members):
                if self.members[raft_id].up:
                    self.members[raft_id].node.tick()
            self.settle()
            for member in self.members.values():
                if self.offers and member.node.snapshot_wanted():
                    member.offer()

    def elect(self, raft_id: int) -> Member:
        """Makes a node stand for election and win."""
        self.members[raft_id].node.campaign()
        self.settle()
        assert self.members[raft_id].status.role == "leader"
        return self.members[raft_id]

    def leader(self, ticks: int = 10 * ELECTION_TICKS) -> Member:
        """Lets time pass until exactly one node of the highest term leads."""
        for _ in range(ticks):
            leaders = [member for member in self.members.values() if member.up and member.status.role == "leader"]
            if leaders:
                return max(leaders, key=lambda member: member.status.term)
            self.tick()
        raise AssertionError("nobody leads")

    def rows(self) -> list[list[str]]:
        """The rows that each member has applied."""
        return [member.rows for member in self.members.values()]
