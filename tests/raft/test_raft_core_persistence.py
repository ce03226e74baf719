"""Durability: restarts, slow disks, and states from which a node refuses to start."""

from __future__ import annotations

from typing import Any

import pytest
from codeq_raft_core import RaftNode, conf_state
from raft_cluster import ELECTION_TICKS, Cluster
from raft_wire import Entry, message, read

START: dict[str, Any] = {
    "seed": 1,
    "term": 0,
    "vote": 0,
    "commit": 0,
    "conf_state": conf_state([1], []),
    "base_index": 0,
    "base_term": 0,
    "entries": [],
    "applied": 0,
    "election_ticks": 10,
    "heartbeat_ticks": 1,
    "message_bytes_max": 1000,
    "inflight_max": 4,
    "uncommitted_bytes_max": 1000,
    "committed_bytes_max": 1000,
}


def stored(index: int, term: int) -> bytes:
    encoded = Entry(index=index, term=term, data=b"x").SerializeToString()
    assert isinstance(encoded, bytes)
    return encoded


def test_group_continues_after_all_members_restart() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    leader.node.propose(b"a")
    cluster.settle()
    for member in cluster.members.values():
        member.crash()
        member.start()
    assert {member.status.term for member in cluster.members.values()} == {1}
    assert {member.status.last_index for member in cluster.members.values()} == {2}
    cluster.leader().node.propose(b"b")
    cluster.settle()
    assert cluster.rows() == [["a", "b"]] * 3


def test_restart_redelivers_committed_but_unapplied_entries() -> None:
    node = RaftNode(
        1,
        **START
        | {"term": 2, "vote": 1, "commit": 3, "applied": 1, "entries": [stored(1, 1), stored(2, 2), stored(3, 2)]},
    )
    ready = node.ready()
    assert ready is not None
    assert [(index, term) for index, term, *_ in ready.committed] == [(2, 2), (3, 2)]
    assert ready.entries == []
    assert not ready.must_sync
    status = node.status
    assert (status.term, status.vote, status.commit, status.applied, status.first_index) == (2, 1, 3, 1, 1)


def test_node_restarts_with_a_compacted_log() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    for number in range(5):
        leader.node.propose(str(number).encode())
    cluster.settle()
    for member in cluster.members.values():
        member.compact()
        member.crash()
        member.start()
    assert leader.status.first_index == 7
    assert leader.node.term_of(6) == 1
    cluster.leader().node.propose(b"5")
    cluster.settle()
    assert cluster.rows() == [["0", "1", "2", "3", "4", "5"]] * 3


def test_node_restarts_after_a_membership_change() -> None:
    cluster = Cluster([1, 2, 3], base=True)
    leader = cluster.elect(1)
    cluster.add(4)
    leader.node.propose_members([("remove", 3), ("voter", 4)], b"")
    cluster.tick(4)
    assert leader.conf_state == conf_state([1, 2, 4], [])
    for raft_id in (1, 2, 4):
        cluster[raft_id].crash()
        cluster[raft_id].start()
    cluster[3].crash()
    new = cluster.leader()
    assert [progress.id for progress in new.node.progress()] == [1, 2, 4]


def test_crash_before_the_sync_loses_only_unacknowledged_entries() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    cluster[2].slow = cluster[3].slow = True
    leader.node.propose(b"a")
    cluster.settle()
    assert leader.status.commit == 1
    cluster[2].crash()
    cluster[2].slow = False
    cluster[2].start()
    assert cluster[2].status.last_index == 1
    cluster.tick(2)
    assert leader.rows == cluster[2].rows == ["a"]


def test_follower_acknowledges_only_durable_entries() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    cluster[2].slow = cluster[3].slow = True
    leader.node.propose(b"a")
    cluster.settle()
    [(ready, *_)] = cluster[2].waiting
    assert (ready.must_sync, ready.messages) == (True, [])
    assert [(to, kind) for to, kind, _ in ready.persisted_messages] == [(1, "MsgAppendResponse")]
    assert cluster.rows() == [[]] * 3
    cluster[2].flush()
    cluster.settle()
    assert leader.rows == ["a"]


def test_leader_replicates_and_commits_before_its_own_disk_has_synced() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    leader.slow = True
    leader.node.propose(b"a")
    ready = leader.node.ready()
    assert ready is not None
    assert [(to, kind) for to, kind, _ in sorted(ready.messages)] == [(2, "MsgAppend"), (3, "MsgAppend")]
    assert ready.persisted_messages == []
    cluster.post(1, ready.messages)
    cluster.settle()
    assert leader.status.commit == 2
    assert leader.rows == []  # committed by the other members, but applied only once it is durable here
    leader.node.on_persisted(ready.number)
    leader.waiting.clear()
    cluster.settle()
    assert leader.rows == ["a"]


def test_sole_voter_commits_only_what_is_durable() -> None:
    cluster = Cluster([1])
    member = cluster.elect(1)
    member.slow = True
    member.node.propose(b"a")
    cluster.settle()
    assert (member.status.commit, member.rows) == (1, [])
    member.flush()
    cluster.settle()
    assert (member.status.commit, member.rows) == (2, ["a"])


