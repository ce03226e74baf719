"""Status and membership changes for operators: implements ClusterService's interface with this node's Raft member."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from codeq_internal.v1 import raft_rows_pb2
from codeq_raft_core import ConfState, read_conf_state

from codeq_server.config import RaftSettings
from codeq_server.core.errors import Reason, Rejection, invalid_field
from codeq_server.replication.raft import members
from codeq_server.replication.raft.group import Group
from codeq_server.replication.raft.member import Member
from codeq_server.replication.raft.membership import Membership
from codeq_server.replication.raft.network import Hello, Unanswered
from codeq_server.replication.raft.ports import Step
from codeq_server.services.cluster import ClusterStatus, GroupStatus, MemberStatus

MEET_SECONDS: Final = 5.0
"""Time for a new node to answer."""
ASK_SECONDS: Final = 0.2
"""Time between two attempts to reach a new node."""
READY_SECONDS: Final = 3.0
"""Time for the cluster to settle after an election: for a leader to be known, to serve, and to hear from the others."""
CHANGE_SECONDS: Final = 10.0
"""Time to commit a change."""
TRANSFER_SECONDS: Final = 3.0
"""Time for another member to take over leadership."""
POLL_SECONDS: Final = 0.01

Change = raft_rows_pb2.MembersChange


class Connections(Protocol):
    """This node's connections to other nodes."""

    async def ask(self, name: str, address: str) -> Hello:
        """See `Transport.ask`."""
        ...

    def problem_of(self, name: str) -> str:
        """See `Transport.problem_of`."""
        ...


