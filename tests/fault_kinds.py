"""Kinds of faults that hit a cluster under load, round after round."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cluster_client import Follower, OutcomeUnknown, Refused
from cluster_process import TOKEN, ClusterProcess
from codeq.v1 import cluster_service_pb2 as cluster_pb
from codeq.v1 import task_service_pb2 as task_pb
from fault_run import Run, Verdict
from strangers import HTTP2, LIMITED, strangers
from tcp_links import Links

AGAIN_SECONDS_MAX = 60.0
"""Time within which another node must serve, or a membership change must be complete."""

CROWD = 1000
"""Connections of strangers at each port."""

ENTRY_SECONDS = 5.0
"""Time within which a client with a token must be served despite strangers."""


@dataclass(slots=True)
class Gaps:
    """Seconds of each round until, or without, an acknowledged create and a delivery."""

    creates: list[float] = field(default_factory=list)
    deliveries: list[float] = field(default_factory=list)


class Fault(ABC):
    """A kind of fault.

    Attributes:
        name: Its name.
        rounds: Rounds of the long form.
        rounds_of_run: Rounds per run; each run starts a new cluster and ends with a verdict.
        clocks_agree: Whether all nodes share one clock.
        fill: Number of characters added to payloads.
        schedules: Number of schedules that fire each second.
        shards: Number of shards, each with a group of its own.
        needs_root: Whether the fault needs root.
        must_break: Whether the fault must break promises, to prove that the suite detects this.
        run: Kind of run, which determines the load.
    """

    name = ""
    rounds = 25
    rounds_of_run = 25
    clocks_agree = True
    fill = 0
    schedules = 0
    shards = 1
    needs_root = False
    must_break = False
    run: type[Run] = Run

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.gaps = Gaps()
        self.stack = ExitStack()

    def cluster(self, directory: Path) -> ClusterProcess:
        """Returns the cluster to hit, not yet started; `stack` is closed after the cluster."""
        return ClusterProcess(directory, shards=self.shards)

    @abstractmethod
    async def strike(self, run: Run) -> None:
        """Plays one round."""

    async def until_elsewhere(self, run: Run, struck: float, address: str) -> None:
        """Waits until a node with another address acknowledges a create and delivers; records how long it took."""
        creates, receipts = run.ledger.creates, run.ledger.receipts
        for moments, gaps in ((creates, self.gaps.creates), (receipts, self.gaps.deliveries)):
            await run.until(
                lambda moments=moments: moments.first_after(struck, not_by=address) is not None,  # type: ignore[misc]
                f"{self.name}: work at another node",
                AGAIN_SECONDS_MAX,
            )
            seconds = moments.first_after(struck, not_by=address)
            assert seconds is not None
            gaps.append(seconds)

    def note_gap(self, run: Run, start: float) -> None:
        """Records the longest silence since a moment."""
        now = time.monotonic()
        self.gaps.creates.append(run.ledger.creates.longest_gap(start, now))
        self.gaps.deliveries.append(run.ledger.receipts.longest_gap(start, now))


async def play(fault: Fault, directory: Path, seed: int, rounds: int) -> tuple[Verdict, ClusterProcess]:
    """Plays rounds of a fault on a new cluster; returns the verdict and the cluster, which is down."""
    with fault.stack, fault.cluster(directory) as cluster:
        async with fault.run(
            cluster, seed, clocks_agree=fault.clocks_agree, fill=fault.fill, schedules=fault.schedules
        ) as run:
            for _ in range(rounds):
                await fault.strike(run)
                run.load.check()
            return await run.finish(), cluster


class KillRandom(Fault):
    """A random node is killed, whatever the other nodes are doing; it restarts at once or a moment later."""

    name = "kill-random"
    rounds = 300

    async def strike(self, run: Run) -> None:
        begin = time.monotonic()
        await asyncio.sleep(self.chance.uniform(0.3, 3))
        node = self.chance.choice(list(run.cluster.nodes.values()))
        node.kill()
        await asyncio.sleep(self.chance.choice([0.0, self.chance.uniform(0, 1)]))
        node.spawn()
        self.note_gap(run, begin)


class KillLeader(Fault):
    """The leader is killed while all is well."""

    name = "kill-leader"
    rounds = 100

    async def strike(self, run: Run) -> None:
        await run.well()
        await asyncio.sleep(self.chance.uniform(0, 0.5))
        node = run.cluster.nodes[await run.leader()]
        struck = time.monotonic()
        node.kill()
        await self.until_elsewhere(run, struck, node.grpc_addr)
        node.spawn()


class FiringKillLeader(KillLeader):
    """The leader is killed while schedules fire each second."""

    name = "firing-kill-leader"
    schedules = 30


class Crowd(KillLeader):
    """The leader is killed while strangers crowd every port of every node, each limited to 1024 open files."""

    name = "crowd"
    rounds = 20

    def cluster(self, directory: Path) -> ClusterProcess:
        """See `Fault.cluster`."""
        return ClusterProcess(directory, place=lambda _: {"prefix": LIMITED})

    async def strike(self, run: Run) -> None:
        kinds = ("raft_addr", "http_url", "worker_addr", "producer_addr")
        addresses = [address for kind in kinds for address in run.cluster.addresses(kind).values()]
        ports = [int(address.rpartition(":")[2]) for address in addresses]
        with strangers(ports, CROWD, self.chance.choice([b"", HTTP2])) as crowd:
            await crowd.come()
            await super().strike(run)
            await run.well()
            newcomer = Follower(list(run.cluster.addresses("grpc_addr").values()), TOKEN)
            async with asyncio.timeout(ENTRY_SECONDS), newcomer:
                with suppress(Refused):  # only a leader can say that the task does not exist
                    await newcomer.call("tasks", "GetTask", task_pb.GetTaskRequest(task_id="none"), again=True)
            for node in run.cluster.nodes.values():
                assert node.is_running, node.log


class KillAll(Fault):
    """All nodes are killed at the same moment."""

    name = "kill-all"
    rounds = 50

    async def strike(self, run: Run) -> None:
        await asyncio.sleep(self.chance.uniform(0.3, 2))
        struck = time.monotonic()
        run.cluster.kill()
        await run.cluster.start_all()
        await run.progress()
        self.note_gap(run, struck)


class SingleNode(Fault):
    """Something happens to a server without a cluster.

    Attributes:
        settings: Variables of the server.
    """

    settings: Mapping[str, str] = {}

    def cluster(self, directory: Path) -> ClusterProcess:
        """See `Fault.cluster`."""
        return ClusterProcess(directory, 1, env={**self.settings, "RAFT_ENABLED": "false"})


class KillSingle(SingleNode):
    """A server without a cluster is killed and restarted at once, whatever it is doing."""

    async def strike(self, run: Run) -> None:
        await asyncio.sleep(self.chance.uniform(0, 1))
        (node,) = run.cluster.nodes.values()
        struck = time.monotonic()
        node.kill()
        node.spawn()
        await run.progress()
        self.note_gap(run, struck)


class FiringKillSingle(SingleNode, KillAll):
    """A server without a cluster is killed while schedules fire each second."""

    name = "firing-kill-single"
    rounds = 100
    schedules = 30


class KillTwoOfFive(Fault):
    """The leader of five nodes and another node are killed at the same moment."""

    name = "kill-2-of-5"

    def cluster(self, directory: Path) -> ClusterProcess:
        return ClusterProcess(directory, 5)

    async def strike(self, run: Run) -> None:
        await run.well()
        leader = run.cluster.nodes[await run.leader()]
        other = self.chance.choice([node for node in run.cluster.nodes.values() if node is not leader])
        struck = time.monotonic()
        leader.kill()
        other.kill()
        await self.until_elsewhere(run, struck, leader.grpc_addr)
        await run.cluster.start_all()


class StopLeader(Fault):
    """The leader is asked to stop: it hands over, and exits cleanly."""

    name = "stop-leader"

    async def strike(self, run: Run) -> None:
        await run.well()
        leader = run.cluster.nodes[await run.leader()]
        struck = time.monotonic()
        assert await asyncio.to_thread(leader.stop) == 0
        await self.until_elsewhere(run, struck, leader.grpc_addr)
        leader.spawn()


class PauseLeader(Fault):
    """The leader is suspended until another one leads, then continues as if nothing had happened."""

    name = "pause-leader"

    async def strike(self, run: Run) -> None:
        await run.well()
        node = run.cluster.nodes[await run.leader()]
        struck = time.monotonic()
        node.pause()
        try:
            await asyncio.sleep(self.chance.uniform(0.5, 4))
            if self.chance.random() < 0.8:
                await self.until_elsewhere(run, struck, node.grpc_addr)
        finally:
            node.resume()
        await run.progress()


Cut = set[tuple[str, str]]


def both(pairs: Iterable[tuple[str, str]]) -> Cut:
    """Returns pairs with their reverses."""
    return {way for one, other in pairs for way in ((one, other), (other, one))}


class Partition(Fault):
    """Some nodes cannot hear each other for a few seconds; clients reach all of them throughout."""

    elsewhere = False
    """Whether a node other than the leader must serve during the partition."""

    def cluster(self, directory: Path) -> ClusterProcess:
        cluster = ClusterProcess(directory, shards=self.shards)
        self.links = self.stack.enter_context(Links(cluster.addresses("raft_addr")))
        for name, node in cluster.nodes.items():
            node.configure(RAFT_PEERS=json.dumps(self.links.books[name]))
        return cluster

    def lost(self, leader: str, others: list[str]) -> Cut:  # noqa: ARG002
        """Returns the losses of a round; `others` may be in any order."""
        return set()

    async def strike(self, run: Run) -> None:
        await run.well()
        leader = await run.leader()
        others = [name for name in run.cluster.nodes if name != leader]
        self.chance.shuffle(others)
        struck = time.monotonic()
        async with self.cut(self.lost(leader, others)):
            await asyncio.sleep(self.chance.uniform(0.5, 5))
            if self.elsewhere and self.chance.random() < 0.8:
                await self.until_elsewhere(run, struck, run.cluster.nodes[leader].grpc_addr)
        await run.progress()
        if not self.elsewhere:
            self.note_gap(run, struck)

    @asynccontextmanager
    async def cut(self, lost: Cut) -> AsyncIterator[None]:
        """Drops messages between nodes inside the `with` block."""
        self.links.set(lost)
        yield
        self.links.set()


class IsolateLeader(Partition):
    """The leader is cut off from all other nodes."""

    name = "isolate-leader"
    elsewhere = True

    def lost(self, leader: str, others: list[str]) -> Cut:
        return both((leader, other) for other in others)


class SplitOne(Partition):
    """A random node is cut off from all others."""

    name = "split-2-1"

    def lost(self, leader: str, others: list[str]) -> Cut:
        names = [leader, *others]
        alone = self.chance.choice(names)
        return both((alone, other) for other in names if other != alone)


class LoseOneWay(Partition):
    """Messages from one node to another, or to all others, are lost; messages in the other direction arrive."""

    name = "lose-one-way"

    def lost(self, leader: str, others: list[str]) -> Cut:
        ways = list(itertools.permutations([leader, *others], 2))
        one, other = self.chance.choice(ways)
        return {(one, other)} if self.chance.random() < 0.5 else {way for way in ways if way[0] == one}


class Bridge(Partition):
    """Two nodes do not reach each other, but a third one reaches both."""

    name = "bridge"

    def lost(self, leader: str, others: list[str]) -> Cut:
        return both([(leader, others[0])])


class Delay(Partition):
    """Every message between nodes takes 200 ms."""

    name = "delay-200-ms"
    rounds = 10
    rounds_of_run = 10

    async def strike(self, run: Run) -> None:
        await run.well()
        struck = time.monotonic()
        self.links.set(delay=0.2)
        await asyncio.sleep(5)
        await run.progress()
        self.note_gap(run, struck)
        if self.chance.random() < 0.5:
            run.cluster.nodes[await run.leader()].kill()
            await run.progress()
            await run.cluster.start_all()
        self.links.set()


class Chaos(Partition):
    """Kills, pauses, partitions and leader changes, several at a time."""

    name = "chaos"
    rounds = 100

    async def strike(self, run: Run) -> None:
        begin = time.monotonic()
        names = list(run.cluster.nodes)
        ways = list(itertools.permutations(names, 2))
        self.links.set(set(self.chance.sample(ways, self.chance.choice([0, 0, 1, 2, 3]))))
        node = run.cluster.nodes[self.chance.choice(names)]
        what = self.chance.choice(["kill", "kill", "pause", "transfer"])
        await asyncio.sleep(self.chance.uniform(0, 1))
        if what == "kill":
            node.kill()
        elif what == "pause":
            node.pause()
        else:
            await self._transfer(run, node.name)
        await asyncio.sleep(self.chance.uniform(0, 2))
        if what == "kill":
            node.spawn()
        elif what == "pause":
            node.resume()
        if self.chance.random() < 0.3:
            self.links.set()
            await run.cluster.start_all()
            await run.progress()
        self.note_gap(run, begin)
        self.links.set()

    async def _transfer(self, run: Run, name: str) -> None:
        request = cluster_pb.TransferLeadershipRequest(id=name)
        with suppress(Refused, TimeoutError, OutcomeUnknown):  # the node may be down, or cut off
            await run.load.client.call("cluster", "TransferLeadership", request, again=False, seconds=1)


FAULTS: tuple[type[Fault], ...] = (
    KillLeader,
    KillRandom,
    KillAll,
    KillTwoOfFive,
    StopLeader,
    PauseLeader,
    IsolateLeader,
    SplitOne,
    LoseOneWay,
    Bridge,
    Delay,
    Chaos,
    Crowd,
    FiringKillLeader,
    FiringKillSingle,
)
"""Faults that need no special privileges or tools."""
