"""Elections: which node may lead and when, and how a leader is protected from disturbance."""

from __future__ import annotations

import pytest
from codeq_raft_core import ProposalRefused
from raft_cluster import ELECTION_TICKS, Cluster
from raft_wire import message, read


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_group_elects_one_leader_known_to_all(size: int) -> None:
    cluster = Cluster(range(1, size + 1))
    leader = cluster.leader()
    cluster.tick(2 * ELECTION_TICKS)
    assert {member.status.leader for member in cluster.members.values()} == {leader.id}
    assert {member.status.term for member in cluster.members.values()} == {leader.status.term}
    assert [member.id for member in cluster.members.values() if member.status.role == "leader"] == [leader.id]


def test_follower_without_a_leader_waits_one_to_two_election_timeouts() -> None:
    waited = set()
    for raft_id in range(1, 60):
        cluster = Cluster([raft_id, 100, 101])
        cluster.cut(raft_id)
        ticks = 0
        while cluster[raft_id].status.role == "follower":
            cluster.tick(1, raft_id)
            ticks += 1
        waited.add(ticks)
    assert waited == set(range(ELECTION_TICKS, 2 * ELECTION_TICKS))


def test_election_timeout_is_redrawn_after_each_election() -> None:
    cluster = Cluster([1, 2, 3])
    cluster.cut(1)
    cluster.lose("MsgRequestPreVote")
    waits = set()
    for term in range(1, 12):
        cluster[1].node.step(message("MsgRequestVoteResponse", to=1, from_=2, term=term, reject=True))
        ticks = 0
        while cluster[1].status.role == "follower":
            cluster.tick(1, 1)
            ticks += 1
        waits.add(ticks)
    assert len(waits) > 3


def test_election_needs_a_majority() -> None:
    cluster = Cluster([1, 2, 3, 4, 5])
    cluster.cut(1, 2)
    cluster[1].node.campaign()
    cluster.settle()
    assert cluster[1].status.role == "precandidate"
    cluster[3].node.campaign()
    cluster.settle()
    assert cluster[3].status.role == "leader"


def test_candidate_with_an_older_log_does_not_win() -> None:
    cluster = Cluster([1, 2, 3])
    cluster.elect(1)
    cluster.cut(3)
    cluster[1].node.propose(b"a")
    cluster.settle()
    cluster.heal()
    cluster.cut(1)
    cluster.tick(2 * ELECTION_TICKS, 2, 3)
    assert cluster[3].status.role == "follower"
    assert cluster.leader().id == 2 or cluster[2].status.role == "leader"


def test_node_grants_one_vote_per_term_even_across_a_restart() -> None:
    cluster = Cluster([1, 2, 3])
    voter = cluster[1]

    def ask(candidate: int) -> bool:
        voter.node.step(message("MsgRequestVote", to=1, from_=candidate, term=5))
        ready = voter.node.ready()
        assert ready is not None
        if ready.hard_state is not None:
            voter.disk.hard_state = ready.hard_state
        [(to, kind, answer)] = ready.persisted_messages
        assert (to, kind) == (candidate, "MsgRequestVoteResponse")
        return not read(answer).reject

    assert ask(2)
    assert voter.disk.hard_state == (5, 2, 0)
    voter.start()
    assert not ask(3)
    assert ask(2)


def test_pre_vote_keeps_the_term_of_an_isolated_node_unchanged() -> None:
    cluster = Cluster([1, 2, 3])
    cluster.elect(1)
    term = cluster[1].status.term
    cluster.cut(3)
    cluster.tick(10 * ELECTION_TICKS)
    assert cluster[3].status.role == "precandidate"
    assert cluster[3].status.term == term
    cluster.heal()
    cluster.tick(2)
    assert cluster[1].status.role == "leader"
    assert cluster[3].status.leader == 1
    assert {member.status.term for member in cluster.members.values()} == {term}


def test_followers_of_a_live_leader_ignore_vote_requests() -> None:
    cluster = Cluster([1, 2, 3])
    cluster.elect(1)
    term = cluster[1].status.term
    for kind in ("MsgRequestVote", "MsgRequestPreVote"):
        cluster[2].node.step(message(kind, to=2, from_=3, term=term + 5, index=100, log_term=term))
    assert cluster[2].node.ready() is None
    assert cluster[2].status.term == term


def test_leader_without_a_quorum_steps_down() -> None:
    cluster = Cluster([1, 2, 3])
    cluster.elect(1)
    cluster.cut(1)
    cluster.tick(2 * ELECTION_TICKS, 1)
    assert cluster[1].status.role != "leader"
    assert cluster[1].status.leader == 0


def test_leader_with_a_quorum_stays_leader() -> None:
    cluster = Cluster([1, 2, 3])
    cluster.elect(1)
    cluster.cut(3)
    cluster.tick(10 * ELECTION_TICKS)
    assert cluster[1].status.role == "leader"


def test_isolated_leader_follows_its_successor_once_the_network_heals() -> None:
    cluster = Cluster([1, 2, 3])
    cluster.elect(1)
    cluster.cut(1)
    cluster.tick(4 * ELECTION_TICKS, 2, 3)
    leaders = [member.id for member in cluster.members.values() if member.status.role == "leader"]
    assert len(leaders) == 2
    assert 1 in leaders
    new = next(raft_id for raft_id in leaders if raft_id != 1)
    cluster.heal()
    cluster.tick(2)
    assert cluster[1].status.role == "follower"
    assert {member.status.leader for member in cluster.members.values()} == {new}


def test_learner_does_not_stand_for_election() -> None:
    cluster = Cluster([1], learners=[2])
    cluster.tick(10 * ELECTION_TICKS, 2)
    assert cluster[2].status.role == "follower"
    with pytest.raises(ProposalRefused, match="cannot stand"):
        cluster[2].node.campaign()


def test_node_outside_any_group_does_not_stand_for_election() -> None:
    cluster = Cluster([])
    cluster.add(7)
    cluster.tick(10 * ELECTION_TICKS)
    assert cluster[7].status.role == "follower"
    with pytest.raises(ProposalRefused, match="cannot stand"):
        cluster[7].node.campaign()


def test_campaign_on_a_leader_changes_nothing() -> None:
    cluster = Cluster([1, 2, 3])
    status = cluster.elect(1).status
    cluster[1].node.campaign()
    cluster.settle()
    assert cluster[1].status == status
