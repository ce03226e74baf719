"""Replication: proposals, conflicts, limits, hand-overs of leadership and reads."""

from __future__ import annotations

import pytest
from codeq_raft_core import ProposalRefused
from raft_cluster import ELECTION_TICKS, Cluster, Limits
from raft_wire import Entry, message, read


def test_proposals_reach_all_members_in_order() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    indices = [leader.node.propose(str(number).encode()) for number in range(50)]
    cluster.settle()
    assert indices == list(range(2, 52))
    assert cluster.rows() == [[str(number) for number in range(50)]] * 3


def test_first_entry_of_a_leader_is_empty() -> None:
    cluster = Cluster([1, 2, 3])
    cluster.elect(2)
    assert cluster.committed == {1: (1, 0, b"", b"")}


def test_proposal_without_a_quorum_is_not_committed() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    cluster.cut(1)
    leader.node.propose(b"lost")
    cluster.settle()
    assert leader.status.last_index == 2
    assert leader.status.commit == 1


@pytest.mark.parametrize("raft_id", [2, 3])
def test_proposal_to_a_follower_is_rejected(raft_id: int) -> None:
    cluster = Cluster([1, 2, 3])
    cluster.elect(1)
    with pytest.raises(ProposalRefused, match="does not lead"):
        cluster[raft_id].node.propose(b"x")
    cluster.settle()
    assert cluster.rows() == [[]] * 3


def test_empty_proposal_raises_an_error() -> None:
    cluster = Cluster([1])
    with pytest.raises(ValueError, match="data: empty"):
        cluster.elect(1).node.propose(b"")


def test_entries_of_a_deposed_leader_are_overwritten() -> None:
    cluster = Cluster([1, 2, 3])
    cluster.elect(1)
    cluster.cut(1)
    for number in range(5):
        cluster[1].node.propose(f"lost {number}".encode())
    cluster.settle()
    cluster.tick(4 * ELECTION_TICKS, 2, 3)
    new = next(cluster[raft_id] for raft_id in (2, 3) if cluster[raft_id].status.role == "leader")
    new.node.propose(b"kept")
    cluster.settle()
    cluster.heal()
    cluster.tick(3)
    assert cluster.rows() == [["kept"]] * 3
    assert cluster[1].disk.entries == new.disk.entries


def test_conflicting_append_truncates_the_tail_of_the_log() -> None:
    cluster = Cluster([1, 2, 3])
    cluster.elect(1)
    cluster.cut(1)
    for _ in range(5):
        cluster[1].node.propose(b"lost")
    cluster.settle()
    assert (cluster[1].status.last_index, cluster[1].status.log_bytes) == (6, 20)
    append = message(
        "MsgAppend", to=1, from_=2, term=7, index=2, log_term=1, entries=[Entry(term=7, index=3, data=b"kept")]
    )
    cluster[1].node.step(append)
    ready = cluster[1].node.ready()
    assert ready is not None
    assert [(index, term, Entry.FromString(entry).data) for index, term, entry in ready.entries] == [(3, 7, b"kept")]
    assert (cluster[1].status.last_index, cluster[1].status.log_bytes) == (3, 8)
    assert [cluster[1].node.term_of(index) for index in (2, 3)] == [1, 7]


def test_end_of_a_long_divergent_tail_is_found_in_few_probes() -> None:
    cluster = Cluster([1, 2, 3])
    cluster.elect(1)
    cluster.cut(1)
    for _ in range(200):
        cluster[1].node.propose(b"lost")
    cluster.settle()
    cluster.tick(4 * ELECTION_TICKS, 2, 3)
    old, new = sorted((cluster[2], cluster[3]), key=lambda member: member.status.role == "follower")
    for _ in range(200):
        old.node.propose(b"kept")
    cluster.settle()
    old.node.transfer_leader(new.id)
    cluster.settle()
    assert new.status.role == "leader"
    cluster.heal()
    cluster.seen.clear()
    cluster.tick(3)
    rejections = [sent for _, _, kind, sent in cluster.seen if kind == "MsgAppendResponse" and read(sent).reject]
    assert 0 < len(rejections) < 5
    assert cluster.rows() == [["kept"] * 200] * 3


