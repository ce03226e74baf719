"""Changes of members: learners, joint consensus, and leaders that remove themselves."""

from __future__ import annotations

import pytest
from codeq_raft_core import ProposalRefused, conf_state, read_conf_state
from raft_cluster import ELECTION_TICKS, Cluster
from raft_wire import ConfState


def test_learner_replicates_everything_but_has_no_vote() -> None:
    cluster = Cluster([1, 2, 3], learners=[4])
    leader = cluster.elect(1)
    cluster.cut(1, 4)
    leader.node.propose(b"a")
    cluster.settle()
    assert leader.status.commit == 1
    assert cluster[4].status.last_index == 2
    assert [progress.is_learner for progress in leader.node.progress()] == [False, False, False, True]


def test_new_node_becomes_a_learner_and_then_a_voter() -> None:
    cluster = Cluster([1], base=True)
    leader = cluster.elect(1)
    leader.node.propose(b"a")
    cluster.settle()
    newcomer = cluster.add(2)
    leader.node.propose_members([("learner", 2)], b"")
    cluster.tick(3)
    assert newcomer.rows == ["a"]
    assert read_conf_state(newcomer.conf_state) == read_conf_state(conf_state([1], [2]))
    leader.node.propose_members([("voter", 2)], b"")
    cluster.tick(3)
    assert newcomer.conf_state == leader.conf_state == conf_state([1, 2], [])
    cluster.cut(2)
    leader.node.propose(b"needs both")
    cluster.settle()
    assert leader.rows == ["a"]
    cluster.heal()
    cluster.tick(3)
    assert cluster.rows() == [["a", "needs both"]] * 2


def test_membership_change_carries_its_context() -> None:
    cluster = Cluster([1])
    leader = cluster.elect(1)
    index = leader.node.propose_members([("learner", 2)], b"who and why")
    cluster.settle()
    assert cluster.committed[index][1] == 2
    assert cluster.committed[index][3] == b"who and why"


def test_replacing_a_voter_enters_and_leaves_joint_consensus_automatically() -> None:
    cluster = Cluster([1, 2, 3], base=True)
    leader = cluster.elect(1)
    cluster.add(4)
    leader.node.propose_members([("remove", 3), ("voter", 4)], b"")
    cluster.tick(4)
    states = [read_conf_state(state) for state in leader.conf_states]
    assert [(state.voters, state.voters_outgoing, state.auto_leave) for state in states] == [
        ([1, 2, 4], [1, 2, 3], True),
        ([1, 2, 4], [], False),
    ]
    leader.node.propose(b"a")
    cluster.settle()
    assert cluster[4].rows == ["a"]


def test_joint_consensus_needs_a_majority_of_both_configurations() -> None:
    cluster = Cluster([1, 2, 3], base=True)
    leader = cluster.elect(1)
    for newcomer in (4, 5):
        cluster.add(newcomer)
    cluster.cut(1, 4, 5)
    leader.node.propose_members([("remove", 2), ("remove", 3), ("voter", 4), ("voter", 5)], b"")
    cluster.settle()
    assert leader.status.commit == 2
    cluster.heal()
    cluster.cut(2, 3, 4, 5)
    cluster.tick(1, 2, 3, 4, 5)
    assert leader.status.commit == 2
    cluster.heal()
    cluster.tick(3)
    assert leader.conf_state == conf_state([1, 4, 5], [])


def test_new_leader_ends_an_inherited_joint_state() -> None:
    cluster = Cluster([1, 2, 3], base=True)
    leader = cluster.elect(1)
    cluster.add(4)
    leader.node.propose_members([("remove", 3), ("voter", 4)], b"")
    for _ in range(40):
        if read_conf_state(leader.conf_state).voters_outgoing:
            break
        leader.pump()
        if cluster.mail:
            _, to, _, sent = cluster.mail.popleft()
            cluster[to].node.step(sent)
            cluster[to].pump()
    assert read_conf_state(leader.conf_state).auto_leave
    leader.crash()
    cluster.tick(4 * ELECTION_TICKS)
    assert cluster.leader().conf_state == conf_state([1, 2, 4], [])