def test_persistence_report_covers_all_earlier_ones() -> None:
    cluster = Cluster([1])
    member = cluster.elect(1)
    numbers = []
    for data in (b"a", b"b", b"c"):
        member.node.propose(data)
        ready = member.node.ready()
        assert ready is not None
        numbers.append(ready.number)
    assert member.node.ready() is None
    member.node.on_persisted(numbers[-1])
    ready = member.node.ready()
    assert ready is not None
    assert [data for *_, data, _ in ready.committed] == [b"a", b"b", b"c"]
    with pytest.raises(ValueError, match="above the last one"):
        member.node.on_persisted(ready.number + 1)


def test_vote_request_is_sent_only_after_the_nodes_own_vote_is_durable() -> None:
    cluster = Cluster([1, 2, 3])
    cluster[1].slow = True
    cluster[1].node.campaign()
    cluster.settle()
    cluster[1].flush()
    cluster.settle()
    [(ready, *_)] = cluster[1].waiting
    assert (ready.must_sync, ready.hard_state, ready.messages) == (True, (1, 1, 0), [])
    assert {kind for _, kind, _ in ready.persisted_messages} == {"MsgRequestVote"}


def test_commit_index_change_alone_needs_no_sync() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    cluster[2].slow = True
    leader.node.propose(b"a")
    cluster.settle()
    synced = [(ready.must_sync, ready.hard_state) for ready, *_ in cluster[2].waiting]
    assert synced == [(True, None), (False, (1, 1, 2))]


def test_node_restarts_from_its_stored_entries() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    leader.node.propose(b"payload" * 100)
    cluster.settle()
    entry = Entry.FromString(cluster[3].disk.entries[2][1])
    assert (entry.index, entry.term, entry.data) == (2, 1, b"payload" * 100)
    assert leader.disk.entries == cluster[2].disk.entries == cluster[3].disk.entries


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"commit": 1}, "does not hold"),
        ({"applied": 1}, "does not hold"),
        ({"term": 1, "entries": [stored(1, 1)], "applied": 1}, "does not hold"),
        ({"term": 1, "base_index": 3, "base_term": 1, "commit": 2, "applied": 2}, "does not hold"),
        ({"entries": [stored(1, 1)]}, "term is below"),
        ({"term": 1, "base_index": 1, "commit": 1, "applied": 1}, "do not fit"),
        ({"term": 1, "base_term": 1}, "do not fit"),
        ({"term": 1, "entries": [stored(2, 1)]}, "does not follow"),
        ({"term": 3, "entries": [stored(1, 2), stored(2, 1)]}, "does not follow"),
        ({"term": 3, "entries": [stored(1, 0)]}, "does not follow"),
        ({"entries": [b"\xff"]}, "not a log entry"),
        ({"conf_state": b"\xff"}, "not a conf state"),
        ({"conf_state": b"\x0a\x01\x00"}, "an id is 0"),
        ({"heartbeat_ticks": 0}, "heartbeat tick"),
        ({"election_ticks": 1}, "election tick"),
        ({"inflight_max": 0}, "inflight"),
        ({"uncommitted_bytes_max": 10}, "max uncommitted size"),
    ],
)
def test_impossible_state_prevents_startup(changed: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        RaftNode(1, **START | changed)


def test_node_needs_an_id() -> None:
    with pytest.raises(ValueError, match="invalid node id"):
        RaftNode(0, **START)


def test_follower_with_unsaved_entries_does_not_campaign() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    follower = cluster[2]
    follower.slow = True
    leader.node.propose(b"a")
    cluster.settle()
    cluster.cut(2)
    cluster.tick(3 * ELECTION_TICKS, 2)
    assert follower.status.role == "follower"
    follower.flush()
    cluster.tick(1, 2)
    assert follower.status.role == "precandidate"


def test_follower_with_a_slow_disk_can_vote_for_another_node() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    follower = cluster[2]
    follower.slow = True
    leader.node.propose(b"a")
    cluster.settle()
    leader.crash()
    cluster.tick(3 * ELECTION_TICKS, 2)
    asked = message("MsgRequestPreVote", to=2, from_=3, term=2, index=2, log_term=1)
    follower.node.step(asked)
    ready = follower.node.ready()
    assert ready is not None
    [(to, kind, answer)] = ready.persisted_messages
    assert (to, kind, read(answer).reject) == (3, "MsgRequestPreVoteResponse", False)


def test_rewritten_entry_is_durable_only_with_its_last_copy() -> None:
    node = RaftNode(1, **START | {"conf_state": conf_state([1, 2, 3], [])})
    numbers = []
    for leader, term, entry_term in ((2, 2, 2), (3, 3, 3), (2, 4, 2)):
        entry = Entry(index=1, term=entry_term, data=b"x")
        node.step(message("MsgAppend", to=1, from_=leader, term=term, entries=[entry]))
        ready = node.ready()
        assert ready is not None
        assert len(ready.entries) == 1
        numbers.append(ready.number)
    node.on_persisted(numbers[0])
    for _ in range(2 * ELECTION_TICKS):
        node.tick()
    assert node.status.role == "follower"
    node.on_persisted(numbers[2])
    node.tick()
    assert node.status.role == "precandidate"
