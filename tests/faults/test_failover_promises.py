"""Promises that a change of leader must keep, one test each."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cluster_client import Follower, Refused
from cluster_process import TOKEN, ClusterProcess
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq.v1 import worker_service_pb2 as work_pb

pytestmark = pytest.mark.timeout(200)

CALL_SECONDS = 60.0
DELIVERY_SECONDS_MAX = 60.0
LONG_LEASE = 60


class Cluster:
    """A cluster and a client that follows its leader."""

    def __init__(self, processes: ClusterProcess, client: Follower) -> None:
        self.processes, self.client = processes, client

    async def call(self, method: str, request: Any) -> Any:
        answer, _ = await self.client.call("tasks", method, request, again=True, seconds=CALL_SECONDS)
        return answer

    async def create(self, command: str, **fields: Any) -> task_pb2.Task:
        spec = task_pb2.TaskSpec(command=command, payload=b"{}", **fields)
        answer = await self.call("CreateTask", pb.CreateTaskRequest(spec=spec))
        task = answer.task
        assert isinstance(task, task_pb2.Task)
        return task

    async def claimed(self, command: str, count: int, lease: int = LONG_LEASE) -> dict[str, task_pb2.Task]:
        """Claims this many tasks of a command, and fails if they do not arrive."""
        request = pb.ClaimTasksRequest(commands=[command], lease_seconds=lease, wait_seconds=1, count=10)
        found: dict[str, task_pb2.Task] = {}
        deadline = time.monotonic() + DELIVERY_SECONDS_MAX
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} tasks came"
            found |= {task.id: task for task in (await self.call("ClaimTasks", request)).tasks}
        return found

    async def complete(self, task_id: str, token: int) -> None:
        status = task_pb2.TASK_STATUS_COMPLETED
        request = pb.SubmitResultRequest(task_id=task_id, lease_token=token, status=status, result=b"1")
        await self.call("SubmitResult", request)

    def kill_leader(self) -> None:
        """Kills the node that answered last."""
        (node,) = [node for node in self.processes.nodes.values() if node.grpc_addr == self.client.leader]
        node.kill()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster in which every member votes."""
    with ClusterProcess(tmp_path) as processes:
        async with Follower(list(processes.addresses("grpc_addr").values()), TOKEN) as client:
            await processes.all_vote(client)
            yield Cluster(processes, client)


async def test_failover_delivers_queued_delayed_and_scheduled_tasks(cluster: Cluster) -> None:
    queued = {(await cluster.create("work")).id for _ in range(20)}
    delayed = {(await cluster.create("work", delay_seconds=2)).id for _ in range(5)}
    at = task_pb2.TaskSpec()
    at.run_at.FromNanoseconds(time.time_ns() + 4_000_000_000)
    scheduled = {(await cluster.create("work", run_at=at.run_at)).id for _ in range(5)}
    cluster.kill_leader()
    found = await cluster.claimed("work", 30)
    assert set(found) == queued | delayed | scheduled
    assert {task.attempts for task in found.values()} == {1}
    assert time.time_ns() >= at.run_at.ToNanoseconds() - 1_000_000


async def test_only_the_holder_keeps_a_lease_after_a_failover(cluster: Cluster) -> None:
    await cluster.create("held")
    ((task_id, task),) = (await cluster.claimed("held", 1)).items()
    cluster.kill_leader()
    request = pb.HeartbeatTaskRequest(task_id=task_id, lease_token=task.lease_token, extend_seconds=LONG_LEASE)
    assert (await cluster.call("HeartbeatTask", request)).lease_token == task.lease_token
    again = await cluster.call("ClaimTasks", pb.ClaimTasksRequest(commands=["held"], count=1, wait_seconds=1))
    assert list(again.tasks) == []
    await cluster.complete(task_id, task.lease_token)
    ended = await cluster.call("GetTask", pb.GetTaskRequest(task_id=task_id))
    assert ended.task.status == task_pb2.TASK_STATUS_COMPLETED


async def test_failover_fences_an_expired_lease(cluster: Cluster) -> None:
    await cluster.create("short")
    ((task_id, first),) = (await cluster.claimed("short", 1, lease=1)).items()
    cluster.kill_leader()
    second = (await cluster.claimed("short", 1))[task_id]
    assert second.lease_token > first.lease_token
    assert second.attempts == 2
    with pytest.raises(Refused) as refused:
        await cluster.complete(task_id, first.lease_token)
    assert refused.value.reason == "STALE_LEASE_TOKEN"
    await cluster.complete(task_id, second.lease_token)


async def test_failover_redelivers_tasks_that_a_stream_had_half_delivered(cluster: Cluster) -> None:
    created = {(await cluster.create("half")).id for _ in range(20)}
    node = cluster.client.node()
    stream: Any = node.stubs["work"].Work(metadata=cluster.client.metadata)
    hello = work_pb.WorkerHello(commands=["half"], lease_seconds=1)
    await stream.write(work_pb.WorkRequest(hello=hello, add_credits=10))
    delivered: dict[str, int] = {}
    while len(delivered) < 10:
        delivered |= {task.id: task.lease_token for task in (await stream.read()).tasks}
    cluster.kill_leader()
    stream.cancel()
    found = await cluster.claimed("half", 20)
    assert set(found) == created
    assert all(found[task_id].lease_token > token for task_id, token in delivered.items())
    for task_id, task in found.items():
        await cluster.complete(task_id, task.lease_token)


async def test_keyed_create_retried_after_a_failover_returns_the_same_id(cluster: Cluster) -> None:
    first = await cluster.create("keyed", idempotency_key="k")
    cluster.kill_leader()
    again = await cluster.create("keyed", idempotency_key="k")
    assert (again.id, again.duplicate) == (first.id, True)


async def test_outcome_retried_after_a_failover_succeeds(cluster: Cluster) -> None:
    await cluster.create("said")
    ((task_id, task),) = (await cluster.claimed("said", 1)).items()
    await cluster.complete(task_id, task.lease_token)
    cluster.kill_leader()
    await cluster.complete(task_id, task.lease_token)
    result = await cluster.call("GetTaskResult", pb.GetTaskResultRequest(task_id=task_id))
    assert result.result.result == b"1"
