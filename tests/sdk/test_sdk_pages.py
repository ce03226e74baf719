"""Iterators over pages, and calls without a method of their own."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import codeq
import pytest
from codeq import rpcs
from codeq.v1 import cluster_service_pb2, subscription_service_pb2, task_service_pb2
from google.protobuf.message import Message
from server_process import DEV_TOKEN, ServerProcess
from worker_runs import running


def connected(server: ServerProcess) -> codeq.Client:
    """A client of the server."""
    return codeq.Client(server.producer_addr, token=DEV_TOKEN)


def test_iterators_read_all_pages(server: ServerProcess) -> None:
    with connected(server) as client:
        created = [task.id for task in client.create_batch([codeq.NewTask(f"Q{n % 3}", n) for n in range(10)])]
        assert {task.id for task in client.iter_tasks(page_size=3)} == set(created)
        assert [task.payload for task in client.iter_tasks("Q1", page_size=1)] == [1, 4, 7]
        assert [queue.command for queue in client.iter_queues(page_size=2)] == ["Q0", "Q1", "Q2"]
        assert list(client.iter_tasks("Q1", [codeq.TaskStatus.DLQ])) == []
        for _ in range(3):
            client.create("D", max_attempts=1)
            [task] = client.claim(["D"])
            client.nack(task, "broken")
        assert [letter.error for letter in client.iter_dead_letters("D", page_size=2)] == ["broken"] * 3
        client.pause_queue("D")
        client.resume_queue("D")
        calls = [record.call for record in client.iter_audit(codeq.AuditFilter(page_size=1, order_by="oldest"))]
        assert calls[-2:] == ["PauseQueue", "ResumeQueue"]
        assert len({tenant.name for tenant in client.iter_tenants(page_size=1)}) >= 1
        with pytest.raises(codeq.QueueNotFound):
            next(client.iter_dead_letters("nowhere"))
        with pytest.raises(TypeError, match="statuses"):
            next(client.iter_tasks("D", "DLQ"))


async def test_async_iterators_read_all_pages(shared_server: ServerProcess) -> None:
    async with codeq.AsyncClient(shared_server.producer_addr, token=DEV_TOKEN) as client:
        await client.create_batch([codeq.NewTask("pages-async", n) for n in range(5)])
        assert [task.payload async for task in client.iter_tasks("pages-async", page_size=2)] == [0, 1, 2, 3, 4]
        assert "pages-async" in [queue.command async for queue in client.iter_queues(page_size=1)]


async def test_connected_workers_are_listed_page_by_page(server: ServerProcess) -> None:
    began = datetime.now(UTC)
    first, second = (codeq.AsyncWorker(server.worker_addr, token=DEV_TOKEN, name=name) for name in ("first", "second"))
    async with (
        codeq.AsyncClient(server.producer_addr, token=DEV_TOKEN) as client,
        running(first, print, "A"),
        running(second, print, "B"),
    ):
        async with asyncio.timeout(20):
            # A worker gives its credits after its hello.
            while sum(worker.credits > 0 for worker in await listed(client)) < 2:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.05)
        found = await listed(client)
        assert sorted(worker.commands for worker in found) == [["A"], ["B"]]
        assert {worker.worker_id.rpartition("/")[2] for worker in found} == {"first", "second"}
        for worker in found:
            assert (worker.claimed, worker.sdk, worker.version) == (0, "codeq-python", codeq.__version__)
            assert began - timedelta(seconds=5) < worker.connected_at < datetime.now(UTC) + timedelta(seconds=5)
        page, token = await client.workers(page_size=1)
        assert (page, await client.workers(page_token=token)) == (found[:1], (found[1:], ""))
        with connected(server) as blocking:
            assert list(blocking.iter_workers(page_size=1)) == found
            assert blocking.workers(page_size=1)[0] == found[:1]


async def listed(client: codeq.AsyncClient) -> list[codeq.ConnectedWorker]:
    """Returns the connected workers, each from a page of its own."""
    return [worker async for worker in client.iter_workers(page_size=1)]


def test_every_unary_rpc_can_be_called(shared_server: ServerProcess) -> None:
    names = set(rpcs.by_name())
    assert {"ClaimTask", "AddMember", "BatchSubmitResults", "GetRaftStatus", "BackUp"} <= names
    with connected(shared_server) as client:
        task = client.create("rpc", 1)
        reply = client.rpc(task_service_pb2.GetTaskRequest(task_id=task.id))
        assert isinstance(reply, task_service_pb2.GetTaskResponse)
        assert reply.task.id == task.id
        with pytest.raises(codeq.MembershipRefused):
            client.rpc(cluster_service_pb2.AddMemberRequest(id="node-2", raft_addr="127.0.0.1:1"))
        for wrong in (task_service_pb2.GetTaskResponse(), "GetTask"):
            with pytest.raises(TypeError, match="request"):
                client.rpc(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sent", "repeatable"),
    [
        (task_service_pb2.GetTaskRequest(), True),
        (task_service_pb2.CreateTaskRequest(), False),
        (task_service_pb2.NackTaskRequest(), False),
        (task_service_pb2.NackTaskRequest(lease_token=1), True),
        (task_service_pb2.CleanupTasksRequest(), False),
        (task_service_pb2.ClaimTaskRequest(), True),
        (subscription_service_pb2.HeartbeatSubscriptionRequest(), True),
        (subscription_service_pb2.CreateSubscriptionRequest(), False),
    ],
)
def test_only_calls_that_may_run_twice_are_repeated(sent: Message, repeatable: bool) -> None:
    assert rpcs.call_of(sent).repeatable is repeatable
