"""What operators are refused when they change members."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from codeq_internal.v1 import raft_rows_pb2
from codeq_server.config import Address, RaftSettings
from codeq_server.core.errors import Reason, Rejection
from codeq_server.raft_cluster import RaftCluster
from codeq_server.replication.raft.channels import TransportSettings
from codeq_server.replication.raft.transport import Transport
from members_net import TICK_SECONDS, WAIT_SECONDS, Cluster, MemberNode
from test_raft_membership import change


def operated(node: MemberNode, folder: Path) -> RaftCluster:
    """Returns what an operator changes the members with, on a node."""
    raft = RaftSettings(
        self_id=node.name,
        bind=Address("127.0.0.1", 0),
        bootstrap=False,
        peers=node.peers | {"d": "d:7000"},
        peer_http={},
        peer_grpc={},
        secret="",
        tls=None,
        heartbeat_ms=100,
        election_ms=1000,
        apply_timeout_seconds=10,
    )
    transport = Transport(TransportSettings("127.0.0.1", 0, folder / "incoming"), {}, node.member)
    return RaftCluster(node.member, transport, raft)


async def test_node_at_another_address_than_configured_is_not_taken_in(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        operator = operated(await cluster.leader(), tmp_path)
        with pytest.raises(Rejection, match="RAFT_PEERS has d at d:7000") as refused:
            await operator.add("d", "d:7777", replace=False)
        assert refused.value.reason is Reason.INVALID_FIELD


async def test_changes_are_refused_by_a_member_that_does_not_lead(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        follower = next(node for node in cluster.nodes.values() if node is not leader)
        with pytest.raises(Rejection) as refused:
            await operated(follower, tmp_path).remove("a")
        assert refused.value.reason is Reason.NOT_LEADER
        assert refused.value.metadata["leader"] == leader.name


async def test_voter_without_whom_too_few_are_there_is_not_removed(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        gone, other = (node for node in cluster.nodes.values() if node is not leader)
        cluster.net.isolate(gone.name)
        raft_id = gone.member.row.raft_id
        await cluster.until(lambda: raft_id not in leader.member.others_active())
        with pytest.raises(Rejection) as refused:
            await operated(leader, tmp_path).remove(other.name)
        assert refused.value.reason is Reason.MEMBER_NOT_READY
        await operated(leader, tmp_path).remove(gone.name)
        await leader.write({b"t1": b"one"})
        cluster.net.heal()


async def test_node_that_is_no_member_is_not_removed(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        with pytest.raises(Rejection) as refused:
            await operated(await cluster.leader(), tmp_path).remove("z")
        assert refused.value.reason is Reason.MEMBER_NOT_FOUND


async def test_learner_that_nobody_invites_any_more_is_added_again(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        newcomer = cluster.node("d").start()
        raft_id = newcomer.member.row.raft_id
        put = raft_rows_pb2.Member(raft_id=raft_id, name="d", address="d:7000")
        await change(cluster, raft_rows_pb2.MembersChange(put=[put]), ("learner", raft_id))
        for _ in range(2):
            await until_done(cluster, lambda leader: operated(leader, tmp_path).add("d", "d:7000", replace=False))
            await cluster.voters(4)
        await newcomer.stop()


async def until_done(cluster: Cluster, ask: Callable[[MemberNode], Awaitable[None]]) -> None:
    """Asks whoever leads: the leadership may go at any time on a busy machine."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            with suppress(Rejection):
                return await ask(await cluster.leader())
            await asyncio.sleep(TICK_SECONDS)
