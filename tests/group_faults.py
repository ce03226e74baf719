"""Faults that hit a cluster with a Raft group per shard: those of a cluster with one group."""

from __future__ import annotations

from fault_kinds import Chaos, Fault, IsolateLeader, KillAll, KillLeader, KillRandom, PauseLeader, SplitOne, StopLeader

GROUPS = 3


def with_groups(kind: type[Fault]) -> type[Fault]:
    """Returns a kind of fault for a cluster with several groups; its leader is the node that leads the first one."""
    return type(f"Groups{kind.__name__}", (kind,), {"name": f"groups-{kind.name}", "shards": GROUPS})


# A pause suspends the parent process of a node, while those of its shards go on.
GROUP_FAULTS: tuple[type[Fault], ...] = tuple(
    map(with_groups, (KillLeader, KillRandom, KillAll, StopLeader, PauseLeader, IsolateLeader, SplitOne, Chaos))
)
