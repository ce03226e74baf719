"""Nodes of the last release and of this checkout serve together and are upgraded one by one under load."""

from __future__ import annotations

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from cluster_process import ClusterProcess
from fault_run import Run, assert_clean

pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("server", "gateway", "cli", "sdks/python/src")


def earlier(folder: Path) -> str:
    """Returns the PYTHONPATH of the last release, or of the last commit before the first release."""
    git = ["git", "-C", str(ROOT)]
    tags = subprocess.run([*git, "tag", "--sort=-creatordate"], capture_output=True, text=True, check=True).stdout
    revision = (tags.split() or ["HEAD"])[0]
    archive = subprocess.run([*git, "archive", revision, *PACKAGES], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as content:
        content.extractall(folder, filter="data")
    return ":".join(str(folder / package) for package in PACKAGES)


async def test_nodes_are_upgraded_one_by_one_under_load(tmp_path: Path) -> None:
    env = {"PYTHONPATH": earlier(tmp_path / "earlier")}
    with ClusterProcess(tmp_path / "cluster", env=env) as cluster:
        async with Run(cluster, seed=11) as run:
            leader = await run.leader()
            for name in sorted(cluster.nodes, key=lambda name: name == leader):
                node = cluster.nodes[name]
                assert node.stop() == 0
                node.configure(PYTHONPATH=":".join(str(ROOT / package) for package in PACKAGES))
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
