"""A store is backed up, changes, and is restored."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from codeq_server.storage.check import check_store
from codeq_server.storage.rocks import RocksStore
from server_process import DEV_TOKEN, ServerProcess

HEADERS = {"Authorization": f"Bearer {DEV_TOKEN}"}
MORE = 8


def post(server: ServerProcess, path: str, body: object) -> httpx.Response:
    return httpx.post(f"{server.http_url}/v1/codeq{path}", json=body, headers=HEADERS)


def get(server: ServerProcess, path: str) -> httpx.Response:
    return httpx.get(f"{server.http_url}/v1/codeq{path}", headers=HEADERS)


def create(server: ServerProcess, payload: int) -> str:
    task_id = post(server, "/tasks", {"command": "a", "payload": payload}).json()["id"]
    assert isinstance(task_id, str)
    return task_id


def claim(server: ServerProcess) -> dict[str, Any]:
    reply = post(server, "/tasks/claim", {"commands": ["a"]})
    assert reply.status_code == 200
    task: dict[str, Any] = reply.json()
    return task


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "codeq_cli.main", "store", *args]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_restored_store_never_reuses_ids_or_tokens(tmp_path: Path) -> None:
    """The server restarts so fast that the clock alone would not raise its epoch."""
    store, saved = tmp_path / "store", tmp_path / "backups" / "one"
    with ServerProcess(tmp_path / "first", store=store) as server:
        kept = create(server, 1)
        held = claim(server)
        assert held["id"] == kept
        waiting = create(server, 2)
        assert server.stop() == 0
        assert run("backup", store, saved).returncode == 0
        issued: set[str] = set()
        tokens: set[int] = {int(held["leaseToken"])}
        late: dict[str, Any] = {}
        for _ in range(2):
            server.start()
            issued.update(create(server, number) for number in range(MORE))
            for _ in range(MORE // 2):
                late = claim(server)
                tokens.add(int(late["leaseToken"]))
            assert server.stop() == 0
    restored = tmp_path / "restored"
    assert run("restore", saved, restored).returncode == 0
    assert check_store(restored)[0] == []
    with ServerProcess(tmp_path / "second", store=restored, flags=["--verify"]) as server:
        assert get(server, f"/tasks/{kept}").json()["status"] == "CLAIMED"
        assert get(server, f"/tasks/{waiting}").json()["status"] == "PENDING"
        again = {create(server, number) for number in range(2 * MORE)}
        assert not again & issued
        for task_id in issued:
            assert get(server, f"/tasks/{task_id}").status_code == 404
        fresh = [claim(server) for _ in range(MORE)]
        assert fresh[0]["id"] == waiting
        assert min(int(task["leaseToken"]) for task in fresh) > max(tokens)
        stale = {"status": "COMPLETED", "leaseToken": late["leaseToken"]}
        refused = post(server, f"/tasks/{waiting}/result", stale)
        assert (refused.status_code, refused.json()["reason"]) == (409, "STALE_LEASE_TOKEN")
        ended = post(server, f"/tasks/{kept}/result", {"status": "COMPLETED", "leaseToken": held["leaseToken"]})
        assert ended.status_code == 200
        assert server.stop() == 0


def test_backup_and_restore_never_overwrite_existing_files(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server") as server:
        create(server, 1)
        assert run("backup", server.store, tmp_path / "b").returncode == 2
        assert not (tmp_path / "b").exists()
        assert server.stop() == 0
        assert run("backup", server.store, tmp_path / "b").returncode == 0
        assert run("backup", server.store, tmp_path / "b").returncode == 2
        assert run("restore", tmp_path / "b", server.store).returncode == 2
        assert run("restore", tmp_path / "none", tmp_path / "c").returncode == 2
        assert run("backup", tmp_path / "none", tmp_path / "c").returncode == 2
        assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("flags", [[], ["--verify"]])
def test_verify_rejects_inconsistent_rows(tmp_path: Path, flags: list[str]) -> None:
    with ServerProcess(tmp_path / "server", flags=flags) as server:
        create(server, 1)
        assert server.stop() == 0
        store = RocksStore(server.store, fsync=True)
        store.write({b"?unknown": b"1"})
        store.close()
        server.spawn()
        if flags:
            assert server.wait() == 1
            assert "?" in server.log.splitlines()[-1]
            refused = run("restore", server.store, tmp_path / "copy")
            assert (refused.returncode, (tmp_path / "copy").exists()) == (2, False)
        else:
            server.kill()
            server.start()
