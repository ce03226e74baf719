"""Faults of a cluster's members: long absence, a lost or damaged disk, joining and leaving."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from abc import abstractmethod
from pathlib import Path
from typing import Any

from cluster_client import Refused
from cluster_process import NodeProcess
from codeq.v1 import cluster_service_pb2 as cluster_pb
from fault_kinds import AGAIN_SECONDS_MAX, Fault
from fault_run import POLL_SECONDS, Run
from server_process import LOG_TAIL_CHARS

LAG_TASKS = 4000
"""Number of tasks, of Lagging.fill characters each, that make the log longer than the part kept for an absent
member."""
CHANGE_SECONDS = 20.0
"""Time allowed for the leader to make a membership change."""
FOR_NOW = frozenset({"MEMBER_NOT_READY", "MEMBERSHIP_CHANGE_IN_PROGRESS"})
"""Rejections of a membership change that may succeed on a retry."""


class Lagging(Fault):
    """A node is down until the others have compacted past its log and it needs a snapshot; any node may be killed."""

    name = "lagging"
    rounds = 10
    rounds_of_run = 5
    fill = 100_000

    async def strike(self, run: Run) -> None:
        await run.well()
        struck = time.monotonic()
        node = run.cluster.nodes[self.chance.choice(list(run.cluster.nodes))]
        status = (await self._status(run)).members
        matched = max(member.match_index for member in status if member.id == node.name)
        node.kill()
        await run.progress()
        enough = run.ledger.counts["created"] + LAG_TASKS
        await run.until(lambda: run.ledger.counts["created"] > enough, "a long log", 2 * AGAIN_SECONDS_MAX)
        assert (await self._status(run)).first_index > matched + 1, "the node needs no snapshot"
        node.spawn()
        for _ in range(2):
            await asyncio.sleep(self.chance.uniform(0, 2))
            self.chance.choice(list(run.cluster.nodes.values())).kill()
            await run.cluster.start_all()
        await run.well()
        self.note_gap(run, struck)

    async def _status(self, run: Run) -> cluster_pb.RaftGroup:
        """Returns the leader's view of the group."""
        await run.leader()
        request = cluster_pb.GetRaftStatusRequest()
        answer, _ = await run.load.client.call("cluster", "GetRaftStatus", request, again=True)
        (group,) = answer.status.groups
        assert isinstance(group, cluster_pb.RaftGroup)
        return group


class NewDisk(Fault):
    """A node loses its disk and is added again from a snapshot while nodes, perhaps itself, are killed."""

    name = "new-disk"
    fill = 2000

    async def strike(self, run: Run) -> None:
        await run.well()
        node = self.chance.choice(list(run.cluster.nodes.values()))
        struck = time.monotonic()
        node.kill()
        wipe(node)
        node.spawn()
        kills = asyncio.create_task(self._kill(run))
        try:
            await take_in(run, node, replace=True)
        finally:
            await kills
        await run.well()
        self.note_gap(run, struck)

    async def _kill(self, run: Run) -> None:
        for _ in range(2):
            await asyncio.sleep(self.chance.uniform(0, 1.5))
            self.chance.choice(list(run.cluster.nodes.values())).kill()
            await run.cluster.start_all()


class OneMore(Fault):
    """A fourth node is added and another one removed while any of them is killed."""

    name = "one-more"

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._added = 0

    async def strike(self, run: Run) -> None:
        await run.well()
        struck = time.monotonic()
        cluster = run.cluster
        self._added += 1
        node = cluster.add(f"added-{self._added}")
        for follower in run.load.followers:
            follower.know(node.grpc_addr)
        node.spawn()
        await take_in(run, node, replace=False)
        await self._kill_one(run)
        await run.well()
        leaving = cluster.nodes[self.chance.choice(list(cluster.nodes))]
        kill = asyncio.create_task(self._kill_one(run))
        await ask(run, "RemoveMember", cluster_pb.RemoveMemberRequest(id=leaving.name))
        await kill
        del cluster.nodes[leaving.name]
        run.members.discard(leaving.name)
        leaving.close()
        await run.well()
        self.note_gap(run, struck)

    async def _kill_one(self, run: Run) -> None:
        await asyncio.sleep(self.chance.uniform(0, 0.5))
        self.chance.choice(list(run.cluster.nodes.values())).kill()
        await run.cluster.start_all()


