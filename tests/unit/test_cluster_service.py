"""ClusterService on a scripted cluster."""

from __future__ import annotations

import json
from typing import Any

import pytest
from codeq.v1 import cluster_service_pb2 as pb
from codeq_gateway.encode import compile_encoder
from codeq_server.auth.claims import Claims
from codeq_server.core.errors import Reason, Rejection
from codeq_server.services.cluster import ClusterService, ClusterStatus, GroupStatus, MemberStatus, NoCluster

CLAIMS = Claims("boss", "acme", frozenset(), frozenset(), "ADMIN", is_admin=True)
LEADER = MemberStatus(
    "node-a", "node-a:7000", "http://node-a:8080", "node-a:9092", voter=True, matched=9, active=True, problem=""
)
FOLLOWER = MemberStatus("node-b", "node-b:7000", "", "", voter=True, matched=7, active=False, problem="it is away")
LEARNER = MemberStatus("node-c", "node-c:7000", "", "", voter=False, matched=0, active=True, problem="")
GROUP = {"shard": 0, "term": 3, "commit": 8, "applied": 6, "first": 2, "last": 9, "snapshot": 1, "elections": 4}


class ToldCluster:
    """Returns scripted replies, and records the requested changes."""

    def __init__(self, status: ClusterStatus) -> None:
        self.told = status
        self.changes: list[tuple[object, ...]] = []

    def status(self) -> ClusterStatus:
        return self.told

    async def add(self, name: str, address: str, *, replace: bool) -> None:
        self.changes.append(("add", name, address, replace))

    async def remove(self, name: str) -> None:
        self.changes.append(("remove", name))

    async def transfer(self, name: str | None) -> None:
        self.changes.append(("transfer", name))


def cluster(name: str, leader: str, *members: MemberStatus) -> ToldCluster:
    role: Any = "leader" if name == leader else "follower"
    group = GroupStatus(role=role, leader=leader, members=members, **GROUP)  # type: ignore[arg-type]
    return ToldCluster(ClusterStatus(name, f"{name}:7000", (group,)))


async def shown(told: ToldCluster) -> dict[str, Any]:
    reply = await ClusterService(told, fsync=True).GetRaftStatus(CLAIMS, pb.GetRaftStatusRequest())
    body: dict[str, Any] = json.loads(compile_encoder(pb.RaftStatus.DESCRIPTOR)(reply.status))
    return body


async def test_status_has_the_documented_field_names() -> None:
    body = await shown(cluster("node-b", "node-a", LEARNER, FOLLOWER, LEADER))
    [group] = body.pop("groups")
    assert body == {"enabled": True, "numGroups": 1, "fsync": True}
    members = group.pop("members")
    assert group == {
        "shardIdx": 0,
        "isLeader": False,
        "selfId": "node-b",
        "selfAddr": "node-b:7000",
        "leaderId": "node-a",
        "leaderAddr": "node-a:7000",
        "leaderHTTPAddr": "http://node-a:8080",
        "hasLeader": True,
        "role": "FOLLOWER",
        "term": 3,
        "commitIndex": 8,
        "appliedIndex": 6,
        "firstIndex": 2,
        "lastIndex": 9,
        "lag": 2,
        "snapshotIndex": 1,
        "elections": 4,
    }
    assert [(each["id"], each["role"], each["lag"], each["isSelf"]) for each in members] == [
        ("node-a", "LEADER", 0, False),
        ("node-b", "FOLLOWER", 2, True),
        ("node-c", "LEARNER", 9, False),
    ]
    assert members[1].keys() & {"httpAddr", "grpcAddr"} == set()
    assert [each.get("problem") for each in members] == [None, "it is away", None]


async def test_status_without_a_leader_omits_its_address() -> None:
    [group] = (await shown(cluster("node-b", "", FOLLOWER)))["groups"]
    assert (group["hasLeader"], group["leaderId"], group["leaderAddr"]) == (False, "", "")
    assert "leaderHTTPAddr" not in group


async def test_follower_status_omits_fields_that_only_the_leader_knows() -> None:
    unknown = MemberStatus("node-a", "node-a:7000", "", "", voter=True, matched=None, active=None, problem="")
    [group] = (await shown(cluster("node-b", "node-a", unknown)))["groups"]
    assert group["members"][0].keys() & {"matchIndex", "lag", "active", "problem"} == set()


async def test_topology_gives_the_leaders_client_addresses() -> None:
    service = ClusterService(cluster("node-b", "node-a", FOLLOWER, LEADER), fsync=True)
    topology = (await service.GetTopology(CLAIMS, pb.GetTopologyRequest())).topology
    assert (topology.leader_id, topology.leader_grpc_addr, topology.leader_http_addr) == (
        "node-a",
        "node-a:9092",
        "http://node-a:8080",
    )
    assert [(each.id, each.grpc_addr, each.is_leader) for each in topology.members] == [
        ("node-a", "node-a:9092", True),
        ("node-b", "", False),
    ]


async def test_cluster_changes_are_passed_on_and_return_the_status() -> None:
    told = cluster("node-a", "node-a", LEADER)
    service = ClusterService(told, fsync=False)
    request = pb.AddMemberRequest(id="node-d", raft_addr="node-d:7000", replace=True)
    statuses = [
        (await service.AddMember(CLAIMS, request)).status,
        (await service.RemoveMember(CLAIMS, pb.RemoveMemberRequest(id="node-d"))).status,
        (await service.TransferLeadership(CLAIMS, pb.TransferLeadershipRequest(id="node-b"))).status,
        (await service.TransferLeadership(CLAIMS, pb.TransferLeadershipRequest())).status,
    ]
    assert told.changes == [
        ("add", "node-d", "node-d:7000", True),
        ("remove", "node-d"),
        ("transfer", "node-b"),
        ("transfer", None),
    ]
    assert [(status.enabled, status.fsync, status.groups[0].self_id) for status in statuses] == [
        (True, False, "node-a")
    ] * 4


async def test_cluster_changes_on_a_single_node_are_rejected() -> None:
    service = ClusterService(NoCluster(), fsync=True)
    with pytest.raises(Rejection) as caught:
        await service.RemoveMember(CLAIMS, pb.RemoveMemberRequest(id="a"))
    assert caught.value.reason is Reason.NOT_CLUSTERED
