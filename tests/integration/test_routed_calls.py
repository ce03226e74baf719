"""A server with several shards answers every call as one, whichever of its processes gets the connection."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from codeq_server.services.shard_links import AGAIN_SECONDS
from server_process import DEV_TOKEN, ServerProcess
from test_shard_processes import ENV, SHARDS, processes, served, until

CONNECTIONS = 8
"""So many connections reach several of the processes."""
SECONDS_MAX = 45.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "server", env=ENV) as server:
        until(lambda: served(server))
        yield server


def ask(server: ServerProcess, method: str, path: str, *, timeout: float = SECONDS_MAX, **body: Any) -> httpx.Response:
    """Makes a call over a connection of its own."""
    url, headers = f"{server.http_url}/v1/codeq{path}", {"Authorization": f"Bearer {DEV_TOKEN}"}
    return httpx.request(method, url, headers=headers, json=body or None, timeout=timeout)


def create(server: ServerProcess, **fields: Any) -> str:
    answer = ask(server, "POST", "/tasks", **{"command": "a", "payload": 1, **fields})
    assert answer.status_code in (200, 202), answer.text
    return str(answer.json()["id"])


def queue(server: ServerProcess) -> dict[str, Any]:
    told: dict[str, Any] = ask(server, "GET", "/admin/queues/a").json()
    return told


def claim(server: ServerProcess, count: int = 1, wait: int = 0) -> list[str]:
    answer = ask(server, "POST", "/tasks/claim/batch", commands=["a"], count=count, waitSeconds=wait)
    assert answer.status_code in (200, 204), answer.text
    return [task["id"] for task in answer.json()["tasks"]] if answer.content else []


def waiters(server: ServerProcess) -> float:
    """Returns the number of waiters in all shards."""
    lines = httpx.get(f"{server.http_url}/metrics", timeout=SECONDS_MAX).text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("codeq_workers_waiting{"))


def test_calls_over_any_connection_see_the_tasks_of_all_shards(server: ServerProcess) -> None:
    keyed = {create(server, idempotencyKey="once") for _ in range(CONNECTIONS)}
    assert len(keyed) == 1
    made = keyed | {create(server) for _ in range(2 * CONNECTIONS)}
    for task_id in made:
        assert ask(server, "GET", f"/tasks/{task_id}").json()["id"] == task_id
    listed: list[str] = []
    token = ""
    while True:
        page = ask(server, "GET", f"/tasks?orderBy=newest&pageSize=3&pageToken={token}").json()
        listed += [task["id"] for task in page["tasks"]]
        token = page["nextPageToken"]
        if not token:
            break
    assert sorted(listed) == sorted(made)
    assert queue(server)["ready"] == len(made)
    given = [task_id for _ in range(len(made)) for task_id in claim(server, 2)]
    assert sorted(given) == sorted(made)
    results = [{"taskId": each, "status": "COMPLETED"} for each in given]
    done = ask(server, "POST", "/tasks/batch/results", results=results).json()
    assert [each["taskId"] for each in done["results"]] == given
    assert not [each for each in done["results"] if each.get("error")]
    assert queue(server)["claimed"] == 0


def test_waiting_claims_get_work_from_whatever_shard(server: ServerProcess) -> None:
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for _ in range(3):
            waiting = [pool.submit(claim, server, 1, 30) for _ in range(CONNECTIONS)]
            made = [create(server) for _ in range(CONNECTIONS)]
            given = [each for claimed in waiting for each in claimed.result(SECONDS_MAX)]
            assert sorted(given) == sorted(made)


def test_claims_of_clients_that_left_hold_no_task(server: ServerProcess) -> None:
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        waiting = [
            pool.submit(ask, server, "POST", "/tasks/claim", timeout=5.0, commands=["a"], waitSeconds=30)
            for _ in range(CONNECTIONS)
        ]
        until(lambda: waiters(server) == SHARDS * CONNECTIONS)
        for each in waiting:
            assert isinstance(each.exception(SECONDS_MAX), httpx.TimeoutException)
    until(lambda: not waiters(server))
    made = {create(server) for _ in range(CONNECTIONS)}
    assert queue(server)["ready"] == len(made)
    assert set(claim(server, 100)) == made


def test_killed_process_costs_its_own_tasks_only_until_it_is_back(server: ServerProcess) -> None:
    made = {create(server) for _ in range(3 * CONNECTIONS)}
    given: set[str] = set()
    with ThreadPoolExecutor(1) as pool:
        os.kill(processes(server)[1], signal.SIGKILL)
        end = time.monotonic() + SECONDS_MAX

        def work() -> None:
            while given != made and time.monotonic() < end:
                try:
                    given.update(claim(server, 5, 2))
                except httpx.TransportError:
                    continue  # the connection went to the process that was killed

        pool.submit(work).result()
    assert given == made
    until(lambda: served(server))
    assert queue(server)["claimed"] == len(made)


def test_calls_wait_for_a_process_that_starts_again(server: ServerProcess) -> None:
    made = [create(server) for _ in range(2 * SHARDS * CONNECTIONS)]

    killed_at = 0.0

    def look(task_id: str) -> int:
        while True:
            try:
                status = ask(server, "GET", f"/tasks/{task_id}").status_code
            except httpx.TransportError:
                continue  # the connection went to the process that was killed
            if status != 503 or time.monotonic() - killed_at < AGAIN_SECONDS:
                return status  # on a busy machine, a process may need longer than calls wait

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for shard in range(SHARDS):
            until(lambda: served(server))
            victim, killed_at = processes(server)[shard], time.monotonic()
            os.kill(victim, signal.SIGKILL)
            assert set(pool.map(look, made)) == {200}


def test_access_log_has_one_line_per_call_with_the_shard_that_took_it(server: ServerProcess) -> None:
    made = [create(server) for _ in range(2 * CONNECTIONS)]
    for task_id in made:
        ask(server, "GET", f"/tasks/{task_id}")

    def lines() -> list[dict[str, Any]]:
        events = [json.loads(line) for line in server.log.splitlines() if "_finished" in line]
        return [each for each in events if "/tasks" in each.get("route", "") or "/Task" in each.get("method", "")]

    until(lambda: len(lines()) >= 2 * len(made))
    assert sorted(line["event"] for line in lines()) == ["http_request_finished"] * 2 * len(made)
    assert {line["shard"] for line in lines()} <= set(range(SHARDS))


def test_refused_access_is_recorded_once(server: ServerProcess) -> None:
    for number in range(2 * SHARDS):
        url = f"{server.http_url}/v1/codeq/tasks/unknown-{number}/cancel"
        assert httpx.post(url, headers={"Authorization": "Bearer wrong"}, timeout=SECONDS_MAX).status_code == 401
    ask(server, "POST", "/admin/queues/a/pause")
    until(lambda: len(records(server)) >= 2 * SHARDS + 1)
    assert sorted(records(server)) == [*["CancelTask UNAUTHENTICATED"] * 2 * SHARDS, "PauseQueue OK"]


def records(server: ServerProcess) -> list[str]:
    page = ask(server, "GET", "/admin/audit").json()
    told = [(f"{record['call']} {record['outcome']}", record.get("count", 1)) for record in page["records"]]
    return [text for text, count in told for _ in range(max(1, count))]
