"""Nodes of the last release and of this checkout serve together and are upgraded one by one under load."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_process import ClusterProcess
from earlier_release import PRESENT, earlier
from fault_run import Run, assert_clean

pytestmark = pytest.mark.timeout(400)


async def test_nodes_are_upgraded_one_by_one_under_load(tmp_path: Path) -> None:
    env = {"PYTHONPATH": earlier(tmp_path / "earlier")}
    with ClusterProcess(tmp_path / "cluster", env=env) as cluster:
        async with Run(cluster, seed=11) as run:
            leader = await run.leader()
            for name in sorted(cluster.nodes, key=lambda name: name == leader):
                node = cluster.nodes[name]
                assert node.stop() == 0
                node.configure(PYTHONPATH=PRESENT)
                await run.well()
            verdict = await run.finish()
        assert_clean(verdict, cluster)


async def test_node_can_be_downgraded_to_the_previous_release(tmp_path: Path) -> None:
    with ClusterProcess(tmp_path / "cluster") as cluster:
        async with Run(cluster, seed=12) as run:
            await run.progress()
            node = cluster.nodes[await run.leader()]
            assert node.stop() == 0
            node.configure(PYTHONPATH=earlier(tmp_path / "earlier"))
            await run.well()
            verdict = await run.finish()
        assert_clean(verdict, cluster)
