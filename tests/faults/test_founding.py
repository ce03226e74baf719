"""Nodes that are killed while founding a cluster found exactly one cluster."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from cluster_client import Follower
from cluster_process import TOKEN, ClusterProcess
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb

KILLS = 6


@pytest.mark.timeout(200)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("founders", ["one", "all"])
async def test_nodes_killed_while_founding_a_cluster_found_exactly_one_cluster(
    tmp_path: Path, seed: int, founders: str
) -> None:
    chance = random.Random(seed)
    with ClusterProcess(tmp_path, env={"RAFT_BOOTSTRAP": "true"} if founders == "all" else {}) as cluster:
        for _ in range(KILLS):
            await asyncio.sleep(chance.uniform(0, 0.7))
            node = chance.choice(list(cluster.nodes.values()))
            node.kill()
            node.spawn()
        await cluster.start_all()
        async with Follower(list(cluster.addresses("grpc_addr").values()), TOKEN) as client:
            await cluster.all_vote(client)
            spec = task_pb2.TaskSpec(command="first", payload=b"{}")
            await client.call("tasks", "CreateTask", pb.CreateTaskRequest(spec=spec), again=True)
