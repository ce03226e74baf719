"""ClusterService: status and membership of the Raft cluster, and the interface to the replication layer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from codeq.v1 import cluster_service_pb2 as pb

from codeq_server.auth.claims import Claims
from codeq_server.core.errors import Reason, Rejection

Role = Literal["follower", "precandidate", "candidate", "leader", "learner"]

_ROLES = {
    "follower": pb.RAFT_ROLE_FOLLOWER,
    "precandidate": pb.RAFT_ROLE_PRE_CANDIDATE,
    "candidate": pb.RAFT_ROLE_CANDIDATE,
    "leader": pb.RAFT_ROLE_LEADER,
    "learner": pb.RAFT_ROLE_LEARNER,
}


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """A member of a group.

    Attributes:
        name: Name.
        raft: Raft address, used between members.
        http: Base URL of its REST API; empty: unknown.
        grpc: Address of its gRPC services; empty: unknown.
        voter: Whether it votes.
        matched: Last entry known to be durable on it; None: unknown, because the reporting node is not the leader.
        active: Whether the leader heard from it recently; None: unknown for the same reason.
        problem: Why this node has no connection to it; empty: it is connected, or needs no connection.
    """

    name: str
    raft: str
    http: str
    grpc: str
    voter: bool
    matched: int | None
    active: bool | None
    problem: str


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """One group as this node sees it.

    Attributes:
        shard: Number of the shard.
        role: Role of this node.
        leader: Name of the leader; empty: unknown, or this node has been elected but does not serve yet.
        term: Term.
        commit: Last committed entry.
        applied: Last entry applied to the store.
        first: First entry in the log.
        last: Last entry in the log.
        snapshot: Entry up to which the log was truncated, or replaced by a snapshot.
        elections: Elections seen since startup.
        members: Members, including this node unless it has been removed.
    """

    shard: int
    role: Role
    leader: str
    term: int
    commit: int
    applied: int
    first: int
    last: int
    snapshot: int
    elections: int
    members: Sequence[MemberStatus]


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """The cluster as this node sees it: its own name and Raft address, and its groups by shard."""

    name: str
    raft: str
    groups: Sequence[GroupStatus]


class Cluster(Protocol):
    """Membership of a cluster. Only the leader makes changes; other nodes raise NOT_LEADER."""

    def status(self) -> ClusterStatus | None:
        """Returns the current status; None: the server is not a member of a cluster."""
        ...

    async def add(self, name: str, address: str, *, replace: bool) -> None:
        """Adds a node; returns when it is a learner. It is promoted to voter automatically. Idempotent.

        Args:
            name: Name of the node.
            address: Its Raft address, host:port.
            replace: Whether an existing member of this name is removed in the same step.

        Raises:
            Rejection: MEMBER_EXISTS, MEMBERSHIP_CHANGE_IN_PROGRESS, MEMBER_NOT_READY, NOT_LEADER, OUTCOME_UNKNOWN.
        """
        ...

    async def remove(self, name: str) -> None:
        """Removes a member.

        Raises:
            Rejection: MEMBER_NOT_FOUND, MEMBERSHIP_CHANGE_IN_PROGRESS, MEMBER_NOT_READY, NOT_LEADER, OUTCOME_UNKNOWN.
        """
        ...

    async def transfer(self, name: str | None) -> None:
        """Transfers leadership to another voter; returns when it leads.

        Args:
            name: Name of the voter; None: the voter whose log is most up to date.

        Raises:
            Rejection: MEMBER_NOT_FOUND, MEMBER_NOT_READY, MEMBERSHIP_CHANGE_IN_PROGRESS, NOT_LEADER.
        """
        ...


class NoCluster:
    """A single node without a cluster."""

    def status(self) -> ClusterStatus | None:
        """Returns None: there is no cluster."""
        return None

    async def add(self, name: str, address: str, *, replace: bool) -> None:  # noqa: ARG002
        """Raises NOT_CLUSTERED."""
        raise _alone()

    async def remove(self, name: str) -> None:  # noqa: ARG002
        """Raises NOT_CLUSTERED."""
        raise _alone()

    async def transfer(self, name: str | None) -> None:  # noqa: ARG002
        """Raises NOT_CLUSTERED."""
        raise _alone()


Others = Callable[[], Awaitable[Sequence[pb.RaftGroup]]]


class ClusterService:
    """Reports and changes cluster membership. Methods have the names and contracts of the proto's RPCs."""

    def __init__(self, cluster: Cluster, *, fsync: bool, others: Others | None = None) -> None:
        """Creates the service.

        Args:
            cluster: Status and membership of the cluster.
            fsync: Whether acknowledgements wait for fsync.
            others: Returns the groups of the other processes of this server; None: there are none.
        """
        self._cluster = cluster
        self._others = others
        self._fsync = fsync

    async def GetRaftStatus(self, claims: Claims, request: pb.GetRaftStatusRequest) -> pb.GetRaftStatusResponse:  # noqa: N802, ARG002
        """Returns the Raft status as this node sees it."""
        status = self._status()
        if self._others is not None:
            add_groups(status, await self._others())
        return pb.GetRaftStatusResponse(status=status)

    def own_groups(self) -> bytes:
        """Returns the status of this process, serialized, for the other processes of its server."""
        return self._status().SerializeToString()

    async def GetTopology(self, claims: Claims, request: pb.GetTopologyRequest) -> pb.GetTopologyResponse:  # noqa: N802, ARG002
        """Returns the members and the leader, with the addresses for clients."""
        status = self._cluster.status()
        topology = pb.Topology(raft_enabled=status is not None)
        if status is not None and status.groups:
            group = status.groups[0]
            # Of several groups, each has a leader, and any node takes any call.
            leader = group.leader if self._others is None else ""
            topology.leader_id = leader
            for member in sorted(group.members, key=lambda each: each.name):
                leads = member.name == leader
                topology.members.add(
                    id=member.name, grpc_addr=member.grpc or None, http_addr=member.http or None, is_leader=leads
                )
                if leads and member.grpc:
                    topology.leader_grpc_addr = member.grpc
                if leads and member.http:
                    topology.leader_http_addr = member.http
        return pb.GetTopologyResponse(topology=topology)

    def members(self) -> dict[str, object] | None:
        """Returns the leader and the members by name, as the audit shows them; None: there is no cluster."""
        status = self._cluster.status()
        if status is None or not status.groups:
            return None
        group = status.groups[0]
        return {"leader": group.leader, "members": sorted(member.name for member in group.members)}

    async def AddMember(self, claims: Claims, request: pb.AddMemberRequest) -> pb.AddMemberResponse:  # noqa: N802, ARG002
        """Adds a node to the cluster."""
        await self._cluster.add(request.id, request.raft_addr, replace=request.replace)
        return pb.AddMemberResponse(status=self._status())

    async def RemoveMember(self, claims: Claims, request: pb.RemoveMemberRequest) -> pb.RemoveMemberResponse:  # noqa: N802, ARG002
        """Removes a member from the cluster."""
        await self._cluster.remove(request.id)
        return pb.RemoveMemberResponse(status=self._status())

    async def TransferLeadership(  # noqa: N802
        self,
        claims: Claims,  # noqa: ARG002
        request: pb.TransferLeadershipRequest,
    ) -> pb.TransferLeadershipResponse:
        """Transfers leadership to another voter."""
        await self._cluster.transfer(request.id or None)
        return pb.TransferLeadershipResponse(status=self._status())

    def _status(self) -> pb.RaftStatus:
        status = self._cluster.status()
        if status is None:
            return pb.RaftStatus(enabled=False, fsync=self._fsync)
        groups = [_group(status, group) for group in status.groups]
        return pb.RaftStatus(enabled=True, num_groups=len(groups), groups=groups, fsync=self._fsync)


