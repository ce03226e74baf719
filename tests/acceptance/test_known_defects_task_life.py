"""The life of a task when calls race, repeat or arrive late; settings that must work or be rejected."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import codeq
import grpc
import httpx
import pytest
from bare_streams import auth, produce, producing, working
from codeq.v1 import error_pb2, task_pb2, worker_service_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from server_process import DEV_TOKEN, ServerProcess
from test_bad_input import call, queue_of, refused, start_fails

ROUNDS = 25
RACERS = 8
EXPIRING = 60


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the well-known token for everything."""
    with ServerProcess(tmp_path_factory.mktemp("life")) as server:
        yield server


def create(server: ServerProcess, command: str, **more: Any) -> dict[str, Any]:
    """Creates a task."""
    task: dict[str, Any] = call(server, "POST", "/tasks", json={"command": command, "payload": 1, **more}).json()
    return task


def claim(server: ServerProcess, command: str, **more: Any) -> dict[str, Any]:
    """Claims a task, waiting for it."""
    body = {"commands": [command], "waitSeconds": 20, **more}
    task: dict[str, Any] = call(server, "POST", "/tasks/claim", json=body).json()
    return task


def metric(server: ServerProcess, name: str) -> float:
    """Returns the value of a metric without labels."""
    found = re.search(rf"^{name} (\S+)$", httpx.get(f"{server.http_url}/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


# -- attempts ----------------------------------------------------------------------------------------------------------


def test_task_is_delivered_exactly_max_attempts_times(running: ServerProcess) -> None:
    made = create(running, "five")
    assert made["maxAttempts"] == 5
    for attempt in range(1, 6):
        expires = attempt % 2 == 0
        task = claim(running, "five", leaseSeconds=1 if expires else 60)
        assert (task["id"], task["attempts"]) == (made["id"], attempt)
        if not expires:
            answer = call(running, "POST", f"/tasks/{made['id']}/nack", json={"delaySeconds": 0}).json()
            assert answer["status"] == ("DLQ" if attempt == 5 else "PENDING")
    assert call(running, "GET", f"/tasks/{made['id']}").json()["attempts"] == 5
    assert call(running, "POST", "/tasks/claim", json={"commands": ["five"]}).status_code == 204


def test_task_can_be_abandoned_at_most_a_hundred_times(running: ServerProcess) -> None:
    made = create(running, "abandoned", maxAttempts=1)
    statuses = []
    for _ in range(101):
        task = claim(running, "abandoned")
        assert task["attempts"] == 1
        statuses.append(call(running, "POST", f"/tasks/{task['id']}/abandon", json={}).json()["status"])
    assert statuses == ["PENDING"] * 100 + ["DLQ"]
    assert call(running, "GET", f"/tasks/{made['id']}").json()["status"] == "DLQ"


# -- races -------------------------------------------------------------------------------------------------------------


def raced(calls: list[Callable[[], httpx.Response]]) -> list[httpx.Response]:
    """Makes calls concurrently; returns their answers in order."""
    barrier = threading.Barrier(len(calls))

    def run(one: Callable[[], httpx.Response]) -> httpx.Response:
        barrier.wait(10)
        return one()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_only_one_of_several_concurrent_outcomes_for_a_delivery_wins(running: ServerProcess) -> None:
    chance = random.Random(5)
    for number in range(ROUNDS):
        made = create(running, "raced")
        task = claim(running, "raced")
        token = {"leaseToken": task["leaseToken"]}
        ends: list[tuple[str, dict[str, Any]]] = [
            ("result", {"status": "COMPLETED", "result": "a"}),
            ("result", {"status": "COMPLETED", "result": "a"}),
            ("result", {"status": "COMPLETED", "result": "b"}),
            ("result", {"status": "FAILED", "error": "c"}),
            ("nack", {"delaySeconds": 3600}),
            *[("heartbeat", {"extendSeconds": 900})] * 3,
        ]
        assert len(ends) == RACERS
        chance.shuffle(ends)
        path = f"/tasks/{made['id']}"
        answers = raced([partial(call, running, "POST", f"{path}/{end}", json=body | token) for end, body in ends])
        told = [(end, body) for (end, body), answer in zip(ends, answers, strict=True) if answer.status_code == 200]
        won = {json.dumps((end, body)) for end, body in told if end != "heartbeat"}
        assert len(won) == 1, (number, told)
        assert {answer.status_code for answer in answers} <= {200, 409}
        shown = call(running, "GET", f"/tasks/{made['id']}").json()
        end, body = json.loads(won.pop())
        assert shown["status"] == body.get("status", "SCHEDULED")
        if end == "result":
            record = call(running, "GET", f"/tasks/{made['id']}/result").json()["result"]
            assert (record.get("result"), record.get("error")) == (body.get("result"), body.get("error"))
        late = call(running, "POST", f"/tasks/{made['id']}/heartbeat", json=token)
        assert late.status_code == 409
        assert call(running, "GET", f"/tasks/{made['id']}").json() == shown
    counters = queue_of(running, "raced")
    assert (counters["ready"], counters["claimed"]) == (0, 0)


def test_completion_racing_with_lease_expiry_either_succeeds_or_has_no_effect(
    running: ServerProcess,
) -> None:
    chance = random.Random(7)
    for _ in range(EXPIRING):
        create(running, "expiring")
    body = {"commands": ["expiring"], "leaseSeconds": 1, "count": EXPIRING}
    tasks = call(running, "POST", "/tasks/claim/batch", json=body).json()["tasks"]
    leased = time.monotonic()

    def complete(task: dict[str, Any]) -> bool:
        moment = leased + 1 + chance.uniform(-0.15, 0.1)
        time.sleep(max(0, moment - time.monotonic()))  # the completion arrives at about the time the lease ends
        end = {"status": "COMPLETED", "leaseToken": task["leaseToken"]}
        answer = call(running, "POST", f"/tasks/{task['id']}/result", json=end)
        if answer.status_code != 200:
            refused(answer, 409, answer.json()["reason"])
        return answer.status_code == 200

    with ThreadPoolExecutor(8) as pool:
        counted = list(pool.map(complete, tasks))
    for task, completed in zip(tasks, counted, strict=True):
        shown = call(running, "GET", f"/tasks/{task['id']}").json()
        assert shown["status"] == ("COMPLETED" if completed else "PENDING")
    counters = queue_of(running, "expiring")
    assert (counters["ready"], counters["claimed"]) == (counted.count(False), 0)


# -- batches of results ------------------------------------------------------------------------------------------------


def test_task_listed_twice_in_a_result_batch_ends_and_counts_once(running: ServerProcess) -> None:
    create(running, "twice")
    create(running, "twice")
    first, second = claim(running, "twice"), claim(running, "twice")
    before = metric(running, "codeq_tasks_completed_total")
    done = {"status": "COMPLETED", "result": 1}
    results = [
        {"taskId": first["id"], "leaseToken": first["leaseToken"], **done},
        {"taskId": first["id"], "leaseToken": first["leaseToken"], **done},
        {"taskId": first["id"], "leaseToken": first["leaseToken"], "status": "COMPLETED", "result": 2},
        {"taskId": second["id"], "leaseToken": second["leaseToken"], "status": "COMPLETED", "result": 3},
        {"taskId": "nobody", **done},
    ]
    answers = call(running, "POST", "/tasks/batch/results", json={"results": results}).json()["results"]
    assert answers[0]["result"] == answers[1]["result"]
    assert answers[2]["error"]["index"] == 2
    assert answers[3]["result"]["result"] == 3
    assert answers[4]["error"]["reason"] == "TASK_NOT_FOUND"
    assert call(running, "GET", f"/tasks/{first['id']}/result").json()["result"]["result"] == 1
    assert metric(running, "codeq_tasks_completed_total") == before + 2


# -- order and backoff -------------------------------------------------------------------------------------------------


def test_gap_at_the_head_of_a_priority_does_not_hide_later_tasks(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        urgent = [create(server, "heads", priority=9)["id"] for _ in range(5)]
        casual = create(server, "heads", priority=1)["id"]
        taken = claim(server, "heads")["id"]
        for task_id in urgent[:2]:
            call(server, "POST", f"/tasks/{task_id}/cancel", json={})
        assert (taken, claim(server, "heads")["id"]) == (urgent[0], urgent[2])
        call(server, "POST", f"/tasks/{urgent[3]}/cancel", json={})
        server.restart()
        assert [claim(server, "heads")["id"] for _ in range(2)] == [urgent[4], casual]


def test_backoff_has_jitter_that_differs_between_server_starts(tmp_path: Path) -> None:
    def rests(server: ServerProcess) -> list[float]:
        """Returns the delays, in seconds, of tasks that are nacked on their first delivery."""
        command = f"rest-{time.monotonic_ns()}"
        for _ in range(40):
            create(server, command)
        tasks = call(server, "POST", "/tasks/claim/batch", json={"commands": [command], "count": 40}).json()["tasks"]
        told = []
        for task in tasks:
            call(server, "POST", f"/tasks/{task['id']}/nack", json={})
            shown = call(server, "GET", f"/tasks/{task['id']}").json()
            times = [datetime.fromisoformat(shown[key]) for key in ("runAt", "updatedAt") if key in shown]
            told.append((times[0] - times[-1]).total_seconds())
        return told

    with ServerProcess(tmp_path) as server:
        first = rests(server)
        server.restart()
        second = rests(server)
    assert len(set(first)) > 20
    assert (min(first) < 3, max(first) > 7, max(first) <= 10) == (True, True, True)
    assert first != second


# -- what each interface must reject -----------------------------------------------------------------------------------


async def test_every_interface_rejects_a_priority_above_9(running: ServerProcess) -> None:
    for priority in (10, -1):
        body = {"command": "TEN", "payload": 1, "priority": priority}
        refused(call(running, "POST", "/tasks", json=body), 400, "INVALID_FIELD")
        batch = call(running, "POST", "/tasks/batch", json={"tasks": [body]}).json()["results"]
        assert batch[0]["error"]["reason"] == "INVALID_FIELD"
        spec = task_pb2.TaskSpec(command="TEN", payload=b"1", priority=priority)
        async with producing(running) as stream:
            assert [error.reason for error in (await produce(stream, [spec])).errors] == [
                error_pb2.ERROR_REASON_INVALID_FIELD
            ]
        async with grpc.aio.insecure_channel(running.producer_addr) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await TaskServiceStub(channel).CreateTask(pb.CreateTaskRequest(spec=spec), metadata=auth())
            assert "spec.priority" in (caught.value.details() or "")
        with codeq.Client(running.producer_addr, token=DEV_TOKEN) as client, pytest.raises(codeq.CodeqError):
            client.create("TEN", 1, priority)
    refused(call(running, "GET", "/admin/queues/TEN"), 404, "QUEUE_NOT_FOUND")


@pytest.mark.parametrize("payload", [b"{", b"\xff", b'"\xc3"', b"nope", b" ", b"{} {}"])
async def test_grpc_payload_that_is_not_json_is_rejected(running: ServerProcess, payload: bytes) -> None:
    spec = task_pb2.TaskSpec(command="GRPC", payload=payload)
    async with producing(running) as stream:
        assert [error.index for error in (await produce(stream, [spec, spec])).errors] == [0, 1]
    async with grpc.aio.insecure_channel(running.producer_addr) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await TaskServiceStub(channel).CreateTask(pb.CreateTaskRequest(spec=spec), metadata=auth())
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    refused(call(running, "GET", "/admin/queues/GRPC"), 404, "QUEUE_NOT_FOUND")


# -- settings ----------------------------------------------------------------------------------------------------------


async def test_default_lease_and_attempts_from_the_environment_apply_to_every_interface(tmp_path: Path) -> None:
    env = {"DEFAULT_LEASE_SECONDS": "1234", "MAX_ATTEMPTS_DEFAULT": "7"}
    with ServerProcess(tmp_path, env=env) as server:
        assert create(server, "default")["maxAttempts"] == 7
        async with producing(server) as stream:
            [second] = (await produce(stream, [task_pb2.TaskSpec(command="default", payload=b"1")])).task_ids
        assert call(server, "GET", f"/tasks/{second}").json()["maxAttempts"] == 7
        with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
            [task] = client.claim(["default"])
            assert task.lease_until is not None
            assert 1200 < task.lease_until.timestamp() - time.time() <= 1235
        async with working(server, "default") as stream:
            await stream.write(worker_service_pb2.WorkRequest(add_credits=1))
            [delivered] = (await stream.read()).tasks
            assert 1200 < delivered.lease_until.seconds - time.time() <= 1235


@pytest.mark.parametrize(
    ("env", "line", "access_lines"),
    [
        ({"LOG_LEVEL": "info", "LOG_FORMAT": "json"}, r"^\{.*\}$", True),
        ({"LOG_LEVEL": "warn", "LOG_FORMAT": "json"}, r"^\{.*\}$", False),
        ({"LOG_LEVEL": "info", "LOG_FORMAT": "text"}, r"^[^{].*(http_request|grpc_call)_finished", True),
    ],
    ids=["info-json", "warn-json", "text"],
)
def test_log_level_and_format_from_the_environment_apply(
    tmp_path: Path, env: dict[str, str], line: str, *, access_lines: bool
) -> None:
    with ServerProcess(tmp_path, env=env) as server:
        call(server, "GET", "/tasks/x", headers={"X-Request-Id": "seen-in-the-log"})
        assert server.stop() == 0
        found = [text for text in server.log.splitlines() if "seen-in-the-log" in text]
    assert bool(found) is access_lines
    assert all(re.search(line, text) for text in found)


@pytest.mark.parametrize(
    ("env", "text", "key"),
    [
        ({"REQUEUE_INSPECT_LIMIT": "200"}, "", "REQUEUE_INSPECT_LIMIT"),
        ({}, "requeueInspectLimit: 200\n", "requeueInspectLimit"),
        ({}, "env: prod\n", "env"),
        ({}, "timezone: America/Sao_Paulo\n", "timezone"),
        ({"DEFAULT_LEASE_SECONDS": "soon"}, "", "DEFAULT_LEASE_SECONDS"),
        ({"LOG_LEVEL": "chatty"}, "", "LOG_LEVEL"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_setting_without_effect_prevents_startup_and_is_named(
    tmp_path: Path, env: dict[str, str], text: str, key: str
) -> None:
    (tmp_path / "codeq.yaml").write_text(text)
    config = {"CODEQ_CONFIG_PATH": os.fspath(tmp_path / "codeq.yaml")}
    code, said = start_fails(ServerProcess(tmp_path / "server", env={**config, **env}))
    assert code == 2
    assert key in said.splitlines()[-1]


def test_nested_settings_in_a_file_start_a_server_with_static_tokens(tmp_path: Path) -> None:
    (tmp_path / "codeq.yaml").write_text(
        f"""\
persistenceProvider: pebble
persistenceConfig:
  path: {tmp_path / "store"}
  fsyncOnCommit: true
  numShards: 1
producerAuthProvider: static
producerAuthConfig:
  token: one
  subject: maker
  raw: {{tenantId: acme, role: ADMIN}}
workerAuthProvider: static
workerAuthConfig:
  token: two
  scopes: [codeq:claim]
  eventTypes: ["*"]
  raw: {{tenantId: acme}}
"""
    )
    config = {"CODEQ_CONFIG_PATH": os.fspath(tmp_path / "codeq.yaml"), "ENV": "prod"}
    with ServerProcess(tmp_path / "server", env=config, dev=False, store=tmp_path / "store") as server:
        body = {"command": "A", "payload": 1}
        made = call(server, "POST", "/tasks", token="one", json=body).json()
        assert call(server, "POST", "/tasks/claim", token="two", json={}).json()["id"] == made["id"]


def test_command_line_rejects_a_priority_above_9(running: ServerProcess) -> None:
    command = [sys.executable, "-m", "codeq_cli.main", "task", "create", "CLI", "--payload", "1", "--priority", "10"]
    env = {**os.environ, "CODEQ_ENDPOINT": running.http_url, "CODEQ_TOKEN": DEV_TOKEN}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert "priority" in done.stderr
