"""The runbook of backups."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from runbook import Runbook
from served import call, created, has, of_server
from server_process import ServerProcess

pytestmark = pytest.mark.timeout(180)

NOBODY = 65534


def test_backups_are_made_copied_and_restored(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "codeq", tmp_path / "elsewhere"
    elsewhere.mkdir()
    root.mkdir()
    if os.geteuid() == 0:
        os.chown(root, NOBODY, NOBODY)
    backups, artifacts = root / "backups", tmp_path / "artifacts"
    replaced = {
        "/var/lib/codeq": str(root),
        "/var/lib/codeq/artifacts": str(artifacts),
        "/mnt/elsewhere": str(elsewhere),
    }
    env = {"BACKUP_DIR": str(backups), "LOCAL_ARTIFACTS_DIR": str(artifacts)}
    with ServerProcess(tmp_path / "server", store=root / "store", env=env, apart=False) as server:
        kept = created(server)
        assert call(server, "POST", "/tasks/claim", {"commands": ["ORDER"]}).json()["id"] == kept
        done = {"status": "COMPLETED", "artifacts": [{"name": "a", "contentBase64": "YWJj"}]}
        assert call(server, "POST", f"/tasks/{kept}/result", done).status_code == 200
        with Runbook("runbooks/back-up-and-restore", tmp_path / "shell", replaced, of_server(server)) as runbook:
            runbook.run()
            runbook.run()
            (made,) = [path.name for path in backups.iterdir()]
            archive = elsewhere / f"{made}.tar.gz"
            assert archive.stat().st_mode & 0o777 == 0o600
            old = backups / "20200101-000000"
            old.mkdir()
            os.utime(old, (time.time() - 3 * 86400,) * 2)
            runbook.run()
            assert [path.name for path in backups.iterdir()] == [made]
            later = created(server)
            assert server.stop() == 0
            runbook.run()
            assert {path.stat().st_uid for path in (root / "store").iterdir()} == {root.stat().st_uid}
            server.start()
            assert call(server, "GET", f"/tasks/{kept}/artifacts/a").content == b"abc"
            assert not has(server, later)
            assert "ORDER" in runbook.run()
        assert server.stop() == 0
