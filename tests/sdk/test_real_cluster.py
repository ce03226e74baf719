"""The SDK on a cluster of real nodes: leaders are killed, stopped or asked to hand over; the program sees no error."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import codeq
import pytest
from cluster_process import TOKEN, ClusterProcess, NodeProcess
from waiting import eventually
from worker_runs import running


async def leader_of(cluster: ClusterProcess, client: codeq.AsyncClient) -> NodeProcess:
    """Returns the leader as named by the other nodes, once it answers."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(codeq.CodeqError):
                topology = await client.topology()
                node = cluster.nodes.get(topology.leader_id)
                if node is not None and node.is_running:
                    return node
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def load(addresses: list[str], command: str) -> AsyncIterator[tuple[set[str], Counter[str]]]:
    """Creates and works on tasks without a pause; yields the ids created, and how often each was worked on."""
    created: set[str] = set()
    worked: Counter[str] = Counter()
    enough = asyncio.Event()

    async def create(producer: codeq.AsyncProducer) -> None:
        while not enough.is_set():
            task_id = await producer.create(command, len(created))
            assert task_id not in created
            created.add(task_id)

    async def work(task: codeq.Task) -> None:
        worked[task.id] += 1

    # Tasks that a dead leader sent in vain return when their leases expire.
    worker = codeq.AsyncWorker(addresses, token=TOKEN, concurrency=64, lease_seconds=10)
    async with codeq.AsyncProducer(addresses[:1], token=TOKEN) as producer, running(worker, work, command):
        await producer.create(f"{command}-first")  # first contact: the client learns the other members
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(create(producer))
            yield created, worked
            enough.set()
        await eventually(lambda: len(worked) >= len(created), 60)
    assert worker.stats.settled + worker.stats.refused == worked.total()


@pytest.mark.timeout(240)
async def test_program_sees_no_error_while_leaders_are_killed_and_hand_over(tmp_path: Path) -> None:
    with ClusterProcess(tmp_path) as cluster:
        addresses = list(cluster.addresses("grpc_addr").values())
        async with codeq.AsyncClient(addresses, token=TOKEN) as client:
            task = await client.create("real-calls", {"n": 0})
            async with load(addresses, "real-load") as (created, worked):
                for way in ("kill", "stop"):
                    count = len(created)
                    await eventually(lambda count=count: len(created) >= count + 100)
                    leader = await leader_of(cluster, client)
                    await asyncio.to_thread(leader.kill if way == "kill" else leader.stop)
                    assert (await client.get(task.id)).payload == {"n": 0}
                    await client.create("real-calls", way)
                    await asyncio.to_thread(cluster.start)
            assert set(worked) == created
            assert (await client.queue("real-calls")).ready == 3
            queue = await client.queue("real-load")
            assert (queue.ready, queue.claimed, queue.dlq) == (0, 0, 0)
