"""The audit of a cluster: records survive their leader, and members are changed on the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from codeq.v1 import audit_service_pb2, cluster_service_pb2, queue_service_pb2
from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.claims import Token
from codeq_server.core.errors import Reason, Rejection
from codeq_server.services.calls import Calls
from codeq_server.services.cluster import ClusterService
from codeq_server.services.shard_table import ShardTable
from google.protobuf.message import Message
from leading_nodes import LeadingCluster, LeadingNode
from test_raft_operator import operated

CLUSTER = "/codeq.v1.ClusterService/"


class Operators:
    """Takes every token for that of an operator of the tenant acme."""

    def validate(self, _: str) -> Token:
        return Token("Op", "", frozenset({"codeq:operator"}), frozenset(), {"tenantId": "acme"})


class Nobody:
    """Accepts no token."""

    def validate(self, _: str) -> None:
        return None


async def call(node: LeadingNode, name: str, request: Message) -> Any:
    """Makes a call on a node as an operator."""
    calls = Calls(
        Authenticator(Operators(), Nobody()), ShardTable(lambda: Rejection(Reason.NOT_LEADER, "another node leads"))
    )
    service = ClusterService(operated(node, peers=node.peers), fsync=True)
    calls.register("codeq.v1.ClusterService", service, service.members)
    calls.shards.present(node.serving)
    return await calls.call(name, request, "Bearer t", origin="192.0.2.1:1")


async def listed(node: LeadingNode) -> list[audit_service_pb2.AuditRecord]:
    """Returns the records that a node shows, oldest first."""
    request = audit_service_pb2.ListAuditRecordsRequest(order_by="oldest")
    response = await call(node, "/codeq.v1.AuditService/ListAuditRecords", request)
    return list(response.records)


async def test_records_are_on_the_next_leader_and_a_handover_is_one_of_them(tmp_path: Path) -> None:
    async with LeadingCluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.serving()
        await call(leader, "/codeq.v1.QueueService/PauseQueue", queue_service_pb2.PauseQueueRequest(command="a"))
        with pytest.raises(Rejection) as refusal:
            await call(leader, f"{CLUSTER}RemoveMember", cluster_service_pb2.RemoveMemberRequest(id="z"))
        assert refusal.value.reason is Reason.MEMBER_NOT_FOUND
        before = await listed(leader)
        other = next(node for node in cluster.nodes.values() if node is not leader)
        await call(leader, f"{CLUSTER}TransferLeadership", cluster_service_pb2.TransferLeadershipRequest(id=other.name))
        assert isinstance(other, LeadingNode)
        await cluster.until(lambda: other.serving is not None)
        found = await listed(other)
        assert found[:2] == before
        assert [(each.call, each.object, each.outcome, each.tenant) for each in found] == [
            ("PauseQueue", "a", "OK", "acme"),
            ("RemoveMember", "z", "MEMBER_NOT_FOUND", ""),
            ("TransferLeadership", other.name, "OK", ""),
        ]
        members = f'{{"leader":"{leader.name}","members":["a","b","c"]}}'
        assert [each.before for each in found[1:]] == [members, members]


async def test_rejected_handover_is_corrected_on_the_record(tmp_path: Path) -> None:
    async with LeadingCluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.serving()
        with pytest.raises(Rejection):
            await call(leader, f"{CLUSTER}TransferLeadership", cluster_service_pb2.TransferLeadershipRequest(id="z"))
        assert [each.outcome for each in await listed(leader)] == ["MEMBER_NOT_FOUND"]


async def test_removed_member_is_on_the_record_with_the_members_before_and_after(tmp_path: Path) -> None:
    async with LeadingCluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.serving()
        gone = next(node.name for node in cluster.nodes.values() if node is not leader)
        await call(leader, f"{CLUSTER}RemoveMember", cluster_service_pb2.RemoveMemberRequest(id=gone))
        (record,) = await listed(leader)
        left = [name for name in ("a", "b", "c") if name != gone]
        quoted = ",".join(f'"{name}"' for name in left)
        assert (record.outcome, record.after) == ("OK", f'{{"leader":"{leader.name}","members":[{quoted}]}}')
        assert record.before != record.after


async def test_every_member_has_the_same_records(tmp_path: Path) -> None:
    async with LeadingCluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.serving()
        for name in ("a", "b"):
            await call(leader, "/codeq.v1.QueueService/PauseQueue", queue_service_pb2.PauseQueueRequest(command=name))
        rows = leader.store.scan(b"a", b"b", 10)
        assert len(rows) == 2
        for node in cluster.nodes.values():
            await cluster.until(lambda node=node: node.store.scan(b"a", b"b", 10) == rows)
