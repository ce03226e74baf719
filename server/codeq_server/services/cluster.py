"""ClusterService: the members that replicate the store with each other, and a port to whatever replicates it."""

from __future__ import annotations

from collections.abc import Sequence
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
        raft: Address of its transport between members.
        http: Base URL of its REST API; empty: not known.
        grpc: Address of its gRPC services; empty: not known.
        voter: Whether it has a vote.
        matched: Last entry that it has durably; None: the asked node does not lead, and so does not know.
        active: Whether it has been heard lately; None: likewise.
        problem: Why this node has no connection to it; empty: it has one, or needs none.
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
        role: What this node is.
        leader: Name of the leader; empty: none is known, or it is this node and does not serve yet.
        term: Term.
        commit: Last entry that a majority has.
        applied: Last entry whose rows are in the store.
        first: First entry in the log.
        last: Last entry in the log.
        snapshot: Entry up to which the log was cut, or replaced by a snapshot.
        elections: Elections seen since the start.
        members: Members, this node among them unless it has been taken out.
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
    """What this node knows of its cluster: its own name and transport address, and its groups by shard."""

    name: str
    raft: str
    groups: Sequence[GroupStatus]


class Cluster(Protocol):
    """The members of a cluster. Changes are made by the leader only: others raise NOT_LEADER."""

    def status(self) -> ClusterStatus | None:
        """Returns what is known now; None: the server is no member of a cluster."""
        ...

    async def add(self, name: str, address: str, *, replace: bool) -> None:
        """Takes a node in; returns when it is a learner. It becomes a voter by itself. Idempotent.

        Args:
            name: Its name.
            address: Address of its transport between members, host:port.
            replace: Whether the member that has this name goes in the same step.

        Raises:
            Rejection: MEMBER_EXISTS, MEMBERSHIP_CHANGE_IN_PROGRESS, MEMBER_NOT_READY, NOT_LEADER, OUTCOME_UNKNOWN.
        """
        ...

    async def remove(self, name: str) -> None:
        """Takes a member out.

        Raises:
            Rejection: MEMBER_NOT_FOUND, MEMBERSHIP_CHANGE_IN_PROGRESS, MEMBER_NOT_READY, NOT_LEADER, OUTCOME_UNKNOWN.
        """
        ...

    async def transfer(self, name: str | None) -> None:
        """Makes another voter the leader; returns when it leads.

        Args:
            name: Its name; None: the one that has most of the log.

        Raises:
            Rejection: MEMBER_NOT_FOUND, MEMBER_NOT_READY, MEMBERSHIP_CHANGE_IN_PROGRESS, NOT_LEADER.
        """
        ...


class NoCluster:
    """A server that serves alone."""

    def status(self) -> ClusterStatus | None:
        """Returns None: there is no cluster."""
        return None

    async def add(self, name: str, address: str, *, replace: bool) -> None:  # noqa: ARG002
        """Refuses."""
        raise _alone()

    async def remove(self, name: str) -> None:  # noqa: ARG002
        """Refuses."""
        raise _alone()

    async def transfer(self, name: str | None) -> None:  # noqa: ARG002
        """Refuses."""
        raise _alone()


class ClusterService:
    """Tells and changes the members. Methods have the names and contracts of the proto's RPCs."""

    def __init__(self, cluster: Cluster, *, fsync: bool) -> None:
        """A service.

        Args:
            cluster: The members.
            fsync: Whether acknowledgements wait for fsync.
        """
        self._cluster = cluster
        self._fsync = fsync

    async def GetRaftStatus(self, claims: Claims, request: pb.GetRaftStatusRequest) -> pb.GetRaftStatusResponse:  # noqa: N802, ARG002
        """Tells what this node knows."""
        return pb.GetRaftStatusResponse(status=self._status())

    async def GetTopology(self, claims: Claims, request: pb.GetTopologyRequest) -> pb.GetTopologyResponse:  # noqa: N802, ARG002
        """Tells where clients go."""
        status = self._cluster.status()
        topology = pb.Topology(raft_enabled=status is not None)
        if status is not None and status.groups:
            group = status.groups[0]
            topology.leader_id = group.leader
            for member in sorted(group.members, key=lambda each: each.name):
                leads = member.name == group.leader
                topology.members.add(
                    id=member.name, grpc_addr=member.grpc or None, http_addr=member.http or None, is_leader=leads
                )
                if leads and member.grpc:
                    topology.leader_grpc_addr = member.grpc
                if leads and member.http:
                    topology.leader_http_addr = member.http
        return pb.GetTopologyResponse(topology=topology)

    async def AddMember(self, claims: Claims, request: pb.AddMemberRequest) -> pb.AddMemberResponse:  # noqa: N802, ARG002
        """Takes a node in."""
        await self._cluster.add(request.id, request.raft_addr, replace=request.replace)
        return pb.AddMemberResponse(status=self._status())

    async def RemoveMember(self, claims: Claims, request: pb.RemoveMemberRequest) -> pb.RemoveMemberResponse:  # noqa: N802, ARG002
        """Takes a member out."""
        await self._cluster.remove(request.id)
        return pb.RemoveMemberResponse(status=self._status())

    async def TransferLeadership(  # noqa: N802
        self,
        claims: Claims,  # noqa: ARG002
        request: pb.TransferLeadershipRequest,
    ) -> pb.TransferLeadershipResponse:
        """Makes another voter the leader."""
        await self._cluster.transfer(request.id or None)
        return pb.TransferLeadershipResponse(status=self._status())

    def _status(self) -> pb.RaftStatus:
        status = self._cluster.status()
        if status is None:
            return pb.RaftStatus(enabled=False, fsync=self._fsync)
        groups = [_group(status, group) for group in status.groups]
        return pb.RaftStatus(enabled=True, num_groups=len(groups), groups=groups, fsync=self._fsync)


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
