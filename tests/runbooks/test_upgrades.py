"""The runbook of upgrades, from the last release and back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cluster_process import ClusterProcess
from earlier_release import PRESENT, earlier
from fault_run import Run, assert_clean
from runbook import Runbook
from served import created, has, of_cluster, of_server
from server_process import ServerProcess

pytestmark = pytest.mark.timeout(400)
PAGE = "runbooks/upgrade"
SINGLE, CLUSTER = slice(3), slice(3, None)
"""Blocks of the page about a single node, and about a cluster."""


def test_store_of_a_single_node_is_upgraded_and_restored(tmp_path: Path) -> None:
    root = tmp_path / "codeq"
    env = {"PYTHONPATH": earlier(tmp_path / "earlier"), "BACKUP_DIR": str(root / "backups")}
    with ServerProcess(tmp_path / "server", store=root / "store", env=env, apart=False) as server:
        replaced = {"/var/lib/codeq": str(root), "http://localhost:8080": server.http_url}
        before = created(server)
        with Runbook(PAGE, tmp_path / "shell", replaced, of_server(server), SINGLE) as runbook:
            runbook.run()
            assert server.stop() == 0
            server.env["PYTHONPATH"] = PRESENT
            server.start()
            assert "ORDER" in runbook.run()
            assert has(server, before)
            after = created(server)
            assert server.stop() == 0
            runbook.run()
            server.env |= env
            server.start()
            assert has(server, before)
            assert not has(server, after)
        assert server.stop() == 0


async def test_cluster_is_upgraded_node_by_node_and_back_under_load(tmp_path: Path) -> None:
    old = earlier(tmp_path / "earlier")
    env = {"PYTHONPATH": old, "BACKUP_DIR": str(tmp_path / "backups")}
    with ClusterProcess(tmp_path / "cluster", env=env) as cluster:
        with Runbook(PAGE, tmp_path / "shell", {}, of_cluster(cluster), CLUSTER) as runbook:
            async with Run(cluster, seed=15) as run:
                await asyncio.to_thread(runbook.run)
                command = runbook.run
                for version in (PRESENT, old):
                    leader = await run.leader()
                    for name in sorted(cluster.nodes, key=lambda name: name == leader):
                        node = cluster.nodes[name]
                        assert await asyncio.to_thread(node.stop) == 0
                        node.configure(PYTHONPATH=version)
                        await asyncio.to_thread(node.start)
                        await asyncio.to_thread(command)
                        command = runbook.repeat
                verdict = await run.finish()
        assert_clean(verdict, cluster)