def add_groups(status: pb.RaftStatus, others: Iterable[pb.RaftGroup]) -> None:
    """Adds the groups of other shards to a status."""
    groups = sorted([*status.groups, *others], key=lambda group: group.shard_idx)
    del status.groups[:]
    status.groups.extend(groups)
    status.num_groups = len(groups)


def _group(status: ClusterStatus, group: GroupStatus) -> pb.RaftGroup:
    leader = next((member for member in group.members if member.name == group.leader), None)
    return pb.RaftGroup(
        shard_idx=group.shard,
        is_leader=group.leader == status.name,
        self_id=status.name,
        self_addr=status.raft,
        leader_id=group.leader,
        leader_addr="" if leader is None else leader.raft,
        leader_http_addr=None if leader is None else leader.http or None,
        has_leader=bool(group.leader),
        role=_ROLES[group.role],
        term=group.term,
        commit_index=group.commit,
        applied_index=group.applied,
        first_index=group.first,
        last_index=group.last,
        lag=max(0, group.commit - group.applied),
        snapshot_index=group.snapshot,
        elections=group.elections,
        members=[_member(status, group, each) for each in sorted(group.members, key=lambda each: each.name)],
    )


def _member(status: ClusterStatus, group: GroupStatus, member: MemberStatus) -> pb.RaftMember:
    leads = member.name == group.leader
    role: Role = "leader" if leads else "follower" if member.voter else "learner"
    return pb.RaftMember(
        id=member.name,
        raft_addr=member.raft,
        http_addr=member.http or None,
        grpc_addr=member.grpc or None,
        role=_ROLES[role],
        voter=member.voter,
        is_leader=leads,
        is_self=member.name == status.name,
        match_index=member.matched,
        lag=None if member.matched is None else max(0, group.last - member.matched),
        active=member.active,
        problem=member.problem or None,
    )


def _alone() -> Rejection:
    return Rejection(Reason.NOT_CLUSTERED, "the server is not a member of a cluster")