def test_append_messages_respect_the_byte_limit_but_carry_at_least_one_entry() -> None:
    cluster = Cluster([1, 2, 3], limits=Limits(message_bytes_max=1000))
    leader = cluster.elect(1)
    cluster.cut(3)
    for _ in range(30):
        leader.node.propose(b"x" * 300)
    leader.node.propose(b"y" * 5000)
    cluster.settle()
    cluster.heal()
    cluster.seen.clear()
    cluster.tick(3)
    counts = [len(read(m).entries) for _, to, kind, m in cluster.seen if kind == "MsgAppend" and to == 3]
    assert set(counts) - {0} == {1, 3}
    assert len(cluster[3].rows) == 31


def test_leader_stops_at_the_limit_of_messages_in_flight() -> None:
    cluster = Cluster([1, 2, 3], limits=Limits(inflight_max=4))
    leader = cluster.elect(1)
    cluster.lose("MsgAppendResponse")
    for _ in range(10):
        leader.node.propose(b"x")
    cluster.settle()
    assert [progress.next_index - progress.matched for progress in leader.node.progress()] == [1, 5, 5]
    cluster.heal()
    cluster.tick(3)
    assert cluster.rows() == [["x"] * 10] * 3


def test_number_of_committed_entries_per_ready_is_bounded() -> None:
    cluster = Cluster([1], limits=Limits(committed_bytes_max=1000))
    leader = cluster.elect(1)
    for _ in range(9):
        leader.node.propose(b"x" * 300)
    sizes = []
    while (ready := leader.node.ready()) is not None:
        sizes.append(len(ready.committed))
        leader.node.on_persisted(ready.number)
        if ready.committed:
            leader.node.on_applied(ready.committed[-1][0])
    assert sizes == [0, 3, 3, 3]


def test_proposal_over_the_uncommitted_limit_is_rejected_and_a_later_one_accepted() -> None:
    cluster = Cluster([1, 2, 3], limits=Limits(message_bytes_max=500, uncommitted_bytes_max=1000))
    leader = cluster.elect(1)
    cluster.cut(1)
    leader.node.propose(b"a" * 600)
    with pytest.raises(ProposalRefused, match="too many bytes"):
        leader.node.propose(b"b" * 600)
    assert leader.node.propose(b"c" * 300) == 3
    cluster.settle()
    cluster.heal()
    cluster.tick(2)
    assert cluster.rows() == [["a" * 600, "c" * 300]] * 3
    leader.node.propose(b"d" * 1000)
    cluster.settle()
    assert cluster.rows()[2][-1] == "d" * 1000


def test_single_proposal_above_the_uncommitted_limit_is_accepted() -> None:
    cluster = Cluster([1, 2, 3], limits=Limits(message_bytes_max=500, uncommitted_bytes_max=1000))
    leader = cluster.elect(1)
    leader.node.propose(b"a" * 5000)
    cluster.settle()
    assert cluster.rows() == [["a" * 5000]] * 3


def test_handover_to_an_up_to_date_follower_is_immediate() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    leader.node.propose(b"a")
    cluster.settle()
    leader.node.transfer_leader(2)
    assert leader.status.transferring == 2
    cluster.settle()
    assert [member.status.role for member in cluster.members.values()] == ["follower", "leader", "follower"]
    assert leader.status.transferring == 0


def test_handover_waits_for_a_lagging_follower_to_catch_up() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    cluster.cut(3)
    leader.node.propose(b"a")
    cluster.settle()
    cluster.heal()
    leader.node.transfer_leader(3)
    cluster.tick(2)
    assert cluster[3].status.role == "leader"
    assert cluster.rows() == [["a"]] * 3


