"""Membership changes that are rejected."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from codeq_internal.v1 import raft_rows_pb2
from codeq_server.config import Address, RaftSettings
from codeq_server.core.errors import Reason, Rejection
from codeq_server.node import raft_cluster
from codeq_server.node.raft_cluster import RaftCluster
from codeq_server.replication.raft.network import Unwelcome
from members_net import TICK_SECONDS, WAIT_SECONDS, Cluster, MemberNode
from test_raft_membership import change


def operated(node: MemberNode, *, peers: dict[str, str] | None = None) -> RaftCluster:
    """Returns the interface for membership changes of a node with these peers configured."""
    raft = RaftSettings(
        self_id=node.name,
        bind_addr=Address("127.0.0.1", 0),
        peers=node.peers | {"d": "d:7000"} if peers is None else peers,
    )
    return RaftCluster(node.member, node.port, raft, lambda: bool(node.term))


async def test_node_at_an_unexpected_address_is_not_added(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        operator = operated(await cluster.leader())
        with pytest.raises(Rejection, match="RAFT_PEERS has d at d:7000") as refused:
            await operator.add("d", "d:7777", replace=False)
        assert refused.value.reason is Reason.INVALID_FIELD


async def test_membership_changes_on_a_follower_are_rejected(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        follower = next(node for node in cluster.nodes.values() if node is not leader)
        with pytest.raises(Rejection) as refused:
            await operated(follower).remove("a")
        assert refused.value.reason is Reason.NOT_LEADER
        assert refused.value.metadata["leader"] == leader.name


async def test_voter_is_not_removed_if_too_few_would_remain(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        gone, other = (node for node in cluster.nodes.values() if node is not leader)
        cluster.net.isolate(gone.name)
        raft_id = gone.member.row.raft_id
        await cluster.until(lambda: raft_id not in leader.member.others_active())
        with pytest.raises(Rejection) as refused:
            await operated(leader).remove(other.name)
        assert refused.value.reason is Reason.MEMBER_NOT_READY
        await operated(leader).remove(gone.name)
        await leader.write({b"t1": b"one"})
        cluster.net.heal()


async def test_removal_of_a_node_that_is_not_a_member_is_rejected(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        with pytest.raises(Rejection) as refused:
            await operated(await cluster.leader()).remove("z")
        assert refused.value.reason is Reason.MEMBER_NOT_FOUND


async def test_learner_that_is_no_longer_invited_can_be_added_again(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        newcomer = cluster.node("d").start()
        raft_id = newcomer.member.row.raft_id
        put = raft_rows_pb2.Member(raft_id=raft_id, name="d", address="d:7000")
        await change(cluster, raft_rows_pb2.MembersChange(put=[put]), ("learner", raft_id))
        for _ in range(2):
            await until_done(cluster, lambda leader: operated(leader).add("d", "d:7000", replace=False))
            await cluster.voters(4)
        await newcomer.stop()


async def until_done(cluster: Cluster, ask: Callable[[MemberNode], Awaitable[None]]) -> None:
    """Asks whichever node leads: on a busy machine the leadership may change at any time."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            with suppress(Rejection):
                return await ask(await cluster.leader())
            await asyncio.sleep(TICK_SECONDS)


async def test_replacement_by_an_unreachable_node_is_rejected_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raft_cluster, "MEET_SECONDS", 0.1)
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        assert leader.member.group is not None
        other = next(node for node in cluster.nodes.values() if node is not leader)
        before = leader.member.group.members.SerializeToString()
        operator = operated(leader, peers={})
        with pytest.raises(Rejection, match=f"{other.name} does not answer at {other.name}:7777: nobody") as refused:
            await operator.add(other.name, f"{other.name}:7777", replace=True)
        assert refused.value.reason is Reason.MEMBER_NOT_READY
        assert leader.member.group.members.SerializeToString() == before
        with pytest.raises(Rejection) as refused:
            await operator.add(other.name, f"{other.name}:7777", replace=False)
        assert refused.value.reason is Reason.MEMBER_EXISTS


async def test_member_that_moves_keeps_its_vote_at_its_new_address(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        assert leader.member.group is not None
        other = next(node for node in cluster.nodes.values() if node is not leader)
        other.address = "elsewhere:7000"
        await operated(leader, peers={}).add(other.name, "elsewhere:7000", replace=True)
        addresses = {member.name: member.address for member in leader.member.group.members.members}
        assert addresses[other.name] == "elsewhere:7000"
        assert not leader.member.group.members.invitations
        await cluster.voters(3)


async def test_newly_elected_leader_accepts_membership_changes(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "abcde") as cluster:
        await cluster.voters(5)
        leader = await cluster.leader()
        for _ in range(5):
            await operated(leader).transfer(None)
            name = next(node.name for node in cluster.nodes.values() if node.member.leader_name() == node.name)
            leader = cluster.nodes[name]
        for left in (4, 3):
            old = leader
            with pytest.raises(Rejection) as refused:
                await operated(old).remove(old.name)
            leader = cluster.nodes[refused.value.metadata["leader"]]
            await operated(leader).remove(old.name)
            await old.stop()
            await cluster.voters(left)


async def test_returning_member_learns_of_its_removal_from_the_leader(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        other = next(node for node in cluster.nodes.values() if node is not leader)
        await other.stop()
        await operated(leader).remove(other.name)
        other.start()
        with pytest.raises(Unwelcome, match=f"{other.name} .* was removed from the cluster"):
            leader.member.met(other.member.hello(), "")


async def test_leader_informs_a_member_that_was_restored_from_an_old_copy(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        other = next(node for node in cluster.nodes.values() if node is not leader)
        await leader.write({b"t": b"0"})
        await cluster.until(lambda: other.store.get(b"t") == b"0")
        await other.stop()
        shutil.copytree(other.folder, tmp_path / "copy")
        other.start()
        for number in range(20):
            await leader.write({b"t": b"%d" % number})
        await cluster.until(lambda: other.store.get(b"t") == b"19")
        leader.member.met(other.member.hello(), "")
        await other.stop()
        shutil.rmtree(other.folder)
        shutil.move(tmp_path / "copy", other.folder)
        other.start()
        with pytest.raises(Unwelcome, match=f"{other.name} .* its store is an old copy"):
            leader.member.met(other.member.hello(), "")
        leader.member.met(replace(other.member.hello(), last_index=None), "")  # from a version that does not report it
