"""All files of servers, members and offline commands are private, regardless of umask and existing modes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import codeq
import httpx
from cluster_process import ClusterProcess
from server_process import DEV_TOKEN, ServerProcess

OPEN = ("sh", "-c", 'umask 022; exec "$@"', "sh")
"""Command prefix of a process whose files are by default readable by everybody."""


def readable(*tops: Path) -> list[str]:
    """Returns the paths that users other than the owner may read, write or enter."""
    found = []
    for top in tops:
        for path in (top, *top.rglob("*")):
            mode = path.lstat().st_mode
            if not stat.S_ISLNK(mode) and stat.S_IMODE(mode) & 0o077:
                found.append(f"{path} {oct(mode)}")
    return found


def open_up(top: Path) -> None:
    """Grants everybody full access, as an older version or an operator might have done."""
    for path in (top, *top.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def end_with_file(server: ServerProcess) -> None:
    with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        client.create("FILED")
        [task] = client.claim(["FILED"])
        client.submit(task, codeq.Completed(1, [codeq.NewArtifact("a", b"secret")]))


def test_store_artifacts_backups_and_ready_file_are_private(tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    backups.chmod(0o755)  # the operator's folder: it keeps its mode, but the files in it are private
    server = ServerProcess(tmp_path / "server", env={"BACKUP_DIR": str(backups)}, prefix=OPEN, apart=False)
    artifacts = server.store.parent / "artifacts"
    server.store.mkdir()
    open_up(server.store)
    with server:
        end_with_file(server)
        assert server.stop() == 0
        [installation] = artifacts.iterdir()
        open_up(server.store)
        installation.chmod(0o755)
        server.start()
        end_with_file(server)
        headers = {"Authorization": f"Bearer {DEV_TOKEN}"}
        answer = httpx.post(f"{server.http_url}/v1/codeq/admin/backup", json={"name": "b"}, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        assert readable(server.store, artifacts, backups / "b", server.ready_path) == []
        assert server.stop() == 0
    assert readable(server.store) == []
    assert stat.S_IMODE(backups.stat().st_mode) == 0o755

    open_up(backups / "b")
    restored = tmp_path / "restored"
    command = [*OPEN, sys.executable, "-m", "codeq_cli.main", "store"]
    subprocess.run([*command, "restore", backups / "b", restored / "store"], check=True, env=dict(os.environ))
    subprocess.run([*command, "backup", restored / "store", tmp_path / "again"], check=True, env=dict(os.environ))
    assert readable(restored, tmp_path / "again") == []


def test_member_folders_are_private(tmp_path: Path) -> None:
    with ClusterProcess(tmp_path, 1, place=lambda _: {"prefix": OPEN}) as cluster:
        [node] = cluster.nodes.values()
        assert node.stop() == 0
        assert readable(*node.store.parent.glob("store*")) == []


def test_folder_that_is_not_a_store_keeps_its_mode(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "somebody.txt").write_text("theirs")
    (folder / "somebody.txt").chmod(0o644)
    with ServerProcess(tmp_path / "server", store=folder, prefix=OPEN, apart=False) as server:
        assert server.stop() == 0
    assert stat.S_IMODE((folder / "somebody.txt").stat().st_mode) == 0o644
    assert [line for line in readable(folder) if "somebody" not in line] == [f"{folder} 0o40755"]
