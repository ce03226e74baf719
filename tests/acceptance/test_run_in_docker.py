"""The guide "Run In Docker", its curl lines as printed, against a server with the guide's environment."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from documented import ENVIRONMENT, PARTS
from server_process import ServerProcess

GUIDE = f"set -eu\n{PARTS['tasks']}"
AGAIN = f"TASK_ID=$1\n{PARTS['status']}"

QUICK_START = r"""
set -eu
curl -s -X POST http://localhost:8080/v1/codeq/tasks \
-H 'Authorization: Bearer dev-token' \
-H 'Content-Type: application/json' \
-d '{"command":"GENERATE_MASTER","payload":{"jobId":"j-123"},"priority":3}' | jq -c .
curl -s -X POST http://localhost:8080/v1/codeq/tasks/claim \
-H 'Authorization: Bearer dev-token' \
-H 'Content-Type: application/json' \
-d '{"commands":["GENERATE_MASTER"],"leaseSeconds":120,"waitSeconds":10}' | tee claimed | jq -c .
curl -s -X POST http://localhost:8080/v1/codeq/tasks/$(jq -r .id claimed)/result \
-H 'Authorization: Bearer dev-token' \
-H 'Content-Type: application/json' \
-d '{"status":"COMPLETED","result":{"ok":true}}'
"""
"""The lines of the project page, with the guide's token."""


def run_guide(server: ServerProcess, script: str, *arguments: str) -> list[str]:
    """Runs lines of the guide against the server's own port; returns their output."""
    lines = script.replace("http://localhost:8080", server.http_url)
    done = subprocess.run(["bash", "-c", lines, "guide", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.fixture
def documented(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server with the guide's environment, on other ports and with another store."""
    store = tmp_path / "pebble"
    env = {**ENVIRONMENT, "PERSISTENCE_CONFIG": json.dumps({"path": str(store)})}
    with ServerProcess(tmp_path / "server", env=env, dev=False, store=store) as server:
        yield server


def test_guide_commands_complete_a_task(documented: ServerProcess) -> None:
    task_id, claimed, result, status = run_guide(documented, GUIDE)
    task = json.loads(claimed)
    assert (task["id"], task["status"], task["payload"], task["priority"]) == (task_id, "CLAIMED", {"orderId": "42"}, 5)
    assert (task["workerId"], task["tenantId"], task["attempts"]) == ("worker-dev", "dev-tenant", 1)
    assert json.loads(result)["result"] == {"ok": True}
    assert status == '"COMPLETED"'


def test_guide_task_stays_completed_after_a_stop_and_a_sigkill(documented: ServerProcess) -> None:
    task_id, *_ = run_guide(documented, GUIDE)
    assert documented.stop() == 0
    documented.start()
    assert run_guide(documented, AGAIN, task_id) == ['"COMPLETED"']
    documented.kill()
    documented.start()
    assert run_guide(documented, AGAIN, task_id) == ['"COMPLETED"']


def test_guide_metrics_command_needs_no_token(documented: ServerProcess) -> None:
    lines = run_guide(documented, PARTS["metrics"])
    assert any(line.startswith("# HELP") for line in lines)


def test_quick_start_commands_take_a_task_through_its_lifecycle(
    documented: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made, claimed, result = (json.loads(line) for line in run_guide(documented, QUICK_START))
    assert (made["status"], made["payload"], made["priority"]) == ("PENDING", {"jobId": "j-123"}, 3)
    assert (claimed["id"], claimed["status"], claimed["tenantId"]) == (made["id"], "CLAIMED", "dev-tenant")
    left = datetime.fromisoformat(claimed["leaseUntil"]) - datetime.fromisoformat(claimed["updatedAt"])
    assert abs(left.total_seconds() - 120) < 1
    assert (result["taskId"], result["status"], result["result"]) == (made["id"], "COMPLETED", {"ok": True})
