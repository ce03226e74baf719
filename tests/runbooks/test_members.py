"""The runbooks of members of a cluster that are lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cluster_process import TOKEN, ClusterProcess, NodeProcess
from runbook import Runbook
from served import created, has, of_cluster, wait_for_votes

pytestmark = pytest.mark.timeout(180)
NAMES = {"node-a": "node-1", "node-b": "node-2", "node-c": "node-3"}


def lose_disk(node: NodeProcess) -> None:
    node.kill()
    shutil.rmtree(node.store)


def test_member_is_replaced_and_its_tasks_are_kept(tmp_path: Path) -> None:
    with ClusterProcess(tmp_path / "cluster") as cluster:
        first, second, third = cluster.nodes.values()
        wait_for_votes(cluster)
        task_id = created(first, TOKEN)
        replaced = {"node-c": third.name, "10.0.0.3:7000": third.raft_addr}
        with Runbook("runbooks/replace-a-member", tmp_path / "shell", replaced, of_cluster(cluster)) as runbook:
            lose_disk(third)
            assert third.name in runbook.run()
            third.start()
            assert has(first, task_id, TOKEN)  # once another node leads, if the third one did
            runbook.run()
            assert runbook.run().count("true") >= 3
        second.kill()  # so that the new member is needed for a majority
        assert has(first, task_id, TOKEN)
        assert has(first, created(first, TOKEN), TOKEN)


def test_cluster_is_made_anew_from_the_only_store_left(tmp_path: Path) -> None:
    with ClusterProcess(tmp_path / "cluster") as cluster:
        first, second, third = cluster.nodes.values()
        wait_for_votes(cluster)
        task_id = created(first, TOKEN)
        replaced = {
            **NAMES,
            "/var/lib/codeq/store": str(first.store),
            "10.0.0.1:7000": first.raft_addr,
            "10.0.0.2:7000": second.raft_addr,
            "10.0.0.3:7000": third.raft_addr,
        }
        with Runbook("runbooks/lost-majority", tmp_path / "shell", replaced, of_cluster(cluster)) as runbook:
            for node in (second, third):
                lose_disk(node)
            assert '"selfId": "node-1"' in runbook.run()
            assert first.stop() == 0
            runbook.run()
            del first.env["RAFT_BOOTSTRAP"]
            for node in (first, second, third):
                node.start()
            runbook.run()
        assert has(first, task_id, TOKEN)
        first.kill()  # the others have everything
        assert has(second, task_id, TOKEN)
        assert has(third, created(third, TOKEN), TOKEN)
