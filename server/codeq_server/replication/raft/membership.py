"""How nodes become members: the leader admits invited nodes, one step at a time.

A node is invited by name: at the founding of the cluster, by an operator, or because it asks while its disk is empty,
if the cluster is set up for that. Once it identifies itself with a raft id
that belongs to no cluster yet, it becomes a learner; once it has caught up, it becomes a voter, and the member that it
replaces is removed in the same change. A disk that lost its content has another raft id, so it is never mistaken for
the voter it used to be.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from codeq_internal.v1 import raft_rows_pb2
from codeq_raft_core import ConfState, read_conf_state

from . import members
from .group import Group
from .network import Hello
from .ports import Step

CAUGHT_UP_ENTRIES: Final = 64
"""Maximum number of entries that a learner may be behind when it becomes a voter."""

_log = logging.getLogger("codeq.raft.member")

Change = raft_rows_pb2.MembersChange
Voters = list[Step]


class Membership:
    """Admits invited nodes while this node is the leader."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._met: dict[str, Hello] = {}
        self._change: asyncio.Future[None] | None = None

    def met(self, peer: Hello) -> None:
        """Records the identity of a node."""
        self._met[peer.name] = peer

    def parted(self, name: str) -> None:
        """Forgets the identity of a node that does not answer any more: it may come back with another disk."""
        self._met.pop(name, None)

    @property
    def busy(self) -> bool:
        """Whether a change is in progress."""
        return self._change is not None and not self._change.done()

    def drive(self, may_join: Callable[[Hello], bool], asking: Mapping[str, str]) -> None:
        """Takes the next step, if one is possible and this node leads; called on every tick.

        Args:
            may_join: Returns whether a node that was met can become a member.
            asking: Addresses of empty nodes that ask to become members, by name. The names are not verified.
        """
        group = self._group
        if not group.leading_term or self.busy or not (group.members.invitations or asking):
            return
        conf = read_conf_state(group.conf_state)
        if conf.voters_outgoing:
            return  # the previous change is not finished
        for invitation in group.members.invitations:
            step = self._step(invitation, conf, may_join)
            if step is not None:
                self.propose(*step)
                return
        for name, address in asking.items():
            invited = self._invitation(name, address, conf)
            if invited is not None:
                _log.info("raft_node_invited", extra={"fields": {"name": name, "replaces": invited.replaces}})
                self.propose(Change(invited=[invited]), [])
                return

    def propose(self, change: Change, voters: Voters) -> asyncio.Future[None]:
        """Proposes a change; only one at a time."""
        self._change = future = self._group.leadership.change_members(change, voters)
        future.add_done_callback(lambda done: done.exception())  # a lost change is retried
        return future

    def _step(
        self, invitation: raft_rows_pb2.Invitation, conf: ConfState, may_join: Callable[[Hello], bool]
    ) -> tuple[Change, Voters] | None:
        """Returns the next step for an invited node, if one is possible now."""
        peer = self._met.get(invitation.name)
        if peer is None or not may_join(peer):
            return None
        raft_id = peer.raft_id
        if raft_id in conf.voters:
            # Its disk is back; learners with the disks that it had in between will never catch up.
            stale = self._learners(peer.name, conf)
            return Change(uninvited=[peer.name], removed=stale), [("remove", other) for other in stale]
        table = self._group.members
        if raft_id not in conf.learners:
            return self._admit(invitation, peer, conf)
        if not self._caught_up(raft_id):
            return None
        voters: Voters = [("voter", raft_id)]
        removed = []
        if invitation.replaces and members.with_id(table, invitation.replaces) is not None:
            voters.append(("remove", invitation.replaces))
            removed.append(invitation.replaces)
        return Change(uninvited=[invitation.name], removed=removed), voters

    def _invitation(self, name: str, address: str, conf: ConfState) -> raft_rows_pb2.Invitation | None:
        """Returns the invitation for a node that asks to become a member; None: it gets none now.

        A member's name is given to another disk only if the node at the member's address has that disk, and no cluster.
        """
        table = self._group.members
        if table.founding_voters:
            return None  # first the founders get their votes
        disks = [member.raft_id for member in table.members if member.name == name]
        if disks:
            peer = self._met.get(name)
            if peer is None or not peer.joins or peer.raft_id in disks:
                return None
        replaces = next((raft_id for raft_id in disks if raft_id in conf.voters), 0)
        invitation = raft_rows_pb2.Invitation(name=name, address=address, replaces=replaces)
        present = next((invited for invited in table.invitations if invited.name == name), None)
        return None if present is not None and present.replaces == replaces else invitation

    def _admit(self, invitation: raft_rows_pb2.Invitation, peer: Hello, conf: ConfState) -> tuple[Change, Voters]:
        """Returns the step that makes a node a learner; it removes a learner of the same name that lost its disk."""
        put = raft_rows_pb2.Member(raft_id=peer.raft_id, name=peer.name, address=invitation.address)
        stale = self._learners(peer.name, conf)
        voters: Voters = [("learner", peer.raft_id), *(("remove", raft_id) for raft_id in stale)]
        return Change(put=[put], removed=stale), voters

    def _learners(self, name: str, conf: ConfState) -> list[int]:
        """Returns the raft ids of the learners with a name."""
        named = [member.raft_id for member in self._group.members.members if member.name == name]
        return [raft_id for raft_id in named if raft_id in conf.learners]

    def _caught_up(self, raft_id: int) -> bool:
        last = self._group.status.last_index
        # A node with an empty disk has not caught up, however short the log is.
        return any(
            p.id == raft_id and self._group.leadership.hears(p.id) and 0 < p.matched >= last - CAUGHT_UP_ENTRIES
            for p in self._group.node.progress()
        )


def founding(raft_id: int, name: str, peers: Mapping[str, str]) -> raft_rows_pb2.MembersRow:
    """Returns the table of members of a cluster founded by a node: itself alone, with the others invited.

    Args:
        raft_id: Raft id of the founder.
        name: Name of the founder.
        peers: Addresses of the nodes that found the cluster, by name, including the founder.
    """
    majority = len(peers) // 2 + 1
    return raft_rows_pb2.MembersRow(
        members=[raft_rows_pb2.Member(raft_id=raft_id, name=name, address=peers[name])],
        invitations=[
            raft_rows_pb2.Invitation(name=other, address=address)
            for other, address in sorted(peers.items())
            if other != name
        ],
        founding_voters=majority if majority > 1 else 0,
    )
