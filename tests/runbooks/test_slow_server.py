"""The runbook of slow servers."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from runbook import DOCS, Runbook
from served import created, of_server
from server_process import LOOPBACK, ServerProcess

pytestmark = pytest.mark.timeout(180)

PAGE = "runbooks/slow-server"


def test_every_reading_exists_on_a_loaded_server(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((LOOPBACK, 0))
        debug = f"{LOOPBACK}:{held.getsockname()[1]}"
        env = {"CODEQ_PPROF": "true", "CODEQ_PPROF_ADDR": debug, "QUOTAS_WAITING_TASKS_MAX": "6"}
        with ServerProcess(tmp_path / "server", env=env, apart=False) as server:
            for _ in range(5):
                created(server)
            replaced = {
                "http://localhost:8080": server.http_url,
                "sleep 10": "codeq task create ORDER --payload 1 >&2 || true",
            }
            variables = of_server(server) | {"CODEQ_PPROF_ADDR": debug}
            with Runbook(PAGE, tmp_path / "shell", replaced, variables) as runbook:
                assert "ORDER" in runbook.run()
                readings = runbook.run()
                assert re.search(r"codeq_sync_seconds: [1-9]\d*, mean 0\.\d+ s", readings)
                assert re.search(r"codeq_commit_seconds: [1-9]\d*, mean 0\.\d+ s", readings)
                assert readings.endswith("codeq_storage_full 0.0\nno limit was met meanwhile\n")
                refused = runbook.repeat().partition("codeq_storage_full 0.0\n")[2]
                assert refused == 'codeq_quota_refusals_total{quota="waitingTasksMax"} 1.0\n'
                assert runbook.run().count("process_cpu_seconds_total ") >= 2
                assert (tmp_path / "shell" / "cpu.pb.gz").stat().st_size > 0
                assert "NO_WORKER" in runbook.run()
            read = set(re.findall(r"`(codeq_[a-z_]+)`", (DOCS / f"{PAGE}.md").read_text()))
            of_clusters = {name for name in read if name.startswith("codeq_raft_")}
            metrics = (tmp_path / "shell" / "after").read_text()
            assert [
                name for name in read - of_clusters if not re.search(rf"^{name}[ {{_]", metrics, re.MULTILINE)
            ] == []
            assert server.stop() == 0
