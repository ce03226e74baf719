"""The runbook of full disks."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from runbook import Runbook
from server_process import DEV_TOKEN, ServerProcess
from small_disk import fill

pytestmark = [pytest.mark.host, pytest.mark.timeout(120)]


PAYLOAD = "x" * 100_000


def create(server: ServerProcess) -> int:
    """Creates a task and returns the status of the reply."""
    headers = {"Authorization": f"Bearer {DEV_TOKEN}"}
    body = {"command": "ORDER", "payload": PAYLOAD}
    return httpx.post(f"{server.http_url}/v1/codeq/tasks", json=body, headers=headers).status_code


def test_full_disk_is_freed_as_the_runbook_says(tmp_path: Path, disk: Path) -> None:
    env = {"DISK_RESERVE_BYTES": "0", "BACKUP_DIR": str(disk / "backups")}
    with ServerProcess(tmp_path / "server", store=disk / "store", env=env, apart=False) as server:
        assert create(server) == 202
        old = disk / "backups" / "old"
        old.mkdir(parents=True)
        fill(disk, 1 << 20).rename(old / "rows")
        while server.is_running:
            try:
                create(server)
            except httpx.TransportError:
                assert server.wait() == 1
        variables = {"CODEQ_ENDPOINT": server.http_url, "CODEQ_TOKEN": DEV_TOKEN}
        replaced = {"/var/lib/codeq": str(disk), "http://localhost:8080": server.http_url}
        with Runbook("runbooks/full-disk", tmp_path / "shell", replaced, variables) as runbook:
            assert str(disk) in runbook.run()
            runbook.run()
            server.start()
            runbook.run()
            assert "ORDER" in runbook.run()
        assert create(server) == 202
        assert server.stop() == 0
