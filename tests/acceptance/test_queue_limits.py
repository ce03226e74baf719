"""Limits on a tenant's queues, and the removal of unused queues, on a real server."""

from __future__ import annotations

import time
from pathlib import Path

import codeq
import httpx
from server_process import DEV_TOKEN, ServerProcess

SECONDS_MAX = 60
ENV = {"QUEUES_PER_TENANT_MAX": "2", "QUEUE_IDLE_SECONDS": "1", "RETENTION_SECONDS": "1"}


def create(server: ServerProcess, command: str) -> tuple[int, dict[str, object]]:
    """Creates a task over REST; returns status and body."""
    headers = {"Authorization": f"Bearer {DEV_TOKEN}"}
    answer = httpx.post(
        f"{server.http_url}/v1/codeq/tasks", headers=headers, json={"command": command, "payload": 1}, timeout=30
    )
    return answer.status_code, answer.json()


def test_queue_beyond_the_tenants_limit_is_rejected_until_another_is_removed(tmp_path: Path) -> None:
    with (
        ServerProcess(tmp_path, env=ENV) as server,
        codeq.Client(server.producer_addr, token=DEV_TOKEN) as client,
    ):
        assert create(server, "stays")[0] == 202
        assert create(server, "goes")[0] == 202
        status, body = create(server, "comes")
        assert (status, body["reason"]) == (429, "TOO_MANY_QUEUES")
        assert "queuesPerTenantMax" in str(body["error"])
        (task,) = client.claim(["goes"])
        client.complete(task)
        deadline = time.monotonic() + SECONDS_MAX
        while create(server, "comes")[0] != 202:
            assert time.monotonic() < deadline, "the unused queue never left"
        assert [queue.command for queue in client.queues()[0]] == ["comes", "stays"]
        server.kill()
        server.start()
        assert [queue.command for queue in client.queues()[0]] == ["comes", "stays"]
