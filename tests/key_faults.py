"""Kinds of faults that hit a server or a cluster whose tasks have keys."""

from __future__ import annotations

from fault_kinds import Fault, KillLeader, KillRandom, KillSingle
from fault_run import Run
from key_load import KeyLedger, KeyLoad


class KeyRun(Run):
    """A cluster under load with keys."""

    load_type = KeyLoad
    ledger_type = KeyLedger


class KillNodeOfKeys(KillSingle):
    """The only node is killed and restarted while tasks have concurrency and ordering keys."""

    name = "keys-kill-node"
    rounds = 300
    rounds_of_run = 50
    run = KeyRun


class KillLeaderOfKeys(KillLeader):
    """The leader is killed while tasks have concurrency and ordering keys."""

    name = "keys-kill-leader"
    rounds = 50
    run = KeyRun


class KillRandomOfKeys(KillRandom):
    """A random node is killed while tasks have concurrency and ordering keys."""

    name = "keys-kill-random"
    rounds = 50
    run = KeyRun


KEY_FAULTS: tuple[type[Fault], ...] = (KillNodeOfKeys, KillLeaderOfKeys, KillRandomOfKeys)
