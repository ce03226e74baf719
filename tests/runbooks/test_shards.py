"""The runbook of the number of shards."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from runbook import Runbook
from served import call, created, has, of_server
from server_process import ServerProcess
from shard_processes_of import until

pytestmark = pytest.mark.timeout(180)

NOBODY = 65534
PAGE = "runbooks/change-the-number-of-shards"


def test_number_of_shards_is_changed_and_changed_back(tmp_path: Path) -> None:
    root, artifacts = tmp_path / "codeq", tmp_path / "artifacts"
    root.mkdir()
    if os.geteuid() == 0:
        os.chown(root, NOBODY, NOBODY)
    replaced = {"/var/lib/codeq": str(root), "/var/lib/codeq/artifacts": str(artifacts)}
    env = {"LOCAL_ARTIFACTS_DIR": str(artifacts), "PERSISTENCE_CONFIG": "{}"}
    with ServerProcess(tmp_path / "server", store=root / "store", env=env, apart=False) as server:
        kept = created(server)
        assert call(server, "POST", "/tasks/claim", {"commands": ["ORDER"]}).json()["id"] == kept
        done = {"status": "COMPLETED", "artifacts": [{"name": "a", "contentBase64": "YWJj"}]}
        assert call(server, "POST", f"/tasks/{kept}/result", done).status_code == 200
        waiting = [created(server) for _ in range(8)]
        assert server.stop() == 0
        with Runbook(PAGE, tmp_path / "shell", replaced, of_server(server)) as runbook:
            change, look, removal, *going_back = runbook.left

            def run(*steps: str) -> str:
                runbook.left[:] = steps
                return [runbook.run() for _ in steps][-1]

            def start(shards: int) -> None:
                server.env["PERSISTENCE_CONFIG"] = json.dumps({"numShards": shards})
                server.start()
                until(lambda: call(server, "GET", "/server").json()["numShards"] == shards)
                assert all(has(server, task_id) for task_id in (kept, *waiting))
                assert call(server, "GET", f"/tasks/{kept}/artifacts/a").content == b"abc"

            run(change)
            assert {path.stat().st_uid for path in root.iterdir()} == {root.stat().st_uid}
            start(4)
            assert "ORDER" in run(look)
            later = created(server)
            assert server.stop() == 0
            run(going_back[0])
            start(1)
            assert not has(server, later)
            run(going_back[1])
            assert server.stop() == 0
            assert {path.name for path in root.iterdir()} == {"store"}
            assert len(list(artifacts.iterdir())) == 1
            run(change)
            told = json.loads((root / "resharded.json").read_text())
            start(4)
            run(removal)
            assert server.stop() == 0
            assert {path.name for path in root.iterdir()} == {"store"}
            assert {str(path) for path in artifacts.iterdir()} == set(told["artifacts"])
            start(4)