class RaftCluster:
    """See `services.cluster.Cluster`. Rejected requests have changed nothing.

    Args:
        member: This node's Raft member.
        connections: Its connections to the others.
        raft: Settings.
        serves: Returns whether this node serves the shard.
        shard: Index of the shard.
        groups: Number of groups of each node.
    """

    def __init__(
        self,
        member: Member,
        connections: Connections,
        raft: RaftSettings,
        serves: Callable[[], bool],
        *,
        shard: int = 0,
        groups: int = 1,
    ) -> None:
        self._shard, self._groups = shard, groups
        self._member, self._connections, self._raft, self._serves = member, connections, raft, serves

    def status(self) -> ClusterStatus:
        """Returns the current status as this node sees it."""
        group = self._member.group
        groups = [] if group is None else [self._group_status(group)]
        return ClusterStatus(self._raft.self_id, self._raft.peers[self._raft.self_id], groups)

    async def add(self, name: str, address: str, *, replace: bool) -> None:
        """See `Cluster.add`."""
        if self._groups > 1 and name not in self._raft.peers:
            text = f"{name} is not in RAFT_PEERS; with several shards, add it there first, on every node"
            raise invalid_field("id", text)
        group, membership = await self._leading()
        existing = members.named(group.members, name)
        if existing is not None and not replace:
            if existing.address != address:
                raise _exists(name)
            if self._is_there(group, existing):
                return
        configured = self._raft.peers.get(name, address)
        if configured != address:
            raise invalid_field("raft_addr", f"RAFT_PEERS has {name} at {configured}; change it there, on every member")
        peer = await self._ask(name, address)
        conf = read_conf_state(group.conf_state)
        same = existing is not None and existing.raft_id == peer.raft_id
        if existing is not None and not same and not replace:
            raise _exists(name)
        if existing is not None and same and existing.address != address:
            moved = raft_rows_pb2.Member(raft_id=existing.raft_id, name=name, address=address)
            await self._change(group, membership, Change(put=[moved]), [])
        invited = any(invitation.name == name for invitation in group.members.invitations)
        if peer.raft_id in conf.voters or (peer.raft_id in conf.learners and invited):
            return  # a learner without an invitation would stay a learner forever
        replaces = existing.raft_id if existing is not None and not same else 0
        invitation = raft_rows_pb2.Invitation(name=name, address=address, replaces=replaces)
        await self._change(group, membership, Change(invited=[invitation]), [])
        if not await _until(lambda: _takes_part(group, peer.raft_id), CHANGE_SECONDS):
            raise Rejection(
                Reason.MEMBERSHIP_CHANGE_IN_PROGRESS, f"{name} is invited but not yet a learner; check the status"
            )

    async def remove(self, name: str) -> None:
        """See `Cluster.remove`."""
        group, membership = await self._leading()
        member = members.named(group.members, name)
        invited = any(invitation.name == name for invitation in group.members.invitations)
        if member is None:
            if not invited:
                raise Rejection(Reason.MEMBER_NOT_FOUND, f"id: {name} is not a member")
            await self._change(group, membership, Change(uninvited=[name]), [])
            return
        # A newly elected leader has not heard from the others yet.
        if not await _until(lambda: self._can_spare(group, member.raft_id), READY_SECONDS):
            raise Rejection(Reason.MEMBER_NOT_READY, f"too few other members are active to continue without {name}")
        if member.raft_id == group.raft_id:
            await self._transfer(None)
            raise self._member.refusal()  # the new leader removes this node
        change = Change(removed=[member.raft_id], uninvited=[name])
        await self._change(group, membership, change, [("remove", member.raft_id)])

    async def transfer(self, name: str | None) -> None:
        """See `Cluster.transfer`."""
        if self._groups > 1:
            text = f"each of the {self._groups} groups has a leader, which moves to its own node by itself"
            raise Rejection(Reason.NOT_IMPLEMENTED, text)
        await self._transfer(name)

    # -- steps ---------------------------------------------------------------------------------------------------------

    async def _transfer(self, name: str | None) -> None:
        group, membership = await self._leading()
        to = 0
        if name is not None:
            member = members.named(group.members, name)
            if member is None:
                raise Rejection(Reason.MEMBER_NOT_FOUND, f"id: {name} is not a member")
            if member.raft_id == group.raft_id:
                return
            to = member.raft_id
        await _idle(group, membership)

        def led_by_another() -> bool:
            return group.leader not in (0, group.raft_id)

        if not await _until(lambda: led_by_another() or self._member.hand_over(to), READY_SECONDS):
            raise Rejection(Reason.MEMBER_NOT_READY, "no other voter is able to take over leadership")
        if not await _until(led_by_another, TRANSFER_SECONDS):
            raise Rejection(Reason.MEMBER_NOT_READY, "the other voter did not take over in time")

    async def _leading(self) -> tuple[Group, Membership]:
        """Returns the group that this node leads, and its membership; waits while no leader is known.

        Raises:
            Rejection: NOT_LEADER.
        """
        member = self._member

        def is_known() -> bool:
            group = member.group
            return group is None or bool(group.leading_term) or group.leader not in (0, group.raft_id)

        await _until(is_known, READY_SECONDS)
        group, membership = member.group, member.membership
        if group is None or membership is None or not group.leading_term:
            raise member.refusal()
        return group, membership

    def _is_there(self, group: Group, existing: raft_rows_pb2.Member) -> bool:
        """Returns whether a member is a voter and, as far as is known, still has its disk."""
        peer = self._member.directory.met.get(existing.name)
        same = peer is None or peer.raft_id == existing.raft_id
        return same and existing.raft_id in read_conf_state(group.conf_state).voters

    def _can_spare(self, group: Group, raft_id: int) -> bool:
        """Returns whether enough voters are active to continue without a member."""
        voters = read_conf_state(group.conf_state).voters
        staying = [other for other in voters if other != raft_id]
        there = {group.raft_id, *self._member.others_active()}
        return raft_id not in voters or len(there.intersection(staying)) >= len(staying) // 2 + 1

    async def _ask(self, name: str, address: str) -> Hello:
        """Returns the node at an address: one with this name that is, or can become, a member.

        Raises:
            Rejection: MEMBER_NOT_READY.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + MEET_SECONDS
        while True:
            try:
                peer = await self._connections.ask(name, address)
                break
            except Unanswered as why:
                if loop.time() >= deadline:
                    raise Rejection(
                        Reason.MEMBER_NOT_READY, f"raft_addr: {name} does not answer at {address}: {why}"
                    ) from None
            await asyncio.sleep(ASK_SECONDS)
        if not self._member.may_join(peer):
            mine = self._member.row.cluster_id.hex()
            raise Rejection(
                Reason.MEMBER_NOT_READY,
                f"raft_addr: {name} belongs to the cluster {peer.cluster_id.hex()}, not to {mine}; empty its store",
            )
        return peer

    async def _change(self, group: Group, membership: Membership, change: Change, voters: list[Step]) -> None:
        await _idle(group, membership)
        try:
            async with asyncio.timeout(CHANGE_SECONDS):
                await asyncio.shield(membership.propose(change, voters))
        except (TimeoutError, Rejection):
            raise Rejection(
                Reason.OUTCOME_UNKNOWN,
                "no majority confirmed the change in time; it may still take effect; check the status",
            ) from None

    # -- status --------------------------------------------------------------------------------------------------------

    def _group_status(self, group: Group) -> GroupStatus:
        status, conf = group.status, read_conf_state(group.conf_state)
        progress = {p.id: p for p in group.node.progress()} if status.role == "leader" else {}
        described = []
        for member in group.members.members:
            seen = progress.get(member.raft_id)
            described.append(
                MemberStatus(
                    name=member.name,
                    raft=self._raft.peers.get(member.name, member.address),
                    http=self._member.directory.http_of(member.name),
                    grpc=self._member.directory.grpc_of(member.name),
                    voter=_votes(conf, member.raft_id),
                    matched=None if seen is None else seen.matched,
                    active=None if seen is None else group.leadership.hears(member.raft_id),
                    problem=self._connections.problem_of(member.name),
                )
            )
        leader = self._member.leader_name()
        return GroupStatus(
            shard=self._shard,
            role="learner" if group.raft_id in conf.learners else status.role,
            leader="" if leader == self._raft.self_id and not self._serves() else leader,
            term=status.term,
            commit=status.commit,
            applied=group.written,
            first=status.first_index,
            last=status.last_index,
            snapshot=group.log.base,
            elections=group.leadership.elections,
            members=described,
        )


def _votes(conf: ConfState, raft_id: int) -> bool:
    """Returns whether a member has an effective vote: during a replacement only voters of both configurations do."""
    return raft_id in conf.voters and (not conf.voters_outgoing or raft_id in conf.voters_outgoing)


def _takes_part(group: Group, raft_id: int) -> bool:
    conf = read_conf_state(group.conf_state)
    return raft_id in conf.learners or raft_id in conf.voters


def _exists(name: str) -> Rejection:
    text = f"id: {name} is a member with another address or disk; use replace to remove it in the same step"
    return Rejection(Reason.MEMBER_EXISTS, text)


async def _idle(group: Group, membership: Membership) -> None:
    """Waits until no membership change is in progress.

    Raises:
        Rejection: MEMBERSHIP_CHANGE_IN_PROGRESS: a change takes too long.
    """

    def is_idle() -> bool:
        return not membership.busy and not read_conf_state(group.conf_state).voters_outgoing

    if not await _until(is_idle, READY_SECONDS):
        raise Rejection(Reason.MEMBERSHIP_CHANGE_IN_PROGRESS, "another membership change is in progress; try again")


async def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Waits for a condition; returns whether it became true in time."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True
