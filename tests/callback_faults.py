"""Kinds of faults that hit a server or a cluster whose tasks have webhooks."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from callback_load import SETTINGS, CallbackRun, UndisturbedCallbackRun
from cluster_process import ClusterProcess
from fault_kinds import Fault, IsolateLeader, KillLeader, KillSingle, SingleNode
from fault_run import Run

OUTAGE_SECONDS_MAX = 3.0


class KillNodeOfCallbacks(KillSingle):
    """The only node is killed and restarted while the ends of all tasks are reported."""

    name = "callbacks-kill-node"
    run = CallbackRun
    settings = SETTINGS


class KillLeaderOfCallbacks(KillLeader):
    """The leader is killed while the ends of all tasks are reported."""

    name = "callbacks-kill-leader"
    rounds = 25
    run = CallbackRun

    def cluster(self, directory: Path) -> ClusterProcess:
        """See `Fault.cluster`."""
        return ClusterProcess(directory, env=SETTINGS)


class IsolateLeaderOfCallbacks(IsolateLeader):
    """The leader is cut off from all other nodes, and still reaches the receiver, while ends are reported."""

    name = "callbacks-isolate-leader"
    run = CallbackRun

    def cluster(self, directory: Path) -> ClusterProcess:
        """See `Fault.cluster`."""
        cluster = super().cluster(directory)
        for node in cluster.nodes.values():
            node.configure(**SETTINGS)
        return cluster


class ReceiverAway(SingleNode):
    """The receiver rejects everything for a few seconds; no server dies, and no leader changes."""

    name = "callbacks-receiver-away"
    run = UndisturbedCallbackRun
    settings = SETTINGS

    async def strike(self, run: Run) -> None:
        assert isinstance(run, CallbackRun)
        struck = time.monotonic()
        answer = run.load.receiver.answer
        run.load.receiver.answer = lambda _: 503
        await asyncio.sleep(self.chance.uniform(0, OUTAGE_SECONDS_MAX))
        run.load.receiver.answer = answer
        await run.progress()
        self.note_gap(run, struck)


CALLBACK_FAULTS: tuple[type[Fault], ...] = (
    KillNodeOfCallbacks,
    KillLeaderOfCallbacks,
    IsolateLeaderOfCallbacks,
    ReceiverAway,
)