@pytest.mark.parametrize("changes", [[("remove", 1)], [("remove", 1), ("voter", 4)], [("learner", 1)]])
def test_leader_that_is_no_longer_a_voter_steps_down_and_is_replaced(changes: list[tuple[str, int]]) -> None:
    cluster = Cluster([1, 2, 3], base=True)
    leader = cluster.elect(1)
    cluster.add(4)
    leader.node.propose(b"before")
    leader.node.propose_members(changes, b"")  # type: ignore[arg-type]
    leader.node.propose(b"behind the change")
    cluster.settle()
    assert leader.status.role == "follower"
    cluster.tick(4 * ELECTION_TICKS)
    new = cluster.leader()
    assert new.id != 1
    assert 1 not in new.members
    new.node.propose(b"after")
    cluster.settle()
    assert new.rows == ["before", "behind the change", "after"]
    assert leader.status.role == "follower"


def test_removed_node_does_not_disturb_the_others() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    leader.node.propose_members([("remove", 3)], b"")
    cluster.settle()
    term = leader.status.term
    cluster.tick(5 * ELECTION_TICKS)
    assert (leader.status.role, leader.status.term) == ("leader", term)
    assert [progress.id for progress in leader.node.progress()] == [1, 2]


def test_second_change_is_rejected_until_the_first_is_applied() -> None:
    cluster = Cluster([1, 2, 3])
    leader = cluster.elect(1)
    leader.node.propose_members([("learner", 4)], b"")
    with pytest.raises(ProposalRefused, match="may not be applied yet"):
        leader.node.propose_members([("learner", 5)], b"")
    cluster.settle()
    index = leader.node.propose_members([("learner", 5)], b"")
    cluster.settle()
    assert read_conf_state(leader.conf_state).learners == [4, 5]
    assert index == 3


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ([], "changes: empty"),
        ([("voter", 0)], "id 0 is 0"),
        ([("voter", 4), ("learner", 4)], "named twice"),
        ([("chief", 4)], "is none of voter, learner, remove"),
        ([("remove", 1)], "removed all voters"),
        ([("learner", 1)], "removed all voters"),
    ],
)
def test_impossible_change_raises_an_error_and_appends_nothing(changes: list[tuple[str, int]], error: str) -> None:
    cluster = Cluster([1])
    leader = cluster.elect(1)
    last_index = leader.status.last_index
    with pytest.raises(ValueError, match=error):
        leader.node.propose_members(changes, b"")  # type: ignore[arg-type]
    assert leader.status.last_index == last_index


def test_change_proposed_to_a_follower_is_rejected() -> None:
    cluster = Cluster([1, 2, 3])
    cluster.elect(1)
    with pytest.raises(ProposalRefused, match="does not lead"):
        cluster[2].node.propose_members([("learner", 4)], b"")


@pytest.mark.parametrize(("kind", "data"), [(0, b""), (3, b""), (2, b"\xff"), (2, b""), (1, b"\x13" * 100)])
def test_applying_an_entry_that_is_not_a_change_raises_an_error(kind: int, data: bytes) -> None:
    cluster = Cluster([1, 2, 3])
    with pytest.raises(ValueError, match=r"no members|not a change|not joint|non-joint"):
        cluster[1].node.apply_members(kind, data)


def test_conf_state_is_written_in_order() -> None:
    written = conf_state([3, 1, 2], [9, 8])
    assert written == conf_state([2, 3, 1], [8, 9])
    state = read_conf_state(written)
    assert (state.voters, state.learners) == ([1, 2, 3], [8, 9])
    assert repr(state) == (
        "ConfState(voters=[1, 2, 3], learners=[8, 9], voters_outgoing=[], learners_next=[], auto_leave=False)"
    )


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"voters": [0]}, "an id is 0"),
        ({"voters": [1, 1]}, "listed twice"),
        ({"learners": [1]}, "no voter"),
        ({"voters": [1], "learners": [1]}, "a learner is a voter"),
        ({"voters": [1], "learners": [2], "voters_outgoing": [2]}, "a learner is a voter"),
        ({"voters": [1], "learners_next": [2]}, "learners_next"),
        ({"voters": [1, 2], "voters_outgoing": [2], "learners_next": [2]}, "learners_next"),
        ({"voters": [1], "auto_leave": True}, "auto_leave"),
    ],
)
def test_impossible_conf_state_raises_an_error(fields: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        read_conf_state(ConfState(**fields).SerializeToString())
