"""Spreads the leaders of several groups over the nodes: each group has a node that leads it, if that node can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
from codeq_raft_core import read_conf_state

from codeq_server.replication.raft import members
from codeq_server.replication.raft.group import Group
from codeq_server.replication.raft.member import Member

CALM_SECONDS: Final = 30.0
"""Time for which the preferred member must have been able to lead, without a break, before it gets the leadership. So
a leadership moves at most once in this time, and not within this time from the start of either node."""
LOOK_SECONDS: Final = 1.0
"""Interval between checks."""
LAG_MAX: Final = 100
"""Entries that the preferred member may lack: under load, a member that keeps up always lacks a few."""

_log = structlog.get_logger()


def preferred(names: list[str], shard: int) -> str:
    """Returns the name of the member that is to lead the group of a shard, given the names of all."""
    return sorted(names)[shard % len(names)]


class LeaderSpread:
    """Hands over the leadership of a group to the member that is to have it.

    Args:
        member: This node's member.
        shard: Index of the shard of the group.
        clock: Returns monotonic seconds.
    """

    def __init__(self, member: Member, shard: int, clock: Callable[[], float]) -> None:
        self._member, self._shard, self._clock = member, shard, clock
        self._looked = clock()
        self._able: tuple[int, int, float] | None = None
        """The member that is to lead, the term in which this one leads, and since when the other can."""

    def look(self) -> None:
        """Hands over if it is time; call it often."""
        now = self._clock()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        group = self._member.group
        wanted = 0 if group is None or not group.leading_term else self._wanted(group)
        if group is None or not wanted:
            self._able = None
            return
        if self._able is None or self._able[:2] != (wanted, group.leading_term):
            self._able = wanted, group.leading_term, now
        elif now - self._able[2] >= CALM_SECONDS:
            self._able = None
            if self._member.hand_over(wanted):
                named = members.with_id(group.members, wanted)
                _log.info("leadership_moves", to="" if named is None else named.name)

    def _wanted(self, group: Group) -> int:
        """Returns the raft id of the other member that is to lead and can; 0: there is none."""
        conf = read_conf_state(group.conf_state)
        found = {each.name: each.raft_id for each in group.members.members if each.raft_id in conf.voters}
        if not found or conf.voters_outgoing:
            return 0
        wanted = found[preferred(list(found), self._shard)]
        if wanted == group.raft_id or wanted not in self._member.others_active():
            return 0
        matched = next((seen.matched for seen in group.node.progress() if seen.id == wanted), 0)
        return wanted if matched + LAG_MAX >= group.log.last else 0
