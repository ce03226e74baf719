"""Copies of all nodes' volumes, taken at one moment, restore the cluster with everything acknowledged until then."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from cluster_client import Follower
from cluster_process import TOKEN, ClusterProcess
from codeq.v1 import task_service_pb2 as pb
from fault_run import Run

pytestmark = pytest.mark.timeout(400)


async def test_copies_of_all_volumes_restore_the_cluster(tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    with ClusterProcess(tmp_path / "first") as cluster:
        async with Run(cluster, seed=7) as run:
            for _ in range(3):
                await run.progress()
            for node in cluster.nodes.values():
                node.pause()  # like a volume snapshot, this copies all nodes at one moment
            created, ended = set(run.ledger.by_id), set(run.ledger.ends)
            for name, node in cluster.nodes.items():
                await asyncio.to_thread(shutil.copytree, node.store, copies / name)
            for node in cluster.nodes.values():
                node.resume()
            await run.progress()  # later work is not in the copies
    assert created
    assert ended
    with ClusterProcess(tmp_path / "second", place=lambda name: {"store": copies / name}) as again:
        async with Follower(list(again.addresses("grpc_addr").values()), TOKEN) as client:
            for task_id in created:
                answer, _ = await client.call("tasks", "GetTask", pb.GetTaskRequest(task_id=task_id), again=True)
                assert answer.task.HasField("finished_at") or task_id not in ended
