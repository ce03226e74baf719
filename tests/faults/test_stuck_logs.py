"""Nobody reads the nodes' logs while the leader changes: the old leader becomes a follower, and work continues."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cluster_client import Follower
from cluster_process import TOKEN, ClusterProcess, NodeProcess
from codeq.v1 import cluster_service_pb2 as cluster_pb
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from stuck_output import KINDS, stuck_output

pytestmark = pytest.mark.timeout(200)

CALL_SECONDS = 60.0
CHANGE_SECONDS = 60.0


async def create(client: Follower) -> None:
    spec = task_pb2.TaskSpec(command="work", payload=b"{}")
    request = pb.CreateTaskRequest(spec=spec)
    await client.call("tasks", "CreateTask", request, again=True, seconds=CALL_SECONDS)


def leader_of(cluster: ClusterProcess, client: Follower) -> NodeProcess:
    (node,) = [node for node in cluster.nodes.values() if node.grpc_addr == client.leader]
    return node


async def another_leads(cluster: ClusterProcess, client: Follower, before: NodeProcess) -> None:
    async with asyncio.timeout(CHANGE_SECONDS):
        while True:
            await create(client)
            if leader_of(cluster, client) is not before:
                return


@pytest.mark.parametrize("kind", KINDS)
async def test_leadership_changes_while_nobody_reads_the_logs(tmp_path: Path, kind: str) -> None:
    with stuck_output(kind) as output, ClusterProcess(tmp_path, env={"LOG_LEVEL": "info"}) as cluster:
        for node in cluster.nodes.values():
            assert node.stop() == 0
            node.output = output.fd
        await cluster.start_all()
        async with Follower(list(cluster.addresses("grpc_addr").values()), TOKEN) as client:
            await cluster.all_vote(client)
            await create(client)

            asked = leader_of(cluster, client)
            await client.call("cluster", "TransferLeadership", cluster_pb.TransferLeadershipRequest(), again=True)
            await another_leads(cluster, client, asked)
            await cluster.all_vote(client)

            frozen = leader_of(cluster, client)
            frozen.pause()
            await another_leads(cluster, client, frozen)
            frozen.resume()
            await cluster.all_vote(client)

            stopped = leader_of(cluster, client)
            assert await asyncio.to_thread(stopped.stop) == 0
            await another_leads(cluster, client, stopped)
            for node in cluster.nodes.values():
                if node.is_running:
                    assert await asyncio.to_thread(node.stop) == 0