class StopAnyTime(Fault):
    """A node is stopped at any moment during and after its start; it shuts down cleanly."""

    name = "stop-any-time"
    rounds = 200
    fill = 2000

    async def strike(self, run: Run) -> None:
        struck = time.monotonic()
        node = self.chance.choice(list(run.cluster.nodes.values()))
        for _ in range(self.chance.randint(1, 3)):
            if not node.is_running:
                node.spawn()
            await asyncio.sleep(0.05 * self.chance.randrange(60))
            await asyncio.to_thread(ended_in_order, node)
        if self.chance.random() < 0.2:
            wipe(node)
            node.spawn()
            await take_in(run, node, replace=True)
        await run.well()
        self.note_gap(run, struck)


class Damage(Fault):
    """The log of a node is damaged while the node is down; then the leader may be killed, so that the node may lead."""

    async def strike(self, run: Run) -> None:
        await run.well()
        leader = run.cluster.nodes[await run.leader()]
        node = self.chance.choice([node for node in run.cluster.nodes.values() if node is not leader])
        struck = time.monotonic()
        node.kill()
        self.damage(max(node.store.glob("*.log"), key=lambda path: path.stat().st_size))
        node.spawn()
        await run.until(lambda: node.is_ready or not node.is_running, f"the start of {node.name}")
        if self.chance.random() < 0.7:
            leader.kill()
            leader.spawn()
        await run.progress()
        if not await self._recovers(run, node):
            self.refused += 1
            wipe(node)
            node.spawn()
            await take_in(run, node, replace=True)
        await run.well()
        self.note_gap(run, struck)

    refused = 0
    """Number of runs in which the node detected the damage."""

    @abstractmethod
    def damage(self, log: Path) -> None:
        """Damages the log of a store."""

    async def _recovers(self, run: Run, node: NodeProcess) -> bool:
        """Returns whether the node rejoins; False: it ended."""
        well = asyncio.create_task(run.well(spared=node))
        try:
            while not well.done():
                if not node.is_running:
                    return False
                await asyncio.sleep(POLL_SECONDS)
            await well
            return node.is_running
        finally:
            well.cancel()


class TornLog(Damage):
    """The log ends with the remains of a write that a power cut interrupted."""

    name = "torn-log"

    def damage(self, log: Path) -> None:
        with log.open("ab") as file:
            file.write(self.chance.randbytes(self.chance.randint(1, 3000)))


class CutLog(Damage):
    """The last bytes of the log are lost, and with them entries that the node had acknowledged."""

    name = "cut-log"

    def damage(self, log: Path) -> None:
        size = log.stat().st_size
        os.truncate(log, size - self.chance.randint(1, min(size, 20_000)))


class FlippedBit(Damage):
    """A bit of the log is flipped."""

    name = "flipped-bit"

    def damage(self, log: Path) -> None:
        content = bytearray(log.read_bytes())
        at = self.chance.randrange(len(content))
        content[at] ^= 1 << self.chance.randrange(8)
        log.write_bytes(content)


def wipe(node: NodeProcess) -> None:
    """Empties the disk of a node that is down."""
    for path in node.store.parent.glob(f"{node.store.name}*"):
        shutil.rmtree(path)


async def take_in(run: Run, node: NodeProcess, *, replace: bool) -> None:
    """Asks the leader to add a node until the node is added."""
    request = cluster_pb.AddMemberRequest(id=node.name, raft_addr=node.raft_addr, replace=replace)
    await ask(run, "AddMember", request)
    run.members.add(node.name)


async def ask(run: Run, method: str, request: Any) -> None:
    """Asks the leader for a membership change until the change is made.

    Raises:
        Refused: The change is rejected permanently.
    """
    deadline = time.monotonic() + AGAIN_SECONDS_MAX
    while True:
        try:
            await run.load.client.call("cluster", method, request, again=True, attempt_seconds=CHANGE_SECONDS)
        except Refused as refused:
            gone = method == "RemoveMember" and refused.reason == "MEMBER_NOT_FOUND"
            if gone:
                return
            if refused.reason not in FOR_NOW or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
        else:
            return


def ended_in_order(node: NodeProcess) -> None:
    """Asks a node to stop, and waits until it has.

    Raises:
        AssertionError: The node ended with an error, or logged one.
        TimeoutExpired: The node did not end.
    """
    if node.is_running:
        node.signal(signal.SIGTERM)
    code = node.wait()
    # Killed by the signal: Python had not yet installed its handler, or received the signal twice.
    assert code in (0, -signal.SIGTERM, 128 + signal.SIGTERM), f"{node.name}: code {code}\n{node.log[-LOG_TAIL_CHARS:]}"
    assert "Traceback" not in node.log, node.log[-LOG_TAIL_CHARS:]


MEMBER_FAULTS: tuple[type[Fault], ...] = (Lagging, NewDisk, OneMore, StopAnyTime, TornLog, CutLog, FlippedBit)
"""Faults that need no special privileges or tools."""
