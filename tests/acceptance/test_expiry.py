"""The contract's row "end by time", against a real server: REST, streams, unary calls, batches, command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import codeq
import httpx
import pytest
from server_process import DEV_TOKEN, ServerProcess

SECONDS_MAX = 30


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the well-known token for everything."""
    with ServerProcess(tmp_path_factory.mktemp("expiry")) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[codeq.Client]:
    """A client of the server."""
    with codeq.Client(server.producer_addr, token=DEV_TOKEN) as opened:
        yield opened


def rest(server: ServerProcess, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
    """Makes one HTTP call; returns status and body."""
    headers["Authorization"] = f"Bearer {DEV_TOKEN}"
    answer = httpx.request(method, f"{server.http_url}/v1/codeq{path}", headers=headers, json=body, timeout=SECONDS_MAX)
    return answer.status_code, answer.json() if answer.content else None


def create(server: ServerProcess, command: str, **fields: object) -> dict[str, Any]:
    """Creates a task over REST."""
    status, task = rest(server, "POST", "/tasks", {"command": command, **fields})
    assert status == 202
    assert isinstance(task, dict)
    return task


def until(condition: Any) -> None:
    """Waits for a condition."""
    end = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_task_not_claimed_in_time_fails_as_expired_and_wakes_waiting_callers(
    server: ServerProcess, client: codeq.Client
) -> None:
    started = time.monotonic()
    task = create(server, "late", expireSeconds=1)
    assert task["status"] == "PENDING"
    assert task["expireAt"] > task["createdAt"]
    status, answer = rest(server, "GET", f"/tasks/{task['id']}/result?waitSeconds=20")
    waited = time.monotonic() - started
    assert (status, answer["result"]["status"], answer["result"]["error"]) == (200, "FAILED", "EXPIRED")
    assert "result" not in answer["result"]
    assert 0.9 <= waited < 10, "neither early nor polled for"
    ended = answer["task"]
    assert ended["finishedAt"] >= ended["expireAt"] == task["expireAt"]
    assert "workerId" not in ended
    assert client.claim(["late"]) == []
    queue = client.queue("late")
    assert (queue.ready, queue.scheduled, queue.claimed) == (0, 0, 0)


@pytest.mark.parametrize("schedule", [{"delaySeconds": 600}, {"runAt": "2100-01-01T00:00:00Z"}])
def test_scheduled_task_expires_before_it_is_due(server: ServerProcess, schedule: dict[str, object]) -> None:
    task = create(server, "late-delay", expireSeconds=1, **schedule)
    assert task["status"] == "SCHEDULED"
    status, answer = rest(server, "GET", f"/tasks/{task['id']}/result?waitSeconds=20")
    assert (status, answer["result"]["status"], answer["result"]["error"]) == (200, "FAILED", "EXPIRED")


def test_nacked_task_expires_while_it_waits(client: codeq.Client) -> None:
    task = client.create("late-nack", expire=1)
    (claimed,) = client.claim(["late-nack"])
    assert claimed.expire_at == task.expire_at
    client.nack(claimed, "later", delay=600)
    ended = client.result(task.id, wait=20)
    assert (ended.status, ended.error) == (codeq.TaskStatus.FAILED, "EXPIRED")


def test_task_running_at_its_expiry_time_never_expires(server: ServerProcess, client: codeq.Client) -> None:
    task = client.create("late-runs", expire=1)
    other = client.create("late-runs-not", expire=1)
    (claimed,) = client.claim(["late-runs"])
    assert client.result(other.id, wait=20).error == "EXPIRED", "the time has come"
    assert client.get(task.id).status is codeq.TaskStatus.CLAIMED
    client.nack(claimed, "again", delay=0)
    assert client.get(task.id).status is codeq.TaskStatus.PENDING
    assert client.explain(task.id).expire_at is None
    (again,) = client.claim(["late-runs"])
    client.complete(again, {"done": True})
    assert client.result(task.id, wait=20).status is codeq.TaskStatus.COMPLETED
    metrics = httpx.get(f"{server.http_url}/metrics").text
    assert "codeq_leases_expired_total 0.0" in metrics
    (line,) = (line for line in metrics.splitlines() if line.startswith("codeq_tasks_expired_total "))
    assert float(line.split()[1]) >= 1


def test_explain_reports_when_a_waiting_task_expires(client: codeq.Client) -> None:
    waiting = client.create("late-why", expire=timedelta(hours=1))
    delayed = client.create("late-why-delay", delay=60, expire=timedelta(hours=1))
    plain = client.create("late-why")
    assert client.explain(waiting.id).expire_at == waiting.expire_at
    assert client.explain(delayed.id).expire_at == delayed.expire_at
    assert client.explain(plain.id).expire_at is None
    assert client.claim(["late-why"], lease_seconds=60)
    assert client.explain(waiting.id).expire_at is None


def test_tasks_created_by_streams_and_batches_expire_too(server: ServerProcess, client: codeq.Client) -> None:
    with codeq.Producer(server.producer_addr, token=DEV_TOKEN) as producer:
        ids = [producer.create("late-stream", expire=0.5)]
        ids += [i for i in producer.create_batch([codeq.NewTask("late-stream", expire=1)]) if isinstance(i, str)]
    for atomic in (False, True):
        made = client.create_batch([codeq.NewTask("late-batch", n, expire=1) for n in range(2)], atomic=atomic)
        ids += [task.id for task in made if isinstance(task, codeq.Task)]
    assert len(ids) == 6
    for task_id in ids:
        assert client.result(task_id, wait=20).error == "EXPIRED"


def test_expiry_is_part_of_the_idempotency_fingerprint(server: ServerProcess) -> None:
    key = {"Idempotency-Key": "late-key"}
    body = {"command": "late-key", "expireSeconds": 3600}
    status, first = rest(server, "POST", "/tasks", body, **key)
    assert status == 202
    status, again = rest(server, "POST", "/tasks", body, **key)
    assert (status, again["duplicate"], again["expireAt"]) == (200, True, first["expireAt"])
    for other in ({"command": "late-key"}, {"command": "late-key", "expireSeconds": 3601}):
        status, refusal = rest(server, "POST", "/tasks", other, **key)
        assert (status, refusal["reason"]) == (409, "IDEMPOTENCY_CONFLICT")


@pytest.mark.parametrize("seconds", [0, -1, 315_360_001])
def test_expiry_out_of_bounds_is_rejected_with_its_field(server: ServerProcess, seconds: int) -> None:
    status, refusal = rest(server, "POST", "/tasks", {"command": "late", "expireSeconds": seconds})
    assert (status, refusal["reason"]) == (400, "INVALID_FIELD")
    assert "expireSeconds" in str(refusal) or "expire_seconds" in str(refusal)


def test_expiry_survives_a_restart(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("expiry-restart")
    with ServerProcess(folder) as server:
        soon, late = (create(server, "late", expireSeconds=seconds) for seconds in (1, 3600))
    with ServerProcess(folder) as server:
        status, answer = rest(server, "GET", f"/tasks/{soon['id']}/result?waitSeconds=20")
        assert (status, answer["result"]["error"]) == (200, "EXPIRED")
        assert rest(server, "GET", f"/tasks/{late['id']}")[1]["status"] == "PENDING"


def test_command_line_creates_tasks_that_expire(server: ServerProcess) -> None:
    words = ["task", "create", "late-cli", "--payload", "1", "--expire", "1", "--output", "json"]
    environment = {**os.environ, "CODEQ_ENDPOINT": server.http_url, "CODEQ_TOKEN": DEV_TOKEN}
    program = [sys.executable, "-m", "codeq_cli.main"]
    told = subprocess.run([*program, *words], env=environment, capture_output=True, text=True, check=True)
    task = json.loads(told.stdout)
    assert task["expireAt"] > task["createdAt"]
    until(lambda: rest(server, "GET", f"/tasks/{task['id']}")[1]["status"] == "FAILED")
