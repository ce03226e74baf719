"""The runbook of growing dead-letter queues."""

from __future__ import annotations

from pathlib import Path

import pytest
from runbook import Runbook
from served import call, of_server
from server_process import ServerProcess

pytestmark = pytest.mark.timeout(180)


def ended(server: ServerProcess, error: str) -> str:
    """Creates a task that goes to the dead-letter queue with an error, and returns its id."""
    body = {"command": "ORDER", "payload": 1, "maxAttempts": 1}
    task_id = str(call(server, "POST", "/tasks", body).json()["id"])
    assert call(server, "POST", "/tasks/claim", {"commands": ["ORDER"]}).json()["id"] == task_id
    assert call(server, "POST", f"/tasks/{task_id}/nack", {"reason": error}).status_code == 200
    assert status(server, task_id) == "DLQ"
    return task_id


def status(server: ServerProcess, task_id: str) -> str:
    """Returns the status of a task."""
    return str(call(server, "GET", f"/tasks/{task_id}").json()["status"])


def test_only_dead_letters_that_nobody_needs_are_dropped(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server", apart=False) as server:
        dropped, kept = [ended(server, "not needed") for _ in range(2)], ended(server, "no route")
        waiting = str(call(server, "POST", "/tasks", {"command": "ORDER", "payload": 1}).json()["id"])
        replaced = {"COMMAND": "ORDER"}
        with Runbook("runbooks/CodeqDLQGrowing", tmp_path / "shell", replaced, of_server(server)) as runbook:
            runbook.run()
            assert [status(server, each) for each in dropped] == ["CANCELLED", "CANCELLED"]
            assert (status(server, kept), status(server, waiting)) == ("DLQ", "PENDING")
            runbook.repeat()
        assert call(server, "POST", "/tasks/claim", {"commands": ["ORDER"]}).json()["id"] == waiting
        assert server.stop() == 0
