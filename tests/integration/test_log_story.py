"""The log of tasks and calls: the life of a task takes a bounded number of lines, which do not show its contents."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import codeq
import grpc
import httpx
import pytest
from codeq.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc
from codeq_server.log.task_events import LINES_MAX
from server_process import DEV_TOKEN, LOOPBACK, ServerProcess

pytestmark = pytest.mark.timeout(120)

AUTHORIZATION = f"Bearer {DEV_TOKEN}"
SECRET = "hush-hush"
"""Text in payloads and results."""
TASKS = "/v1/codeq/tasks"
SEEN_SECONDS_MAX = 30.0
HERD = 3000


@pytest.fixture
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.http_url, headers={"Authorization": AUTHORIZATION}, timeout=30) as made:
        yield made


def events(server: ServerProcess, *names: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    return [line for line in lines if not names or line["event"] in names]


def until(server: ServerProcess, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SEEN_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, server.log[-3000:]
        time.sleep(0.05)


def claimed(client: httpx.Client, lease_seconds: int, **task: Any) -> str:
    """Creates a task and claims it; returns its id."""
    client.post(TASKS, json={"command": "a", "payload": {"key": SECRET}, **task})
    task_id = client.post(f"{TASKS}/claim", json={"commands": ["a"], "leaseSeconds": lease_seconds}).json()["id"]
    assert isinstance(task_id, str)
    return task_id


def test_log_shows_the_life_of_a_task(server: ServerProcess, client: httpx.Client) -> None:
    task_id = claimed(client, 1, maxAttempts=2)
    until(server, lambda: bool(events(server, "lease_expired")))
    client.post(f"{TASKS}/claim", json={"commands": ["a"], "waitSeconds": 10})
    client.post(f"{TASKS}/{task_id}/nack", json={"reason": SECRET})
    refused = client.post(f"{TASKS}/{task_id}/result", json={"status": "COMPLETED"})
    assert refused.status_code == 409
    until(server, lambda: any(line.get("reason") for line in events(server)))
    story = [line for line in events(server) if line.get("task_id") == task_id]
    told = [(line["event"], line["tenant"], line.get("cause"), line.get("attempts")) for line in story]
    assert told == [
        ("lease_expired", "dev-tenant", "LEASE_EXPIRED", 1),
        ("task_dead_lettered", "dev-tenant", "NACK", 2),
        ("http_request_finished", "dev-tenant", None, None),
    ]
    assert story[-1]["reason"] == refused.json()["reason"]
    assert story[-1]["status"] == 409
    assert SECRET not in server.log
    assert DEV_TOKEN not in json.dumps(events(server))


def test_rest_rejections_are_logged_with_reason_task_and_tenant(server: ServerProcess, client: httpx.Client) -> None:
    client.get(f"{TASKS}/none")
    client.post(f"{TASKS}/none/heartbeat", content=b"{")
    client.post(TASKS, json={"command": "a", "payload": 1, "taskId": "mine"})
    client.post(TASKS, json={"command": "b", "payload": 1, "taskId": "mine"})
    httpx.get(f"{server.http_url}{TASKS}/none")

    def refused() -> list[dict[str, Any]]:
        return [line for line in events(server, "http_request_finished") if line["status"] >= 400]

    until(server, lambda: len(refused()) == 4)
    told = [(line["status"], line["reason"], line.get("task_id"), line.get("tenant")) for line in refused()]
    assert told == [
        (404, "TASK_NOT_FOUND", "none", "dev-tenant"),
        (400, "INVALID_BODY", "none", None),
        (409, "TASK_ID_TAKEN", "mine", "dev-tenant"),
        (401, "UNAUTHENTICATED", "none", None),
    ]


def test_grpc_rejections_are_logged_with_reason_task_and_tenant(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.producer_addr) as channel:
        stub = task_service_pb2_grpc.TaskServiceStub(channel)
        with pytest.raises(grpc.RpcError):
            stub.GetTask(task_service_pb2.GetTaskRequest(task_id="none"), metadata=(("authorization", AUTHORIZATION),))
        with pytest.raises(grpc.RpcError):
            stub.CreateTask(task_service_pb2.CreateTaskRequest(spec=task_pb2.TaskSpec(command="a")))

    def refused() -> list[dict[str, Any]]:
        return [line for line in events(server, "grpc_call_finished") if line["code"] != "OK"]

    until(server, lambda: len(refused()) == 2)
    told = [(line["code"], line["reason"], line.get("task_id"), line.get("tenant")) for line in refused()]
    assert told == [
        ("NOT_FOUND", "TASK_NOT_FOUND", "none", "dev-tenant"),
        ("UNAUTHENTICATED", "UNAUTHENTICATED", None, None),
    ]


async def test_mass_lease_expiry_is_logged_in_few_lines_with_its_count(server: ServerProcess) -> None:
    async with codeq.AsyncClient(server.producer_addr, token=DEV_TOKEN) as client:
        for _ in range(HERD // 500):
            await client.create_batch([codeq.NewTask("a", max_attempts=1) for _ in range(500)])
        left = HERD
        while left:
            left -= len(await client.claim(["a"], count=100, lease_seconds=1))

    def told(event: str) -> int:
        return sum(line.get("more", 1) for line in events(server, event))

    until(server, lambda: told("lease_expired") == told("task_dead_lettered") == HERD)
    herd = events(server, "lease_expired", "task_dead_lettered")
    first, last = (datetime.fromisoformat(herd[index]["time"]) for index in (0, -1))
    assert len(herd) <= 2 * (LINES_MAX + 1) * ((last - first).total_seconds() + 2)


def test_each_change_of_the_level_is_logged(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((LOOPBACK, 0))
        debug = f"{LOOPBACK}:{held.getsockname()[1]}"
        env = {"CODEQ_PPROF": "true", "CODEQ_PPROF_ADDR": debug}
        with ServerProcess(tmp_path, env=env, apart=False) as server:
            for level in ("error", "error", "warn", "info"):
                assert httpx.put(f"http://{debug}/debug/log-level", content=level).text == f"{level}\n"
            assert server.stop() == 0
            changes = [(line["former"], line["level"]) for line in events(server, "log_level_changed")]
    assert changes == [("info", "error"), ("error", "warn"), ("warn", "info")]
