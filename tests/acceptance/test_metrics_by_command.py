"""Metrics of tasks by command, as a scrape of a server shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from server_process import DEV_TOKEN, ServerProcess


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "server") as started:
        yield started


def figures(server: ServerProcess) -> dict[str, float]:
    """Returns every value of /metrics by name and labels."""
    lines = httpx.get(f"{server.http_url}/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def call(server: ServerProcess, path: str, body: dict[str, object]) -> httpx.Response:
    headers = {"Authorization": f"Bearer {DEV_TOKEN}"}
    return httpx.post(f"{server.http_url}/v1/codeq{path}", json=body, headers=headers)


def run_task(server: ServerProcess, command: str, status: str = "COMPLETED") -> None:
    """Creates, claims and ends a task."""
    assert call(server, "/tasks", {"command": command, "payload": 1}).status_code == 202
    task_id = call(server, "/tasks/claim", {"commands": [command]}).json()["id"]
    ended = {"status": status, **({"error": "broken"} if status == "FAILED" else {})}
    assert call(server, f"/tasks/{task_id}/result", ended).status_code == 200


def test_scrape_shows_counts_depths_and_times_of_each_command(server: ServerProcess) -> None:
    figures(server)  # times count from the first scrape on
    run_task(server, "mail")
    run_task(server, "mail", "FAILED")
    run_task(server, "mail")
    call(server, "/tasks", {"command": "mail", "payload": 1})
    call(server, "/tasks", {"command": "mail", "payload": 1, "delaySeconds": 60})
    call(server, "/tasks", {"command": "report", "payload": 1})
    shown = figures(server)
    assert shown['codeq_task_created_total{command="mail"}'] == 5
    assert shown['codeq_task_claimed_total{command="mail"}'] == 3
    ended = {status: shown[f'codeq_task_completed_total{{command="mail",status="{status}"}}'] for status in STATUSES}
    assert ended == {"COMPLETED": 2, "FAILED": 1, "DLQ": 0, "CANCELLED": 0}
    depths = {queue: shown[f'codeq_queue_depth{{command="mail",queue="{queue}"}}'] for queue in QUEUES}
    assert depths == {"ready": 1, "delayed": 1, "in_progress": 0, "dlq": 0}
    assert shown['codeq_queue_depth{command="report",queue="ready"}'] == 1
    assert shown['codeq_queue_oldest_age_seconds{command="mail"}'] >= 0
    assert shown['codeq_dlq_depth{command="mail"}'] == 0
    assert shown['codeq_lease_expired_total{command="mail"}'] == 0
    assert shown['codeq_task_created_total{command="_other"}'] == 0
    # The first tasks of a command that no scrape has seen count in the shared series.
    waits = [shown[f'codeq_task_wait_seconds_count{{command="{command}"}}'] for command in ("mail", "_other")]
    assert sum(waits) == 3
    latency = "codeq_task_processing_latency_seconds_count"
    assert sum(value for name, value in shown.items() if name.startswith(latency)) == 2
    run_task(server, "report")
    assert figures(server)['codeq_task_wait_seconds_count{command="report"}'] == 1


STATUSES = ("COMPLETED", "FAILED", "DLQ", "CANCELLED")
QUEUES = ("ready", "delayed", "in_progress", "dlq")


def test_scrape_shows_commits_syncs_and_calls(server: ServerProcess) -> None:
    run_task(server, "mail")
    shown = figures(server)
    assert shown["codeq_commit_seconds_count"] == shown["codeq_commits_total"] > 0
    assert shown["codeq_sync_seconds_count"] >= shown["codeq_commit_seconds_count"]
    assert shown['codeq_commit_seconds_bucket{le="+Inf"}'] == shown["codeq_commit_seconds_count"]
    assert shown['codeq_grpc_calls_total{code="OK",method="codeq.v1.TaskService/CreateTask"}'] == 0
    assert shown["codeq_stream_credits"] == 0


def test_label_tenant_is_shown_only_if_it_is_asked_for(tmp_path: Path, server: ServerProcess) -> None:
    run_task(server, "mail")
    text = httpx.get(f"{server.http_url}/metrics").text
    assert re.search(r"^codeq_task_\w+\{.*tenant=", text, re.MULTILINE) is None
    with ServerProcess(tmp_path / "by-tenant", env={"METRICS_TENANT_LABEL": "true"}) as by_tenant:
        run_task(by_tenant, "mail")
        assert figures(by_tenant)['codeq_task_created_total{command="mail",tenant="dev-tenant"}'] == 1
