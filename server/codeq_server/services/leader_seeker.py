"""Finds the process that serves a shard which a Raft group replicates: the one at the node that leads the group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from codeq_gateway.links import Reach

LEADER: Final = "leader"
"""Metadata of a rejection with the name of the leader."""
HOPS_MAX: Final = 2
"""Processes tried one after the other without a pause: two may name each other as leader."""


class LeaderSeeker:
    """Says which node to ask for a shard; see `Seeker`. A process that does not lead its group names the leader.

    Args:
        mine: Name of this node, whose process is asked first: it is near, and knows the leader soonest.
        nodes: Returns how the shard's process of each node is reached, by the node's name; `mine` is among them.
    """

    def __init__(self, mine: str, nodes: Mapping[str, Callable[[], Reach]]) -> None:
        self._mine, self._nodes = mine, nodes
        self._others = [name for name in nodes if name != mine]
        self._at = mine
        self._turn = 0
        self._hops = 0

    @property
    def is_near(self) -> bool:
        """Whether the process asked is of this node."""
        return self._at == self._mine

    def reach(self) -> Reach:
        """See `Seeker`."""
        return self._nodes[self._at]()

    def missed(self, told: Mapping[str, str] | None) -> bool:
        """See `Seeker`."""
        leader = "" if told is None else told.get(LEADER, "")
        if leader in self._nodes and leader != self._at:
            self._at = leader
            self._hops += 1
            if self._hops <= HOPS_MAX:
                return True
        elif self._at != self._mine:
            self._at = self._mine
        else:  # the process of this node does not run, or knows no leader
            self._turn = (self._turn + 1) % len(self._others)
            self._at = self._others[self._turn]
        self._hops = 0
        return False
