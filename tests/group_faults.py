"""Faults that hit a cluster with a Raft group per shard."""

from __future__ import annotations

from fault_kinds import Chaos, Fault, IsolateLeader, KillAll, KillLeader, KillRandom, PauseLeader, SplitOne, StopLeader

GROUPS = 3


class GroupsKillLeader(KillLeader):
    """The node that leads the first group is killed."""

    name = "groups-kill-leader"
    shards = GROUPS


class GroupsKillRandom(KillRandom):
    """A random node is killed, whatever the others are doing."""

    name = "groups-kill-random"
    rounds = 100
    shards = GROUPS


class GroupsKillAll(KillAll):
    """All nodes are killed at the same moment."""

    name = "groups-kill-all"
    shards = GROUPS


class GroupsStopLeader(StopLeader):
    """The node that leads the first group is asked to stop."""

    name = "groups-stop-leader"
    shards = GROUPS


class GroupsPauseLeader(PauseLeader):
    """The parent process of the node that leads the first group is suspended; those of its shards go on."""

    name = "groups-pause-leader"
    shards = GROUPS


class GroupsIsolateLeader(IsolateLeader):
    """The node that leads the first group is cut off from the others."""

    name = "groups-isolate-leader"
    shards = GROUPS


class GroupsSplitOne(SplitOne):
    """A random node is cut off from the others."""

    name = "groups-split-2-1"
    shards = GROUPS


class GroupsChaos(Chaos):
    """Kills, pauses and partitions, several at a time."""

    name = "groups-chaos"
    shards = GROUPS


GROUP_FAULTS: tuple[type[Fault], ...] = (
    GroupsKillLeader,
    GroupsKillRandom,
    GroupsKillAll,
    GroupsStopLeader,
    GroupsPauseLeader,
    GroupsIsolateLeader,
    GroupsSplitOne,
    GroupsChaos,
)
