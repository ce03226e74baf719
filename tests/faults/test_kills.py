"""Nodes of a cluster are killed under load: nothing acknowledged is lost, nothing ends twice."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from cluster_process import ClusterProcess
from cluster_run import Run, assert_clean

pytestmark = pytest.mark.timeout(400)


async def test_leader_killed_again_and_again_loses_nothing_acknowledged(tmp_path: Path) -> None:
    with ClusterProcess(tmp_path) as cluster:
        async with Run(cluster, seed=1) as run:
            for _ in range(4):
                node = cluster.nodes[await run.leader()]
                node.kill()
                await run.progress()
                await cluster.start_all()
                await run.progress()
            verdict = await run.finish()
        assert_clean(verdict, cluster)


async def test_random_nodes_killed_and_all_at_once_loses_nothing_acknowledged(tmp_path: Path) -> None:
    chance = random.Random(2)
    with ClusterProcess(tmp_path) as cluster:
        async with Run(cluster, seed=2) as run:
            for _ in range(6):
                await asyncio.sleep(chance.uniform(0.3, 2))  # the kill comes at any moment
                chance.choice(list(cluster.nodes.values())).kill()
                await cluster.start_all()
            await run.progress()
            cluster.kill()
            await cluster.start_all()
            verdict = await run.finish()
        assert_clean(verdict, cluster)
