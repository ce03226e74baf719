"""Snapshots: which followers are offered a snapshot, what is sent, and how a follower installs it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from codeq_raft_core import ProposalRefused, conf_state, read_conf_state, snapshot_of
from raft_cluster import ELECTION_TICKS, Cluster, Member
from raft_wire import Snapshot, message


def lagging(*, offered: bool = True) -> tuple[Cluster, Member, Member]:
    """Returns a group whose leader 1 has compacted entries that follower 3, still cut off, lacks."""
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    cluster.cut(3)
    for number in range(5):
        leader.node.propose(str(number).encode())
    cluster.settle()
    if offered:
        leader.offer()
    leader.compact()
    return cluster, leader, cluster[3]


def test_lagging_follower_gets_the_offered_snapshot_and_later_entries() -> None:
    cluster, leader, follower = lagging()
    leader.node.propose(b"after")
    cluster.settle()
    cluster.heal()
    cluster.tick(3)
    assert cluster.rows() == [["0", "1", "2", "3", "4", "after"]] * 3
    assert [kind for _, to, kind, _ in cluster.seen if to == 3].count("MsgSnapshot") == 1
    assert follower.status.first_index == 7
    assert follower.status.applied == leader.status.applied
    assert follower.disk.base == (6, 1)
    leader.node.propose(b"more")
    cluster.settle()
    assert follower.rows[-1] == "more"
    assert not leader.node.snapshot_wanted()


def test_snapshot_message_carries_the_offered_snapshot() -> None:
    cluster, _, _ = lagging()
    cluster.heal()
    cluster.tick(2)
    [sent] = [sent for _, _, kind, sent in cluster.seen if kind == "MsgSnapshot"]
    snapshot = snapshot_of(sent)
    assert snapshot is not None
    assert (snapshot.index, snapshot.term, snapshot.data) == (6, 1, b'["0", "1", "2", "3", "4"]')
    assert read_conf_state(snapshot.conf_state).voters == [1, 2, 3]
    assert snapshot_of(next(sent for _, _, kind, sent in cluster.seen if kind == "MsgAppend")) is None


def test_snapshot_is_requested_until_one_is_offered() -> None:
    cluster, leader, follower = lagging(offered=False)
    assert not leader.node.snapshot_wanted()
    cluster.heal()
    cluster.tick(2)
    assert leader.node.snapshot_wanted()
    assert not leader.node.snapshot_wanted()
    cluster.tick(1)
    assert leader.node.snapshot_wanted()
    leader.offer()
    cluster.tick(2)
    assert follower.rows == leader.rows
    assert not leader.node.snapshot_wanted()


def test_snapshot_older_than_the_log_is_not_sent_and_a_new_one_is_requested() -> None:
    cluster, leader, follower = lagging()
    leader.node.propose(b"later")
    cluster.settle()
    leader.compact()
    cluster.heal()
    cluster.tick(2)
    assert leader.node.snapshot_wanted()
    assert follower.rows == []


def test_snapshot_without_the_new_member_is_not_sent() -> None:
    cluster, leader, _ = lagging()
    leader.node.propose_members([("learner", 4)], b"")
    cluster.add(4)
    cluster.settle()
    cluster.tick(2)
    assert leader.node.snapshot_wanted()
    assert [to for _, to, kind, _ in cluster.seen if kind == "MsgSnapshot"] == []
    leader.offer()
    cluster.tick(2)
    assert cluster[4].rows == leader.rows
    assert cluster[4].members == [1, 2, 3]


def test_follower_gets_no_messages_until_its_snapshot_is_reported() -> None:
    cluster, leader, follower = lagging()
    cluster.heal()
    leader.node.report_unreachable(3)
    leader.node.tick()
    cluster.post(1, leader.node.ready().messages)  # type: ignore[union-attr]
    follower.node.step(next(sent for _, to, kind, sent in cluster.mail if to == 3 and kind == "MsgHeartbeat"))
    [(_, _, answer)] = follower.node.ready().persisted_messages  # type: ignore[union-attr]
    leader.node.step(answer)
    sent = leader.node.ready()
    assert sent is not None
    assert [kind for to, kind, _ in sent.messages if to == 3] == ["MsgSnapshot"]
    state = leader.node.progress()[2]
    assert (state.state, state.pending_snapshot) == ("snapshot", 6)
    leader.node.step(answer)
    assert leader.node.ready() is None
    leader.node.report_snapshot(3, ok=False)
    state = leader.node.progress()[2]
    assert (state.state, state.pending_snapshot, state.next_index) == ("probe", 0, 2)


def test_late_rejection_after_a_snapshot_keeps_the_probe_above_the_matched_index() -> None:
    _, leader, _ = lagging()
    leader.node.report_unreachable(3)
    leader.node.step(message("MsgHeartbeatResponse", to=1, from_=3, term=1))
    leader.node.report_snapshot(3, ok=True)
    state = leader.node.progress()[2]
    assert (state.state, state.matched, state.next_index) == ("probe", 1, 7)
    leader.node.step(message("MsgAppendResponse", to=1, from_=3, term=1, index=6, reject=True, reject_hint=0))
    assert leader.node.progress()[2].next_index == 2


def test_failed_snapshot_is_sent_again() -> None:
    cluster, leader, follower = lagging()
    cluster.heal()
    cluster.lose("MsgSnapshot")
    cluster.tick(3)
    assert follower.rows == []
    cluster.heal()
    cluster.tick(3)
    assert follower.rows == leader.rows


def installing() -> tuple[Cluster, Member, int]:
    """Returns a follower that got a snapshot of index 6 but has not stored it, and the number of its Ready."""
    cluster, _, follower = lagging()
    follower.slow = True
    metadata = {"index": 6, "term": 1, "conf_state": {"voters": [1, 2, 3]}}
    snapshot = Snapshot(data=b'["0", "1", "2", "3", "4"]', metadata=metadata)
    follower.node.step(message("MsgSnapshot", to=3, from_=1, term=1, snapshot=snapshot))
    follower.pump()
    [(ready, *_)] = follower.waiting
    assert ready.snapshot is not None
    return cluster, follower, ready.number


def test_node_does_not_campaign_until_its_snapshot_is_applied() -> None:
    cluster, follower, number = installing()
    cluster.tick(3 * ELECTION_TICKS, 3)
    follower.node.step(message("MsgTimeoutNow", to=3, from_=1, term=1))
    assert follower.status.role == "follower"
    follower.node.on_persisted(number)
    cluster.tick(1, 3)
    with pytest.raises(ProposalRefused, match="cannot stand"):
        follower.node.campaign()
    assert follower.status.role == "follower"
    follower.node.on_applied(6)
    cluster.tick(1, 3)
    assert follower.status.role == "precandidate"


def test_second_snapshot_received_during_an_installation_is_installed_too() -> None:
    cluster, follower, _ = installing()
    metadata = {"index": 9, "term": 1, "conf_state": {"voters": [1, 2, 3]}}
    snapshot = Snapshot(data=b'["all"]', metadata=metadata)
    follower.node.step(message("MsgSnapshot", to=3, from_=1, term=1, snapshot=snapshot))
    follower.pump()
    follower.flush()
    assert (follower.status.first_index, follower.status.applied, follower.disk.base) == (10, 9, (9, 1))
    follower.slow = False
    cluster.tick(2 * ELECTION_TICKS, 3)
    assert follower.status.role == "precandidate"


def test_applying_a_snapshot_before_it_is_durable_ends_the_process() -> None:
    script = """
