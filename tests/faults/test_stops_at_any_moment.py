"""A node stopped at any moment of its startup, the founding, a snapshot or a stop shuts down cleanly.

Moments are STEP_SECONDS apart; CODEQ_STOPS sets how many of each kind are tried. `make torture` tries the fault
`stop-any-time` at random moments.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cluster_client import Follower, Refused
from cluster_process import TOKEN, ClusterProcess, NodeProcess
from codeq.v1 import cluster_service_pb2 as cluster_pb
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from member_faults import FOR_NOW, ended_in_order, wipe

pytestmark = pytest.mark.timeout(600)

STEP_SECONDS = 0.05
STOPS = int(os.environ.get("CODEQ_STOPS", "6"))
"""Number of stops of each kind."""
SPAN_SECONDS = 3.0
"""Time that startup, founding or a snapshot takes on an idle machine."""
PAYLOAD = b'"' + b"x" * 100_000 + b'"'


def moments() -> Iterator[float]:
    """Yields moments over the whole span at multiples of STEP_SECONDS."""
    steps = int(SPAN_SECONDS / STEP_SECONDS)
    every = max(1, steps // STOPS)
    for step in range(0, steps, every):
        yield step * STEP_SECONDS


async def stop_after(node: NodeProcess, seconds: float) -> None:
    """Lets a started node run for a short time, stops it, and checks how it ended."""
    await asyncio.sleep(seconds)  # the moment is under test
    await asyncio.to_thread(ended_in_order, node)


async def create(client: Follower, count: int = 1) -> None:
    for _ in range(count):
        spec = task_pb2.TaskSpec(command="a", payload=PAYLOAD)
        await client.call("tasks", "CreateTask", pb.CreateTaskRequest(spec=spec), again=True, seconds=60)


async def take_in(client: Follower, node: NodeProcess) -> None:
    """Adds an emptied node as soon as the previous change is complete."""
    request = cluster_pb.AddMemberRequest(id=node.name, raft_addr=node.raft_addr, replace=True)
    async with asyncio.timeout(120):
        while True:
            try:
                await client.call("cluster", "AddMember", request, again=True, seconds=90, attempt_seconds=30)
            except Refused as refused:
                if refused.reason not in FOR_NOW:
                    raise
            else:
                return
            await asyncio.sleep(0.1)


async def test_node_stopped_at_any_moment_of_startup_exits_and_can_restart(tmp_path: Path) -> None:
    with ClusterProcess(tmp_path) as cluster:
        await cluster.start_all()
        async with Follower(list(cluster.addresses("grpc_addr").values()), TOKEN) as client:
            await create(client)
            await cluster.all_vote(client)
            node = cluster.nodes["node-3"]
            await asyncio.to_thread(ended_in_order, node)
            for moment in moments():
                node.spawn()
                await stop_after(node, moment)
            await cluster.start_all()
            await cluster.all_vote(client)


async def test_nodes_stopped_while_founding_still_found_one_cluster(tmp_path: Path) -> None:
    for number, moment in enumerate(moments()):
        with closing(ClusterProcess(tmp_path / str(number), env={"RAFT_BOOTSTRAP": "true"})) as cluster:
            for node in cluster.nodes.values():
                node.spawn()
            await stop_after(list(cluster.nodes.values())[number % 3], moment)
            await cluster.start_all()
            async with Follower(list(cluster.addresses("grpc_addr").values()), TOKEN) as client:
                await create(client)
                await cluster.all_vote(client)


async def test_nodes_stopped_during_a_snapshot_resume_it(tmp_path: Path) -> None:
    with ClusterProcess(tmp_path) as cluster:
        await cluster.start_all()
        async with Follower(list(cluster.addresses("grpc_addr").values()), TOKEN) as client:
            await create(client, 50)
            for number, moment in enumerate(moments()):
                await cluster.all_vote(client)
                sender = next(node for node in cluster.nodes.values() if node.grpc_addr == client.leader)
                receiver = next(node for node in cluster.nodes.values() if node is not sender)
                receiver.kill()
                wipe(receiver)
                receiver.spawn()
                await take_in(client, receiver)
                await stop_after((sender, receiver)[number % 2], moment)
                await cluster.start_all()
                await create(client)
            await cluster.all_vote(client)


async def test_node_ended_by_a_second_stop_signal_can_restart(tmp_path: Path) -> None:
    with ClusterProcess(tmp_path) as cluster:
        await cluster.start_all()
        async with Follower(list(cluster.addresses("grpc_addr").values()), TOKEN) as client:
            await create(client)
            for step in range(STOPS):
                await cluster.all_vote(client)
                node = next(node for node in cluster.nodes.values() if node.grpc_addr == client.leader)
                node.signal(signal.SIGTERM)
                await asyncio.sleep(step * STEP_SECONDS)
                await asyncio.to_thread(ended_in_order, node)
                await cluster.start_all()
                await create(client)
