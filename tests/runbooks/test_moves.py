"""The runbook of nodes that move."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cluster_process import TOKEN, ClusterProcess
from runbook import Runbook
from served import call, created, has, of_cluster, of_server
from server_process import ServerProcess

pytestmark = pytest.mark.timeout(180)
PAGE = "runbooks/move-a-node"
SINGLE, MEMBER = slice(2), slice(2, None)
"""Blocks of the page about a single node, and about a member of a cluster."""


def test_single_node_moves_with_its_store(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    new.mkdir()
    with ServerProcess(tmp_path / "first", store=old / "store", apart=False) as server:
        task_id = created(server)
        claimed = call(server, "POST", "/tasks/claim", {"commands": ["ORDER"]}).json()
        done = {"status": "COMPLETED", "artifacts": [{"name": "a", "contentBase64": "YWJj"}]}
        assert call(server, "POST", f"/tasks/{claimed['id']}/result", done).status_code == 200
        assert server.stop() == 0
        replaced = {"/var/lib/codeq": str(old), "/mnt/new": str(new)}
        with Runbook(PAGE, tmp_path / "shell", replaced, of_server(server), SINGLE) as runbook:
            runbook.run()
            with ServerProcess(tmp_path / "second", store=new / "store", apart=False) as moved:
                assert has(moved, task_id)
                assert call(moved, "GET", f"/tasks/{task_id}/artifacts/a").content == b"abc"
                runbook.run()
                assert not (old / "store").exists()
                assert moved.stop() == 0


def test_member_moves_under_a_new_name(tmp_path: Path) -> None:
    with ClusterProcess(tmp_path / "cluster") as cluster:
        first, second, third = cluster.nodes.values()
        task_id = created(first, TOKEN)
        moved = cluster.add("node-4")
        moved.start()
        replaced = {"node-b": second.name, "node-d": moved.name, "10.0.0.9:7000": moved.raft_addr}
        with Runbook(PAGE, tmp_path / "shell", replaced, of_cluster(cluster), MEMBER) as runbook:
            runbook.run()
            assert second.name not in runbook.run().split()
        assert second.stop() == 0
        del cluster.nodes[second.name]
        for node in (first, third):
            assert node.stop() == 0
            node.configure(
                RAFT_PEERS=json.dumps(cluster.addresses("raft_addr")),
                RAFT_PEER_HTTP_ADDRS=json.dumps(cluster.addresses("http_url")),
                RAFT_PEER_GRPC_ADDRS=json.dumps(cluster.addresses("grpc_addr")),
            )
            node.start()
        second.close()
        third.kill()  # so that the moved member is needed for a majority
        assert has(first, task_id, TOKEN)
        assert has(first, created(first, TOKEN), TOKEN)
