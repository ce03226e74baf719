"""Members that are added, replaced or returning, and membership changes that are lost."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from codeq_internal.v1 import raft_rows_pb2
from codeq_raft_core import read_conf_state
from codeq_server.core.errors import Rejection
from codeq_server.replication.raft import members
from codeq_server.replication.raft.group import Group
from codeq_server.replication.raft.ports import Step
from members_net import TICK_SECONDS, WAIT_SECONDS, Cluster, MemberNode

Change = raft_rows_pb2.MembersChange


def group_of(node: MemberNode) -> Group:
    assert node.member.group is not None
    return node.member.group


async def change(cluster: Cluster, what: Change, *steps: Step) -> MemberNode:
    """Makes a membership change; returns the leader that made it once it is applied."""
    while True:
        leader = await cluster.leader()
        membership = leader.member.membership
        assert membership is not None
        try:
            await membership.propose(what, list(steps))
        except Rejection:  # the leadership has changed, which may happen at any time on a busy machine
            await asyncio.sleep(TICK_SECONDS)
        else:
            return leader


def invitation(node: MemberNode, replaces: int = 0) -> Change:
    one = raft_rows_pb2.Invitation(name=node.name, address=f"{node.name}:7000", replaces=replaces)
    return Change(invited=[one])


async def founded(cluster: Cluster) -> tuple[MemberNode, MemberNode]:
    """Returns the leader and a follower of a cluster of three."""
    await cluster.voters(3)
    leader = await cluster.leader()
    return leader, next(node for node in cluster.nodes.values() if node is not leader)


async def test_removed_member_rejoins_with_its_disk(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader, other = await founded(cluster)
        raft_id = other.member.row.raft_id
        await leader.write({b"t1": b"one"})
        leader = await change(cluster, Change(removed=[raft_id]), ("remove", raft_id))
        await leader.write({b"t2": b"two"})
        assert members.with_id(group_of(leader).members, raft_id) is None
        await cluster.invite(leader, other)
        await leader.write({b"t3": b"three"})
        await cluster.until(lambda: [other.store.get(b"t%d" % n) for n in (1, 2, 3)] == [b"one", b"two", b"three"])
        assert not group_of(leader).members.invitations


async def test_replaced_disk_has_no_vote_when_it_returns(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader, other = await founded(cluster)
        old_id = other.member.row.raft_id
        await other.stop()
        shutil.move(other.folder, tmp_path / "old")
        other.start()
        new_id = other.member.row.raft_id
        leader = await change(cluster, invitation(other, replaces=old_id))
        await cluster.until(lambda: new_id in read_conf_state(group_of(leader).conf_state).voters)
        await cluster.until(lambda: not group_of(leader).members.invitations)
        assert old_id not in read_conf_state(group_of(leader).conf_state).voters
        await leader.write({b"t1": b"one"})
        await other.stop()
        shutil.move(other.folder, tmp_path / "new")
        shutil.move(tmp_path / "old", other.folder)
        other.start()
        assert other.member.row.raft_id == old_id
        await leader.write({b"t2": b"two"})
        for _ in range(300):
            other.member.tick()
        assert other.store.get(b"t1") is None
        assert not other.term
        assert leader.term


async def test_change_lost_with_its_leader_is_made_by_the_next_leader(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader, _ = await founded(cluster)
        newcomer = cluster.node("d").start()
        leader = await change(cluster, invitation(newcomer))
        cluster.net.isolate(leader.name)  # before the newcomer is a voter, if not before it is a learner
        other = await cluster.leader(beside=leader)
        await cluster.until(lambda: newcomer.member.row.raft_id in read_conf_state(group_of(other).conf_state).voters)
        cluster.net.heal()
        await cluster.voters(4)
        await newcomer.stop()


async def test_change_proposed_by_an_isolated_leader_fails(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader, other = await founded(cluster)
        cluster.net.isolate(leader.name)
        raft_id = other.member.row.raft_id
        assert leader.member.membership is not None
        lost = leader.member.membership.propose(Change(removed=[raft_id]), [("remove", raft_id)])
        with pytest.raises(Rejection):
            await asyncio.wait_for(lost, 10)
        cluster.net.heal()
        await cluster.leader()
        await cluster.voters(3)


async def test_leader_removed_by_the_others_stops_serving(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader, _ = await founded(cluster)
        raft_id = leader.member.row.raft_id
        assert leader.member.membership is not None
        async with asyncio.timeout(WAIT_SECONDS):
            while leader.term:
                with suppress(Rejection):  # a former leader does not know the outcome, and a busy one may refuse
                    await leader.member.membership.propose(Change(removed=[raft_id]), [("remove", raft_id)])
                await asyncio.sleep(TICK_SECONDS)
        other = await cluster.leader(beside=leader)
        await other.write({b"t1": b"one"})
        assert len(read_conf_state(group_of(other).conf_state).voters) == 2


async def test_learner_with_a_lost_disk_is_replaced_when_it_rejoins(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader, _ = await founded(cluster)
        newcomer = cluster.node("d").start()
        first = newcomer.member.row.raft_id
        cluster.net.nodes.pop(first)  # no node meets it from now on
        put = raft_rows_pb2.Member(raft_id=first, name="d", address="d:7000")
        leader = await change(cluster, invitation(newcomer))
        leader = await change(cluster, Change(put=[put]), ("learner", first))
        await newcomer.stop()
        shutil.rmtree(newcomer.folder)
        newcomer.start()
        second = newcomer.member.row.raft_id
        await cluster.until(lambda: second in read_conf_state(group_of(leader).conf_state).voters)
        conf = read_conf_state(group_of(leader).conf_state)
        assert (first in conf.learners, len(conf.voters)) == (False, 4)
        assert [member.raft_id for member in group_of(leader).members.members if member.name == "d"] == [second]
        await newcomer.stop()


def test_change_creates_a_new_member_table_and_keeps_the_old_one_intact() -> None:
    one, two = (raft_rows_pb2.Member(raft_id=n, name=f"n{n}", address=f"n{n}:1") for n in (1, 2))
    asked = raft_rows_pb2.Invitation(name="n3", address="n3:1")
    table = raft_rows_pb2.MembersRow(members=[one], founding_voters=2)
    grown = members.changed(table, Change(put=[two], invited=[asked]), 1)
    assert (list(grown.members), list(grown.invitations), grown.founding_voters) == ([one, two], [asked], 2)
    done = members.changed(grown, Change(removed=[1], uninvited=["n3"]), 2)
    assert (list(done.members), list(done.invitations), done.founding_voters) == ([two], [], 0)
    assert (list(table.members), list(grown.members)) == ([one], [one, two])
