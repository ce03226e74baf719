"""Artifacts of results in a cluster: contents are replicated with the rows, and survive what the tasks survive."""

from __future__ import annotations

import base64
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import codeq
import httpx
import pytest
from cluster_process import TOKEN, ClusterProcess, NodeProcess
from codeq_server.core import keys
from codeq_server.replication.raft.conversion import leave
from codeq_server.storage.check import check_store
from codeq_server.storage.reading import open_stored
from lone_member import lone_member, post
from server_process import DEV_TOKEN, ServerProcess

CONTENT = os.urandom((1 << 20) + 17)
"""Several rows, the last of which is not full."""
KILLS = int(os.environ.get("ARTIFACT_KILLS", "2"))
THREADS = 4

pytestmark = pytest.mark.timeout(150 + KILLS * 15)


def claimed(client: codeq.Client, command: str) -> codeq.Task:
    """Returns a task just created and claimed."""
    client.create(command)
    [task] = client.claim([command])
    return task


def contents(server: ServerProcess) -> tuple[int, int]:
    """Returns how many rows a stopped server's store has for contents, and how many for undecided ones."""
    with open_stored(server.store, 64) as rows:
        found = [len(rows.scan(*keys.table_rows(table), 10_000)) for table in (keys.CONTENTS, keys.UNDECIDED)]
    return found[0], found[1]


def checked(server: ServerProcess) -> None:
    """Checks every row of a stopped server's store."""
    assert list(check_store(server.store)[0]) == []


def test_contents_are_stored_in_rows_and_removed_with_their_results(tmp_path: Path) -> None:
    with lone_member(tmp_path / "server") as server, codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        kept, redriven, late = (claimed(client, command) for command in ("kept", "redriven", "late"))
        artifacts = [
            codeq.NewArtifact("large", CONTENT),
            codeq.NewArtifact("empty", b""),
            codeq.NewArtifact("far", url="https://files.example/far"),
        ]
        client.submit(kept, codeq.Completed(1, artifacts))
        client.submit(redriven, codeq.Failed("broken", [codeq.NewArtifact("large", CONTENT)]))
        client.redrive(redriven.id)
        assert client.artifact(kept.id, "large").content == CONTENT
        assert client.artifact(kept.id, "empty").content == b""
        assert client.get(redriven.id).status is codeq.TaskStatus.PENDING
        client.submit(late, codeq.Completed(1))
        artifact = {"name": "a", "contentBase64": base64.b64encode(CONTENT).decode()}
        answer = post(server, f"/tasks/{late.id}/result", {"status": "COMPLETED", "artifacts": [artifact]})
        assert answer.status_code == 409
        assert server.stop() == 0
        checked(server)
        assert contents(server) == (5 + 1, 0)
    leave(server.store, force=False)
    with (
        ServerProcess(tmp_path / "single", store=server.store) as single,
        codeq.Client(single.producer_addr, token=DEV_TOKEN) as client,
    ):
        assert client.artifact(kept.id, "large").content == CONTENT
        [again] = client.claim(["redriven"])
        client.submit(again, codeq.Completed(1, [codeq.NewArtifact("large", CONTENT)]))
        assert client.artifact(again.id, "large").content == CONTENT
        assert single.stop() == 0
        checked(single)
        assert contents(single) == (5 + 1, 0)


def test_racing_results_keep_the_contents_of_one(tmp_path: Path) -> None:
    with lone_member(tmp_path / "server") as server, codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        task = claimed(client, "race")

        def submit(number: int) -> int | None:
            try:
                client.submit(task, codeq.Completed(1, [codeq.NewArtifact("a", bytes([number]) * 300_000)]))
            except codeq.LeaseLost:
                return None
            return number

        with ThreadPoolExecutor(8) as threads:
            [taken] = {number for number in threads.map(submit, range(8)) if number is not None}
        assert client.artifact(task.id, "a").content == bytes([taken]) * 300_000
        assert server.stop() == 0
        checked(server)
        assert contents(server) == (2, 0)


def test_acknowledged_contents_survive_killed_leaders_and_others_are_removed(tmp_path: Path) -> None:
    """Results with contents are submitted while leaders are killed one after the other."""
    stored: dict[str, bytes] = {}
    with ClusterProcess(tmp_path) as cluster:
        addresses = list(cluster.addresses("grpc_addr").values())
        over, lock = threading.Event(), threading.Lock()

        def work(number: int) -> None:
            with codeq.Client(addresses, token=TOKEN, timeout_seconds=30) as client:
                while not over.is_set():
                    content = os.urandom(400_000)
                    try:
                        task = claimed(client, f"w{number}")
                        client.submit(task, codeq.Completed(1, [codeq.NewArtifact("a", content)]))
                    except (codeq.CodeqError, ValueError):
                        continue
                    with lock:
                        stored[task.id] = content

        with ThreadPoolExecutor(THREADS) as threads:
            futures = [threads.submit(work, number) for number in range(THREADS)]
            try:
                for _ in range(KILLS):
                    more(stored)
                    leader(cluster).restart()
                more(stored)
            finally:
                over.set()
            for future in futures:
                future.result()
        with codeq.Client(addresses, token=TOKEN, timeout_seconds=30) as client:
            for task_id, content in stored.items():
                assert client.artifact(task_id, "a").content == content
        leads = leader(cluster)
        for node in cluster.nodes.values():
            assert node.stop() == 0
        for node in cluster.nodes.values():
            checked(node)
        rows, undecided = contents(leads)
        assert undecided == 0
        assert rows >= 2 * len(stored)


def leader(cluster: ClusterProcess) -> NodeProcess:
    """Returns the node that leads, once one does."""
    deadline = time.monotonic() + 60
    while True:
        for node in cluster.nodes.values():
            answer = topology(node)
            if answer in cluster.nodes:
                return cluster.nodes[answer]
        assert time.monotonic() < deadline, cluster.logs
        time.sleep(0.05)


def topology(node: NodeProcess) -> str:
    """Returns the name of the leader that a node knows; empty: none, or it does not answer."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    try:
        answer = httpx.get(f"{node.http_url}/v1/codeq/cluster/topology", headers=headers, timeout=5)
    except httpx.HTTPError:
        return ""
    name: str = answer.json().get("leaderId", "")
    return name


def more(stored: dict[str, bytes]) -> None:
    """Waits for two more results."""
    before, deadline = len(stored), time.monotonic() + 60
    while len(stored) < before + 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
