"""Operators and viewers on a configured server: who may back up, which warnings appear, and how tenants are named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import codeq
from documented import ENVIRONMENT
from server_process import DEV_TOKEN, ServerProcess
from test_bad_input import WORKER_SCOPES, call, refused, static

NEEDS_OPERATOR = "changes of members and backups need the scope codeq:operator"


ADMINISTRATOR = {"raw": {"tenantId": "acme", "role": "ADMIN"}}
VIEWER = {"raw": {"tenantId": "acme"}, "scopes": ["codeq:viewer"]}
OPERATOR = {"raw": {}, "subject": "The operator", "scopes": ["codeq:operator"]}


def server(folder: Path, producer: dict[str, Any], tenant_of_worker: str = "acme") -> ServerProcess:
    """Returns a server with a producer and a worker."""
    env = {
        **ENVIRONMENT,
        "PRODUCER_AUTH_CONFIG": static("producer", "acme", **producer),
        "WORKER_AUTH_CONFIG": static("worker", tenant_of_worker, scopes=WORKER_SCOPES, eventTypes=["*"]),
        "BACKUP_DIR": str(folder / "backups"),
    }
    del env["PERSISTENCE_CONFIG"]
    (folder / "backups").mkdir(parents=True)
    return ServerProcess(folder, env=env, dev=False)


def test_administrator_of_the_only_tenant_still_backs_up_and_startup_warns_once(tmp_path: Path) -> None:
    with server(tmp_path, ADMINISTRATOR) as running:
        assert call(running, "POST", "/admin/backup", "producer", json={"name": "one"}).status_code == 200
        refused(call(running, "POST", "/admin/backup", "worker", json={"name": "two"}), 403, "WRONG_TOKEN_KIND")
        refused(call(running, "GET", "/admin/queues?tenant=zebra", "producer"), 403, "NOT_OPERATOR")
        assert running.log.count(NEEDS_OPERATOR) == 1


def test_administrator_beside_another_tenant_does_not_back_up(tmp_path: Path) -> None:
    with server(tmp_path, ADMINISTRATOR, tenant_of_worker="zebra") as running:
        refused(call(running, "POST", "/admin/backup", "producer", json={"name": "one"}), 403, "NOT_OPERATOR")
        assert NEEDS_OPERATOR not in running.log


def test_operator_without_a_tenant_runs_the_server_and_any_tenants_queues(tmp_path: Path) -> None:
    with server(tmp_path, OPERATOR) as running:
        assert call(running, "POST", "/admin/backup", "producer", json={"name": "one"}).status_code == 200
        assert call(running, "POST", "/admin/queues/A/pause?tenant=acme", "producer", json={}).json()["paused"]
        refused(call(running, "POST", "/admin/queues/A/pause", "producer", json={}), 400, "INVALID_FIELD")
        refused(call(running, "POST", "/tasks", "producer", json={"command": "A"}), 403, "INVALID_TENANT")
        assert "codeq:operator" not in running.log


def test_viewer_reads_queues_and_changes_nothing(tmp_path: Path) -> None:
    with server(tmp_path, VIEWER) as running:
        refused(call(running, "POST", "/tasks", "producer", json={"command": "A"}), 403, "NOT_ALLOWED")
        refused(call(running, "POST", "/admin/queues/A/pause", "producer", json={}), 403, "NOT_ADMIN")
        assert call(running, "GET", "/admin/queues", "producer").json()["queues"] == []


def test_token_of_development_is_an_operators_in_the_command_line_and_the_sdk(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    with ServerProcess(tmp_path, env={"BACKUP_DIR": str(folder)}) as running:
        command = [sys.executable, "-m", "codeq_cli.main", "--endpoint", running.http_url, "--token", DEV_TOKEN]
        paused = [*command, "-o", "json", "queue", "pause", "BILL", "--tenant", "zebra"]
        done = subprocess.run(paused, env=running.env, capture_output=True, check=False)
        assert (done.returncode, json.loads(done.stdout or b"{}").get("paused")) == (0, True), done.stderr
        with codeq.Client(running.producer_addr, token=DEV_TOKEN) as client:
            assert client.queues() == ([], "")
            assert [queue.command for queue in client.queues(tenant="zebra")[0]] == ["BILL"]
            assert not client.resume_queue("BILL", tenant="zebra").paused
            assert client.back_up("one").name == "one"
        assert NEEDS_OPERATOR not in running.log