import sys
sys.path.insert(0, sys.argv[1])
from test_raft_core_snapshots import installing
_, follower, number = installing()
if sys.argv[2] == "in order":
    follower.node.on_persisted(number)
try:
    follower.node.on_applied(6)
finally:
    print("alive", follower.status.applied)
"""
    ended = [
        subprocess.run(
            [sys.executable, "-c", script, str(Path(__file__).parent), when],
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
        )
        for when in ("in order", "early")
    ]
    assert (ended[0].returncode, ended[0].stdout) == (0, "alive 6\n")
    assert (ended[1].returncode, ended[1].stdout) == (-signal.SIGABRT, "")
    assert "applied(6) is out of range" in ended[1].stderr


@pytest.mark.parametrize(("index", "term"), [(0, 1), (1, 0), (7, 1)])
def test_offering_an_uncommitted_snapshot_raises_an_error(index: int, term: int) -> None:
    _, leader, _ = lagging()
    with pytest.raises(ValueError, match="not a committed place"):
        leader.node.offer_snapshot(index, term, conf_state([1, 2, 3], []), b"")


def test_snapshot_that_matches_the_log_only_advances_the_commit_index() -> None:
    cluster = Cluster([1, 2, 3])
    cluster.lose("MsgAppendResponse")
    cluster.elect(1)
    assert cluster[2].status.commit == 0
    snapshot = Snapshot(metadata={"index": 1, "term": 1, "conf_state": {"voters": [1, 2, 3]}})
    cluster[2].node.step(message("MsgSnapshot", to=2, from_=1, term=1, snapshot=snapshot))
    ready = cluster[2].node.ready()
    assert ready is not None
    assert ready.snapshot is None
    assert ready.hard_state == (1, 1, 1)


def test_snapshot_replaces_a_conflicting_log() -> None:
    cluster = Cluster([1, 2, 3])
    cluster.elect(1)
    cluster.cut(1)
    for _ in range(3):
        cluster[1].node.propose(b"lost")
    cluster.settle()
    snapshot = Snapshot(data=b'["a"]', metadata={"index": 3, "term": 5, "conf_state": {"voters": [1, 2, 3]}})
    cluster[1].node.step(message("MsgSnapshot", to=1, from_=2, term=5, snapshot=snapshot))
    cluster.settle()
    assert cluster[1].rows == ["a"]
    assert cluster[1].disk.entries == {}
    assert (cluster[1].status.first_index, cluster[1].status.last_index, cluster[1].status.log_bytes) == (4, 3, 0)
    assert cluster[1].node.term_of(3) == 5


def test_compaction_above_the_applied_index_raises_an_error() -> None:
    _, leader, _ = lagging()
    with pytest.raises(ValueError, match="above the applied one, 6"):
        leader.node.compact(7)
    leader.node.compact(3)
    assert leader.status.first_index == 7
    with pytest.raises(ValueError, match="index 5 is not in the log"):
        leader.node.term_of(5)