def test_proposals_during_a_handover_are_rejected_until_it_times_out() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    cluster.lose("MsgTimeoutNow")
    leader.node.transfer_leader(2)
    with pytest.raises(ProposalRefused, match="handed over"):
        leader.node.propose(b"refused")
    with pytest.raises(ProposalRefused, match="handed over"):
        leader.node.propose_members([("learner", 9)], b"")
    cluster.tick(ELECTION_TICKS)
    assert leader.status.role == "leader"
    assert leader.status.transferring == 0
    assert leader.node.propose(b"taken") == 2
    cluster.settle()
    assert cluster.rows() == [["taken"]] * 3


def test_handover_to_the_leader_itself_cancels_a_pending_one() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    cluster.lose("MsgTimeoutNow")
    leader.node.transfer_leader(2)
    leader.node.transfer_leader(1)
    assert leader.status.transferring == 0
    leader.node.propose(b"taken")


@pytest.mark.parametrize("to", [4, 9])
def test_handover_to_a_learner_or_an_unknown_node_is_rejected(to: int) -> None:
    cluster = Cluster([1, 2, 3], learners=[4])
    leader = cluster.elect(1)
    with pytest.raises(ProposalRefused, match="voters only"):
        leader.node.transfer_leader(to)
    with pytest.raises(ProposalRefused, match="does not lead"):
        cluster[2].node.transfer_leader(1)


def test_read_index_covers_all_entries_committed_at_the_request() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    leader.node.propose(b"a")
    cluster.settle()
    leader.node.read_index(b"read 1")
    cluster.settle()
    assert leader.reads == [(2, b"read 1")]


def test_read_on_a_sole_voter_is_answered_at_once() -> None:
    cluster = Cluster([1], learners=[2])
    leader = cluster.elect(1)
    leader.node.read_index(b"r")
    ready = leader.node.ready()
    assert ready is not None
    assert ready.read_states == [(1, b"r")]


def test_read_on_an_isolated_leader_is_never_answered() -> None:
    cluster = Cluster([1, 2, 3])
    old = cluster.elect(1)
    cluster.cut(1)
    cluster.tick(4 * ELECTION_TICKS, 2, 3)
    new = next(cluster[raft_id] for raft_id in (2, 3) if cluster[raft_id].status.role == "leader")
    new.node.propose(b"newer")
    cluster.settle()
    assert old.status.role == "leader"
    old.node.read_index(b"stale")
    cluster.settle()
    cluster.heal()
    cluster.tick(3)
    assert old.reads == []
    assert cluster[1].status.role == "follower"


def test_read_survives_the_loss_of_its_first_heartbeats() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    cluster.lose("MsgHeartbeat")
    leader.node.read_index(b"r")
    cluster.settle()
    assert leader.reads == []
    cluster.heal()
    cluster.tick(2)
    assert leader.reads == [(1, b"r")]


def test_answer_to_a_later_read_answers_earlier_ones_too() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    for name in (b"1", b"2", b"3"):
        leader.node.read_index(name)
    cluster.settle()
    assert leader.reads == [(1, b"1"), (1, b"2"), (1, b"3")]


def test_read_before_the_first_entry_of_the_term_is_committed_is_rejected() -> None:
    cluster = Cluster([1, 2, 3])
    cluster.lose("MsgAppend")
    leader = cluster.elect(1)
    with pytest.raises(ProposalRefused, match="nothing of this term"):
        leader.node.read_index(b"r")
    cluster.heal()
    cluster.tick(2)
    leader.node.read_index(b"r")
    cluster.settle()
    assert leader.reads == [(1, b"r")]


def test_read_on_a_follower_is_rejected() -> None:
    cluster = Cluster([1, 2, 3])
    cluster.elect(1)
    with pytest.raises(ProposalRefused, match="does not lead"):
        cluster[2].node.read_index(b"r")


def test_unreachable_follower_is_probed_again() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    cluster.cut(3)
    for _ in range(3):
        leader.node.propose(b"x")
    cluster.settle()
    assert [progress.state for progress in leader.node.progress()] == ["replicate"] * 3
    leader.node.report_unreachable(3)
    assert [progress.state for progress in leader.node.progress()] == ["replicate", "replicate", "probe"]
    cluster.heal()
    cluster.tick(2)
    assert cluster.rows() == [["x"] * 3] * 3
