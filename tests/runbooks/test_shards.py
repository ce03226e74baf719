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
            told = json.loads(runbook.run())
            assert {path.stat().st_uid for path in root.iterdir()} == {root.stat().st_uid}
            server.env["PERSISTENCE_CONFIG"] = json.dumps({"numShards": 4})
            server.start()
            until(lambda: call(server, "GET", "/server").json()["numShards"] == 4)
            assert "ORDER" in runbook.run()
            assert all(has(server, task_id) for task_id in (kept, *waiting))
            assert call(server, "GET", f"/tasks/{kept}/artifacts/a").content == b"abc"
            later = created(server)
            assert server.stop() == 0
            removal = runbook.left.pop(0)
            runbook.run()
            server.env["PERSISTENCE_CONFIG"] = "{}"
            server.start()
            assert all(has(server, task_id) for task_id in (kept, *waiting))
            assert not has(server, later)
            assert server.stop() == 0
            (root / "store").rename(told["before"])
            runbook.left.append(removal)
            runbook.run()
            assert not Path(told["before"]).exists()
            assert [Path(each).exists() for each in told["artifacts_before"]] == [False]
            assert not (root / "resharded.json").exists()
