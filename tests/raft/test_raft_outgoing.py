"""Outgoing snapshots: which files are sent, how much log is kept during a transfer, and when files are removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from codeq_raft_core import conf_state, snapshot_of
from codeq_server.replication.raft import outgoing
from codeq_server.replication.raft.log_rows import GroupKeys
from codeq_server.replication.raft.outgoing import Outgoing
from codeq_server.replication.raft.ports import Made
from codeq_server.replication.raft.stored_log import StoredLog
from raft_cluster import Cluster, Member
from test_raft_core_snapshots import lagging

GROUP = 7
FOLLOWER = 3


class Sent:
    """A network that records the snapshots it is asked to send."""

    def __init__(self) -> None:
        self.snapshots: list[tuple[int, int, int, str]] = []
        """Receiver, group, index by the message, and folder."""

    def send(self, to: int, group: int, message: bytes) -> None:
        raise AssertionError((to, group, message))

    def send_snapshot(self, to: int, group: int, message: bytes, folder: Path) -> None:
        snapshot = snapshot_of(message)
        assert snapshot is not None
        self.snapshots.append((to, group, snapshot.index, folder.name))


class Lagging:
    """A leader whose follower needs a snapshot, and the object that offers snapshots."""

    def __init__(self) -> None:
        self.cluster: Cluster
        self.leader: Member
        self.cluster, self.leader, _ = lagging(offered=False)
        self.net, self.removed = Sent(), list[str]()
        disk: Any = None  # nothing is truncated
        self.log = StoredLog(GroupKeys(GROUP), disk)
        self.outgoing = Outgoing(self.leader.node, self.net, GROUP, 1, self.log)

    def made(self, name: str) -> Made:
        """Returns a snapshot of everything so far."""
        index, members = self.leader.status.applied, conf_state([1, 2, 3], [])
        term = self.leader.node.term_of(index)
        return Made(Path(name), index, term, members, b"[]", lambda: self.removed.append(name))

    def message(self) -> bytes:
        """Returns the message with which the core offers a snapshot to the follower."""
        self.cluster.heal()
        self.cluster.tick(2)
        return next(sent for _, to, kind, sent in self.cluster.seen if to == FOLLOWER and kind == "MsgSnapshot")

    def write(self) -> None:
        """Proposes another entry, and waits until it is applied."""
        self.leader.node.propose(b"more")
        self.cluster.settle()


@pytest.fixture
def life() -> Lagging:
    return Lagging()


def test_snapshot_in_flight_keeps_its_files_and_later_log_entries(life: Lagging) -> None:
    first = life.made("first")
    life.outgoing.offer(first)
    life.outgoing.send(FOLLOWER, life.message())
    assert life.net.snapshots == [(FOLLOWER, GROUP, first.index, "first")]
    assert life.log.held == first.index
    life.write()
    life.outgoing.offer(life.made("second"))
    assert life.removed == []
    life.outgoing.sent(FOLLOWER, ok=True)
    assert (life.removed, life.log.held) == (["first"], None)


def test_message_of_an_older_snapshot_is_never_sent_with_newer_files(life: Lagging) -> None:
    life.outgoing.offer(life.made("first"))
    message = life.message()
    life.write()
    life.outgoing.offer(life.made("second"))
    life.outgoing.send(FOLLOWER, message)
    assert life.net.snapshots == []
    assert life.removed == ["first"]


def test_unneeded_snapshot_is_withdrawn_and_its_files_are_removed(
    life: Lagging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "KEPT_TICKS", 3)
    life.outgoing.offer(life.made("first"))
    message = life.message()
    for _ in range(2):
        life.outgoing.tick()
    assert life.removed == []
    life.outgoing.tick()
    assert (life.removed, life.log.held) == (["first"], None)
    life.outgoing.send(FOLLOWER, message)
    assert life.net.snapshots == []


def test_snapshot_in_flight_is_not_withdrawn(life: Lagging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "KEPT_TICKS", 1)
    life.outgoing.offer(life.made("first"))
    life.outgoing.send(FOLLOWER, life.message())
    for _ in range(5):
        life.outgoing.tick()
    assert life.removed == []
    life.outgoing.sent(FOLLOWER, ok=False)
    life.outgoing.tick()
    assert life.removed == ["first"]
