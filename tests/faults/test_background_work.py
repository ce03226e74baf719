"""The next leader resumes background work where the previous one stopped."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cluster_client import Follower, Refused
from cluster_process import TOKEN, ClusterProcess
from codeq.v1 import queue_service_pb2 as queue_pb
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb

pytestmark = pytest.mark.timeout(200)

BATCHES, BATCH_TASKS = 30, 1000
WAIT_SECONDS_MAX = 60.0


@asynccontextmanager
async def cluster(directory: Path, **env: str) -> AsyncIterator[tuple[ClusterProcess, Follower]]:
    """Runs a cluster in which every member votes, and a client that follows its leader."""
    with ClusterProcess(directory, env=env) as processes:
        async with Follower(list(processes.addresses("grpc_addr").values()), TOKEN) as client:
            await processes.all_vote(client)
            yield processes, client


def kill_leader(processes: ClusterProcess, client: Follower) -> None:
    (node,) = [node for node in processes.nodes.values() if node.grpc_addr == client.leader]
    node.kill()


async def create(client: Follower, command: str, count: int, **fields: Any) -> list[str]:
    """Creates this many tasks in one batch, once."""
    spec = task_pb2.TaskSpec(command=command, payload=b"{}", **fields)
    request = pb.BatchCreateTasksRequest(tasks=[spec] * count, atomic=True, idempotency_key=uuid.uuid4().hex)
    answer, _ = await client.call("tasks", "BatchCreateTasks", request, again=True)
    return [item.task.id for item in answer.results]


async def queue(client: Follower, command: str) -> queue_pb.Queue:
    answer, _ = await client.call("queues", "GetQueue", queue_pb.GetQueueRequest(command=command), again=True)
    found = answer.queue
    assert isinstance(found, queue_pb.Queue)
    return found


async def test_purge_interrupted_by_a_kill_ends_only_the_waiting_tasks(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (processes, client):
        for _ in range(BATCHES):
            await create(client, "purged", BATCH_TASKS)
        await client.call("queues", "PurgeQueue", queue_pb.PurgeQueueRequest(command="purged"), again=False)
        kill_leader(processes, client)
        later = await create(client, "purged", 1)
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while (found := await queue(client, "purged")).purging or found.ready != 1:
            assert time.monotonic() < deadline, f"{found}"
            await asyncio.sleep(0.05)
        answer, _ = await client.call("tasks", "GetTask", pb.GetTaskRequest(task_id=later[0]), again=True)
        assert answer.task.status == task_pb2.TASK_STATUS_PENDING


async def test_tasks_expire_under_the_next_leader(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (processes, client):
        ids = await create(client, "expired", 20, expire_seconds=2)
        kill_leader(processes, client)
        for task_id in ids:
            request = pb.GetTaskResultRequest(task_id=task_id, wait_seconds=20)
            answer, _ = await client.call("tasks", "GetTaskResult", request, again=True, attempt_seconds=25)
            assert (answer.result.status, answer.result.error) == (task_pb2.TASK_STATUS_FAILED, "EXPIRED")


async def test_next_leader_removes_tasks_that_ended_under_the_previous_one(tmp_path: Path) -> None:
    async with cluster(tmp_path, RETENTION_SECONDS="2") as (processes, client):
        ids = await create(client, "kept", 20)
        for task_id in ids:
            await client.call("tasks", "CancelTask", pb.CancelTaskRequest(task_id=task_id), again=True)
        kill_leader(processes, client)
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        for task_id in ids:
            while await there(client, task_id):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)


async def there(client: Follower, task_id: str) -> bool:
    """Returns whether a task exists."""
    try:
        await client.call("tasks", "GetTask", pb.GetTaskRequest(task_id=task_id), again=True)
    except Refused as refused:
        if refused.reason != "TASK_NOT_FOUND":
            raise
        return False
    return True
