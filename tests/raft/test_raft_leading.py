"""Nodes that serve while they lead: stops while serving, and shards that fail to open."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
from codeq_server.core.shard import Shard
from leading_nodes import LeadingCluster, LeadingNode

GRACE_MS = 500


async def test_drain_ends_in_time_despite_a_hanging_disk_and_another_node_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with LeadingCluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.serving()
        await leader.create()
        goes_on = threading.Event()
        monkeypatch.setattr(leader.store, "sync", goes_on.wait)
        try:
            leader.decide()
            async with asyncio.timeout(GRACE_MS / 1000 + 5):
                await leader.leading.drain(leader.member, GRACE_MS)
            assert leader.serving is None
            await cluster.create(beside=leader)
        finally:
            goes_on.set()


async def test_draining_node_hands_over_a_leadership_that_it_wins(tmp_path: Path) -> None:
    async with LeadingCluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.serving()
        await leader.create()
        stopping = next(node for node in cluster.nodes.values() if node is not leader)
        assert isinstance(stopping, LeadingNode)
        await stopping.leading.drain(stopping.member, 60_000)
        elected = stopping.member.group
        assert elected is not None
        before = elected.leadership.elections
        await cluster.hand_over(lambda: elected.leadership.elections > before, to=stopping)
        await cluster.create(beside=stopping)


async def test_node_that_drains_while_opening_its_shard_hands_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with LeadingCluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.serving()
        await leader.create()
        other = next(node for node in cluster.nodes.values() if node is not leader)
        assert isinstance(other, LeadingNode)
        opening, goes_on, load = threading.Event(), threading.Event(), other.load

        def load_late(epoch: int) -> Shard:
            opening.set()
            assert goes_on.wait(30)
            return load(epoch)

        monkeypatch.setattr(other, "load", load_late)
        await cluster.hand_over(opening.is_set, to=other)
        started = time.monotonic()
        await other.leading.drain(other.member, 60_000)
        assert time.monotonic() - started < 10
        await cluster.create(beside=other)
        goes_on.set()


async def test_shard_that_cannot_be_opened_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with LeadingCluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.serving()
        other = next(node for node in cluster.nodes.values() if node is not leader)
        assert isinstance(other, LeadingNode)

        def fail(*_: object) -> None:
            raise OSError("no")

        monkeypatch.setattr(other, "serve", fail)
        await cluster.hand_over(lambda: other.problems, to=other)
        assert [type(problem) for problem in other.problems] == [OSError]
        other.problems.clear()
