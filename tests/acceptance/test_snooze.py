"""Abandons with a delay, over REST, gRPC and streams: the task waits, and keeps its attempts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import codeq
import grpc
import pytest
from bare_streams import auth, settle, take, working
from codeq.v1 import error_pb2, task_pb2, task_service_pb2
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from server_process import DEV_TOKEN, ServerProcess
from test_bad_input import call, refused

SECONDS_MAX = 60
DELAY_MAX = 43_200


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the well-known token for everything."""
    with ServerProcess(tmp_path_factory.mktemp("snooze")) as started:
        yield started


def claimed(server: ServerProcess, command: str, **task: Any) -> dict[str, Any]:
    """Creates a task, claims it and returns it."""
    call(server, "POST", "/tasks", json={"command": command, "payload": 1, **task})
    return next_task(server, command)


def next_task(server: ServerProcess, command: str) -> dict[str, Any]:
    """Claims a task, waiting for it, and returns it."""
    found: dict[str, Any] = call(server, "POST", "/tasks/claim", json={"commands": [command], "waitSeconds": 20}).json()
    return found


def shown(server: ServerProcess, task_id: str) -> dict[str, Any]:
    """Returns a task."""
    found: dict[str, Any] = call(server, "GET", f"/tasks/{task_id}").json()
    return found


def test_rest_abandon_with_a_delay_schedules_the_task_and_keeps_its_attempts(server: ServerProcess) -> None:
    task = claimed(server, "rest", maxAttempts=1)
    began = time.monotonic()
    body = {"delaySeconds": 2, "leaseToken": task["leaseToken"]}
    for _ in range(2):
        answer = call(server, "POST", f"/tasks/{task['id']}/abandon", json=body)
        assert (answer.status_code, answer.json()) == (200, {"status": "SCHEDULED", "delaySeconds": 2})
    waiting = shown(server, task["id"])
    assert (waiting["status"], waiting["attempts"], "error" in waiting) == ("SCHEDULED", 0, False)
    assert [each["end"] for each in waiting["attemptHistory"]] == ["ABANDONED"]
    again = next_task(server, "rest")
    assert time.monotonic() - began >= 1.9
    assert (again["id"], again["attempts"]) == (task["id"], 1)
    late = call(server, "POST", f"/tasks/{task['id']}/abandon", json=body)
    assert late.json() == {"status": "SCHEDULED", "delaySeconds": 2}
    assert shown(server, task["id"])["status"] == "CLAIMED"


def test_delay_of_an_abandon_is_capped_at_12_hours_and_may_not_be_negative(server: ServerProcess) -> None:
    task = claimed(server, "bounds")
    answer = call(server, "POST", f"/tasks/{task['id']}/abandon", json={"delaySeconds": -1})
    assert refused(answer, 400, "INVALID_FIELD")["details"][0]["field"] == "delaySeconds"
    assert shown(server, task["id"])["status"] == "CLAIMED"
    answer = call(server, "POST", f"/tasks/{task['id']}/abandon", json={"delaySeconds": DELAY_MAX + 1})
    assert answer.json() == {"status": "SCHEDULED", "delaySeconds": DELAY_MAX}


async def test_grpc_abandon_with_a_delay_returns_the_delay(server: ServerProcess) -> None:
    task = claimed(server, "grpc")
    async with grpc.aio.insecure_channel(server.worker_addr) as channel:
        stub: Any = TaskServiceStub(channel)
        request = task_service_pb2.AbandonTaskRequest(task_id=task["id"], delay_seconds=3600)
        answer = await stub.AbandonTask(request, metadata=auth(), timeout=SECONDS_MAX)
    assert (answer.status, answer.delay_seconds) == (task_pb2.TASK_STATUS_SCHEDULED, 3600)
    assert shown(server, task["id"])["status"] == "SCHEDULED"


async def test_stream_abandons_with_and_without_a_delay(server: ServerProcess) -> None:
    for number in range(4):
        call(server, "POST", "/tasks", json={"command": "stream", "payload": number})
    kind = task_pb2.OUTCOME_KIND_ABANDON
    async with working(server, "stream") as stream:
        late, soon, zero, bad = [
            {"task_id": task.id, "lease_token": task.lease_token, "kind": kind} for task in await take(stream, 4)
        ]
        outcomes = [
            task_pb2.Outcome(**late, delay_seconds=3600),
            task_pb2.Outcome(**soon),
            task_pb2.Outcome(**zero, delay_seconds=0),
            task_pb2.Outcome(**bad, delay_seconds=-1),
        ]
        [error] = await settle(stream, outcomes)
        assert (error.number, error.reason) == (4, error_pb2.ERROR_REASON_INVALID_FIELD)
        assert "delay_seconds" in error.message
        statuses = [shown(server, each["task_id"])["status"] for each in (late, soon, zero, bad)]
        assert statuses == ["SCHEDULED", "PENDING", "PENDING", "CLAIMED"]
        assert {task.id for task in await take(stream, 2)} == {soon["task_id"], zero["task_id"]}


async def test_python_handlers_and_clients_snooze_tasks(server: ServerProcess) -> None:
    seen: list[tuple[float, int]] = []
    worker = codeq.AsyncWorker(server.worker_addr, token=DEV_TOKEN)

    async def handle(task: codeq.Task) -> None:
        seen.append((time.monotonic(), task.attempts))
        if len(seen) == 1:
            raise codeq.Snooze(1)
        worker.stop()

    async with codeq.AsyncClient(server.producer_addr, token=DEV_TOKEN) as client:
        made = await client.create("python", 1, max_attempts=1)
        await asyncio.wait_for(worker.run(handle, commands=["python"], handle_signals=False), SECONDS_MAX)
        assert (await client.get(made.id)).status is codeq.TaskStatus.COMPLETED
        [(first, one), (second, also_one)] = seen
        assert (one, also_one) == (1, 1)
        assert second - first >= 0.9
        await client.create("python", 2)
        [task] = await client.claim(["python"], wait=20)
        returned = await client.abandon(task, delay=3599.5)
        assert (returned.status, returned.delay_seconds) == (codeq.TaskStatus.SCHEDULED, 3600)
