"""Accepted work is delivered despite waits, crashes and idle time, and ended tasks are kept as long as promised."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import codeq
import grpc
import httpx
import pytest
from bare_streams import auth, create_many, settle, take, working
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq.v1 import worker_service_pb2 as worker_pb
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from server_process import DEV_TOKEN, ServerProcess
from test_bad_input import call, queue_of, refused

IDLE_SECONDS = 33
"""Idle time that exceeds the half minute after which some servers forget a waiting worker."""

BACKLOG = 120_000
"""Number of tasks, more than the 100,000 that some servers keep per queue and priority."""

LEASES = 5_000
SECONDS_MAX = 30


def until(condition: Any, seconds: float = SECONDS_MAX) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def create(server: ServerProcess, command: str, **more: Any) -> dict[str, Any]:
    """Creates a task."""
    task: dict[str, Any] = call(server, "POST", "/tasks", json={"command": command, "payload": 1, **more}).json()
    return task


def claim(server: ServerProcess, command: str, **more: Any) -> dict[str, Any]:
    """Claims a task, waiting for it."""
    body = {"commands": [command], "waitSeconds": 20, **more}
    task: dict[str, Any] = call(server, "POST", "/tasks/claim", json=body).json()
    return task


async def test_long_idle_stream_still_gets_work(server: ServerProcess) -> None:
    done = threading.Event()
    worker = codeq.Worker(server.worker_addr, token=DEV_TOKEN)
    thread = threading.Thread(target=worker.run, args=(lambda _: done.set(),), kwargs={"commands": ["sdk"]})
    thread.start()
    try:
        async with working(server, "bare") as stream:
            await stream.write(worker_pb.WorkRequest(add_credits=1))
            # Neither a rejected outcome nor time uses up the stream's credits.
            assert len(await settle(stream, [task_pb2.Outcome(task_id="x", kind=1)])) == 1
            await asyncio.sleep(IDLE_SECONDS)
            made = create(server, "bare")
            assert [task.id for task in (await stream.read()).tasks] == [made["id"]]
        made = create(server, "sdk")
        assert await asyncio.to_thread(done.wait, SECONDS_MAX)
        assert call(server, "GET", f"/tasks/{made['id']}/result?waitSeconds=20").status_code == 200
    finally:
        worker.stop()
        await asyncio.to_thread(thread.join, SECONDS_MAX)


def test_long_poll_of_a_disconnected_client_takes_no_task(server: ServerProcess) -> None:
    create(server, "left")
    assert claim(server, "left")["attempts"] == 1  # the queue is known and empty
    for _ in range(5):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{server.http_url}/v1/codeq/tasks/claim",
                json={"commands": ["left"], "waitSeconds": 30},
                headers={"Authorization": f"Bearer {DEV_TOKEN}"},
                timeout=0.2,
            )
    until(lambda: "codeq_workers_waiting 0.0" in httpx.get(f"{server.http_url}/metrics").text)
    made = create(server, "left")
    claimed = claim(server, "left")
    assert (claimed["id"], claimed["attempts"]) == (made["id"], 1)


async def test_lane_of_over_100000_tasks_is_delivered_in_order_after_a_restart(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        ids = await create_many(server, "deep", BACKLOG)
        server.restart()
        assert queue_of(server, "deep")["ready"] == BACKLOG
        async with working(server, "deep", lease_seconds=3600) as stream:
            got = [task.id for _ in range(BACKLOG // 20_000) for task in await take(stream, 20_000)]
        assert got == ids


async def test_every_task_returns_when_thousands_of_leases_expire_together_after_a_kill(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        ids = await create_many(server, "leased", LEASES)
        began = time.monotonic()
        async with working(server, "leased", lease_seconds=5) as stream:
            assert len(await take(stream, LEASES)) == LEASES
            server.restart()
        counters = queue_of(server, "leased")
        assert (counters["claimed"], counters["ready"]) == (LEASES, 0)
        until(lambda: queue_of(server, "leased")["ready"] == LEASES, 5 + 10)  # while no worker requests work
        assert time.monotonic() - began >= 5
        async with working(server, "leased") as stream:
            again = await take(stream, LEASES)
        assert sorted(task.id for task in again) == sorted(ids)
        assert {task.attempts for task in again} == {2}


def test_lone_delayed_task_falls_due_without_a_request(server: ServerProcess) -> None:
    create(server, "delayed", delaySeconds=1)
    assert queue_of(server, "delayed")["scheduled"] == 1
    until(lambda: queue_of(server, "delayed")["ready"] == 1, 5)
    task = claim(server, "delayed")
    assert call(server, "POST", f"/tasks/{task['id']}/nack", json={"delaySeconds": 1}).json()["status"] == "SCHEDULED"
    until(lambda: queue_of(server, "delayed")["ready"] == 1, 5)
    assert claim(server, "delayed", leaseSeconds=1)["attempts"] == 2
    until(lambda: queue_of(server, "delayed")["ready"] == 1, 5)
    counters = queue_of(server, "delayed")
    assert (counters["scheduled"], counters["claimed"]) == (0, 0)


async def test_every_interface_can_complete_a_task_without_a_result(server: ServerProcess) -> None:
    ids = [create(server, "bare-end")["id"] for _ in range(5)]
    first, second, third, fourth = (claim(server, "bare-end") for _ in range(4))
    body = {"status": "COMPLETED"}
    assert call(server, "POST", f"/tasks/{first['id']}/result", json=body).status_code == 200
    batch = {"results": [{"taskId": second["id"], **body}]}
    assert "error" not in call(server, "POST", "/tasks/batch/results", json=batch).json()["results"][0]
    async with grpc.aio.insecure_channel(server.producer_addr) as channel:
        request = pb.SubmitResultRequest(task_id=third["id"], status=task_pb2.TASK_STATUS_COMPLETED)
        await TaskServiceStub(channel).SubmitResult(request, metadata=auth())
    async with working(server, "bare-end") as stream:
        outcome = task_pb2.Outcome(task_id=fourth["id"], lease_token=int(fourth["leaseToken"]), kind=1)
        assert await settle(stream, [outcome]) == []
    worker = codeq.AsyncWorker(server.worker_addr, token=DEV_TOKEN)

    async def nothing(_: codeq.Task) -> None:
        worker.stop()

    await asyncio.wait_for(worker.run(nothing, commands=["bare-end"], handle_signals=False), SECONDS_MAX)
    for task_id in ids:
        record = call(server, "GET", f"/tasks/{task_id}/result").json()["result"]
        assert record["status"] == "COMPLETED"
        assert "result" not in record  # no result is not the result null


@pytest.mark.parametrize("end", ["nack", "expiry"])
def test_dead_letter_has_a_result(server: ServerProcess, end: str) -> None:
    made = create(server, end, maxAttempts=1)
    claim(server, end, leaseSeconds=1 if end == "expiry" else 60)
    if end == "nack":
        call(server, "POST", f"/tasks/{made['id']}/nack", json={"reason": "no printer"})
    told = call(server, "GET", f"/tasks/{made['id']}/result?waitSeconds=20").json()
    assert (told["task"]["status"], told["result"]["status"]) == ("DLQ", "DLQ")
    assert told["result"]["error"] == told["task"]["error"] != ""
    assert ("no printer" in told["result"]["error"]) == (end == "nack")


def test_retention_counts_from_the_end_of_a_task_and_removes_no_live_task(tmp_path: Path) -> None:
    env = {"RETENTION_SECONDS": "2", "DLQ_RETENTION_SECONDS": "3600"}
    with ServerProcess(tmp_path, env=env) as server:
        old = create(server, "old")["id"]
        running, waiting, later = (create(server, command)["id"] for command in ("run", "wait", "late"))
        dead = create(server, "dead", maxAttempts=1)["id"]
        call(server, "POST", f"/tasks/{claim(server, 'dead')['id']}/nack", json={})
        claim(server, "run", leaseSeconds=600)
        call(server, "POST", f"/tasks/{claim(server, 'late')['id']}/nack", json={"delaySeconds": 600})
        aged = time.monotonic() + 3
        until(lambda: time.monotonic() > aged)  # every task has outlived its retention now
        claim(server, "old")
        before = time.monotonic()
        call(server, "POST", f"/tasks/{old}/result", json={"status": "COMPLETED"})
        assert call(server, "GET", f"/tasks/{old}").json()["status"] == "COMPLETED"
        until(lambda: call(server, "GET", f"/tasks/{old}").status_code == 404, 10)
        assert time.monotonic() - before >= 2
        for task_id, status in ((running, "CLAIMED"), (waiting, "PENDING"), (later, "SCHEDULED"), (dead, "DLQ")):
            assert call(server, "GET", f"/tasks/{task_id}").json()["status"] == status


def test_retention_removes_everything_that_belongs_to_an_ended_task(tmp_path: Path) -> None:
    env = {"RETENTION_SECONDS": "1", "DLQ_RETENTION_SECONDS": "1"}
    with ServerProcess(tmp_path, env=env) as server:
        key = {"idempotencyKey": "once", "maxAttempts": 1}
        first = create(server, "gone", **key)["id"]
        call(server, "POST", f"/tasks/{claim(server, 'gone')['id']}/nack", json={})
        assert queue_of(server, "gone")["dlq"] == 1
        refused(
            call(server, "POST", "/tasks", json={"command": "other", "payload": 1, **key}), 409, "IDEMPOTENCY_CONFLICT"
        )
        until(lambda: call(server, "GET", f"/tasks/{first}").status_code == 404, 10)
        assert queue_of(server, "gone")["dlq"] == 0
        refused(call(server, "GET", f"/tasks/{first}/result"), 404, "TASK_NOT_FOUND")
        assert "duplicate" not in create(server, "other", **key)
