"""Members of one cluster that serve their shard while they lead."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from pathlib import Path

from accepted_tasks import create
from codeq_server.core import recovery
from codeq_server.core.errors import Rejection
from codeq_server.core.shard import Shard, ShardSettings
from codeq_server.engine.runner import ShardRunner, system_clock
from codeq_server.node.leading import Leading, Opening
from codeq_server.replication.log import Log
from codeq_server.services.serving import Serving
from members_net import TICK_SECONDS, Cluster, MemberNode


class LeadingNode(MemberNode):
    """A member that serves the shard while it leads; `term` is set while it serves."""

    serving: Serving | None = None

    def start(self) -> MemberNode:
        """Opens the store and joins the group."""
        super().start()
        load = lambda epoch: self.load(epoch)  # noqa: E731, PLW0108 - tests put others in their place
        serve = lambda shard, log: self.serve(shard, log)  # noqa: E731, PLW0108
        opening = Opening(1, lambda: int(time.time()), load, serve)
        self.leading = Leading(self.store, opening, self.present, self.problems.append)
        return self

    def load(self, epoch: int) -> Shard:
        return recovery.open_shard(self.store, ShardSettings(), epoch, *system_clock())

    def serve(self, shard: Shard, log: Log) -> Serving:
        runner = ShardRunner(shard, log, system_clock, random.random, self.problems.append)
        return Serving(runner, None, lease_seconds=60, artifact_bytes_max=0)

    def present(self, serving: Serving | None) -> None:
        self.serving, self.term = serving, int(serving is not None)

    def lead(self, term: int) -> None:
        self.leading.begin(self.member, term)

    def follow(self) -> None:
        self.leading.end(self.member)

    async def stop(self) -> None:
        """Stops as a process does after its drain."""
        self.leading.end(self.member)
        await self.leading.close()
        await super().stop()

    def decide(self) -> asyncio.Future[None] | None:
        """Accepts a task; returns a future that is done when it is durable."""
        assert self.serving is not None
        runner = self.serving.runner
        create(runner.shard, "acme", "a", b"1", 0, 0, 0, runner.now())
        runner.changed()
        return runner.durable()

    async def create(self) -> None:
        """Accepts a task, durably."""
        future = self.decide()
        assert future is not None
        await future


class LeadingCluster(Cluster):
    """A cluster of LeadingNode members."""

    def __init__(self, folder: Path, names: str = "abc") -> None:
        super().__init__(folder, names)

    def node(self, name: str, *, bootstrap: bool = False) -> LeadingNode:
        """Returns a new node, not yet started."""
        seed = next(self.seeds)
        return LeadingNode(self.net, self.folder / name, name, self.peers, bootstrap=bootstrap, seed=seed)

    async def serving(self, *, beside: MemberNode | None = None) -> LeadingNode:
        """Returns the node that serves."""
        node = await self.leader(beside=beside)
        assert isinstance(node, LeadingNode)
        return node

    async def create(self, *, beside: MemberNode) -> None:
        """Creates a task, durably, on whichever node leads."""
        while True:
            node = await self.serving(beside=beside)
            with suppress(Rejection):  # the node has just lost the leadership
                await node.create()
                return
            await asyncio.sleep(TICK_SECONDS)
