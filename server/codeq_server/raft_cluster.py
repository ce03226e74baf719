"""What operators see and change of the members: the port of ClusterService onto this node's part in the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from codeq_internal.v1 import raft_rows_pb2
from codeq_raft_core import read_conf_state

from codeq_server.config import RaftSettings
from codeq_server.core.errors import Reason, Rejection, invalid_field
from codeq_server.replication.raft import members
from codeq_server.replication.raft.group import Group
from codeq_server.replication.raft.member import GROUP, Member
from codeq_server.replication.raft.membership import Membership
from codeq_server.replication.raft.network import Hello
from codeq_server.replication.raft.ports import Step
from codeq_server.replication.raft.transport import Transport
from codeq_server.services.cluster import ClusterStatus, GroupStatus, MemberStatus

MEET_SECONDS: Final = 5.0
"""Time for a new node to be met."""
CHANGE_SECONDS: Final = 10.0
"""Time for a change to be agreed on."""
TRANSFER_SECONDS: Final = 3.0
"""Time for another member to take the lead."""
POLL_SECONDS: Final = 0.01

Change = raft_rows_pb2.MembersChange


class RaftCluster:
    """See `services.cluster.Cluster`.

    Args:
        member: This node's part in the cluster.
        transport: What connects it with the others.
        raft: Settings.
    """

    def __init__(self, member: Member, transport: Transport, raft: RaftSettings) -> None:
        self._member, self._transport, self._raft = member, transport, raft

    def status(self) -> ClusterStatus:
        """Returns what this node knows now."""
        group = self._member.group
        groups = [] if group is None else [self._group_status(group)]
        return ClusterStatus(self._raft.self_id, self._raft.peers[self._raft.self_id], groups)

    async def add(self, name: str, address: str, *, replace: bool) -> None:
        """See `Cluster.add`."""
        group, membership = self._leading()
        existing = members.named(group.members, name)
        peer = self._member.peer(name)
        if existing is not None and not replace:
            known = existing.address == address and (peer is None or peer.raft_id == existing.raft_id)
            if known and existing.raft_id in read_conf_state(group.conf_state).voters:
                return
            if not known:
                raise Rejection(
                    Reason.MEMBER_EXISTS,
                    f"id: {name} is a member with another address or disk; say replace to take it out in the same step",
                )
            existing = None  # a learner: it is met again
        configured = self._raft.peers.get(name, address)
        if configured != address:
            raise invalid_field("raft_addr", f"RAFT_PEERS has {name} at {configured}; change it there, on every member")
        self._transport.add(name, address)
        peer = await self._meet(name, existing)
        conf = read_conf_state(group.conf_state)
        invited = any(invitation.name == name for invitation in group.members.invitations)
        if peer.raft_id in conf.voters or (peer.raft_id in conf.learners and invited):
            return  # a learner that nobody invites any more would stay one for ever
        replaces = existing.raft_id if existing is not None else 0
        invitation = raft_rows_pb2.Invitation(name=name, address=address, replaces=replaces)
        await self._change(membership, Change(invited=[invitation]), [])
        if not await _until(lambda: _takes_part(group, peer.raft_id), CHANGE_SECONDS):
            raise Rejection(
                Reason.MEMBERSHIP_CHANGE_IN_PROGRESS, f"{name} is invited, and not yet a learner; look at the status"
            )

    async def remove(self, name: str) -> None:
        """See `Cluster.remove`."""
        group, membership = self._leading()
        member = members.named(group.members, name)
        invited = any(invitation.name == name for invitation in group.members.invitations)
        if member is None:
            if not invited:
                raise Rejection(Reason.MEMBER_NOT_FOUND, f"id: {name} is no member")
            await self._change(membership, Change(uninvited=[name]), [])
            return
        conf = read_conf_state(group.conf_state)
        if member.raft_id in conf.voters:
            staying = [raft_id for raft_id in conf.voters if raft_id != member.raft_id]
            there = {group.raft_id, *self._member.others_active()}
            if len(there.intersection(staying)) < len(staying) // 2 + 1:
                raise Rejection(
                    Reason.MEMBER_NOT_READY, f"too few of the other members are there to go on without {name}"
                )
        if member.raft_id == group.raft_id:
            await self.transfer(None)
            raise self._member.refusal()  # who leads now takes this node out
        await self._change(membership, Change(removed=[member.raft_id], uninvited=[name]), [("remove", member.raft_id)])

    async def transfer(self, name: str | None) -> None:
        """See `Cluster.transfer`."""
        group, membership = self._leading()
        if membership.busy:
            raise _busy()
        to = 0
        if name is not None:
            member = members.named(group.members, name)
            if member is None:
                raise Rejection(Reason.MEMBER_NOT_FOUND, f"id: {name} is no member")
            if member.raft_id == group.raft_id:
                return
            to = member.raft_id
        if not self._member.hand_over(to):
            raise Rejection(Reason.MEMBER_NOT_READY, "no other voter is there to take the lead")
        if not await _until(lambda: group.leader not in (0, group.raft_id), TRANSFER_SECONDS):
            raise Rejection(Reason.MEMBER_NOT_READY, "the other voter did not take over in time")

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _leading(self) -> tuple[Group, Membership]:
        group, membership = self._member.group, self._member.membership
        if group is None or membership is None or not group.leading_term:
            raise self._member.refusal()
        return group, membership

    async def _meet(self, name: str, existing: raft_rows_pb2.Member | None) -> Hello:
        """Returns who answers under a name, other than the member that it replaces."""

        def met() -> bool:
            peer = self._member.peer(name)
            return peer is not None and (existing is None or peer.raft_id != existing.raft_id)

        await _until(met, MEET_SECONDS)
        peer = self._member.peer(name)
        if peer is None or not met():
            raise Rejection(Reason.MEMBER_NOT_READY, f"raft_addr: no new node with the name {name} answers there")
        if peer.cluster_id not in (b"", self._member.row.cluster_id):
            raise Rejection(Reason.MEMBER_NOT_READY, f"raft_addr: {name} belongs to another cluster")
        return peer

    async def _change(self, membership: Membership, change: Change, voters: list[Step]) -> None:
        if membership.busy:
            raise _busy()
        try:
            async with asyncio.timeout(CHANGE_SECONDS):
                await asyncio.shield(membership.propose(change, voters))
        except (TimeoutError, Rejection):
            raise Rejection(
                Reason.OUTCOME_UNKNOWN,
                "no majority agreed on the change in time; it may still come; look at the status",
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
                    http=self._member.http_of(member.name),
                    grpc=self._member.grpc_of(member.name),
                    voter=member.raft_id in conf.voters,
                    matched=None if seen is None else seen.matched,
                    active=None if seen is None else group.hears(member.raft_id),
                )
            )
        return GroupStatus(
            shard=GROUP,
            role="learner" if group.raft_id in conf.learners else status.role,
            leader=self._member.leader_name(),
            term=status.term,
            commit=status.commit,
            applied=group.written,
            first=status.first_index,
            last=status.last_index,
            snapshot=group.log.base,
            elections=group.elections,
            members=described,
        )


def _takes_part(group: Group, raft_id: int) -> bool:
    conf = read_conf_state(group.conf_state)
    return raft_id in conf.learners or raft_id in conf.voters


def _busy() -> Rejection:
    return Rejection(Reason.MEMBERSHIP_CHANGE_IN_PROGRESS, "another change of the members is being made; try again")


async def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Returns whether a condition came true in time."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True
