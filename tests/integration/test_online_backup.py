"""Backups of a running server."""

from __future__ import annotations

import asyncio
import copy
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import codeq
import httpx
import pytest
from acknowledged_load import COMMAND, Ledger, load, missing
from codeq_server.storage.check import check_store
from codeq_server.storage.scratch import MARK
from server_process import DEV_TOKEN, ServerProcess

ENOUGH = 500
FILES = "files"


def back_up(server: ServerProcess, name: object, token: str = DEV_TOKEN) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.post(f"{server.http_url}/v1/codeq/admin/backup", json={"name": name}, headers=headers, timeout=60)


def run(*args: str | Path, server: ServerProcess | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if server is not None:
        environment |= {"CODEQ_ENDPOINT": server.http_url, "CODEQ_TOKEN": DEV_TOKEN}
    command = [sys.executable, "-m", "codeq_cli.main", *args]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


async def end_with_files(server: ServerProcess, kept: dict[str, bytes]) -> None:
    """Ends tasks with an artifact each, until cancelled."""
    async with codeq.AsyncClient(server.producer_addr, token=DEV_TOKEN) as client:
        while True:
            await client.create(FILES)
            for task in await client.claim([FILES]):
                content = os.urandom(2000)
                await client.submit(task, codeq.Completed(1, [codeq.NewArtifact("a", content)]))
                kept[task.id] = content


async def until(enough: int, *ledgers: set[str] | dict[str, bytes]) -> None:
    async with asyncio.timeout(60):
        for ledger in ledgers:
            while True:
                if len(ledger) >= enough:
                    break
                await asyncio.sleep(0.02)


async def test_backup_under_load_has_everything_acknowledged_and_reuses_no_ids(tmp_path: Path) -> None:
    ledger, kept = Ledger(), dict[str, bytes]()
    backups = tmp_path / "backups"
    with ServerProcess(tmp_path / "first", env={"BACKUP_DIR": str(backups)}) as server:
        busy = [asyncio.create_task(load(server, ledger)), asyncio.create_task(end_with_files(server, kept))]
        await until(ENOUGH, ledger.created, ledger.completed)
        await until(10, kept)
        before, files = copy.copy(ledger), dict(kept)
        before.created, before.completed = set(ledger.created), set(ledger.completed)
        answer = await asyncio.to_thread(back_up, server, "one")
        assert answer.status_code == 200, answer.text
        assert answer.json()["artifacts"] >= len(files)
        await until(len(ledger.created) + ENOUGH, ledger.created)
        await until(len(kept) + 5, kept)
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        assert await asyncio.to_thread(back_up, server, "two")
        assert sorted(path.name for path in backups.iterdir()) == ["one", "two"]
        restored = tmp_path / "second" / "store"
        done = await asyncio.to_thread(run, "store", "restore", backups / "one", restored)
        assert done.returncode == 0, done.stderr
        assert check_store(restored)[0] == []
        # Beside the original server, which keeps running.
        with ServerProcess(tmp_path / "second", flags=["--verify"]) as other:
            assert await missing(other, before) == []
            async with codeq.AsyncClient(other.producer_addr, token=DEV_TOKEN) as client:
                for task_id, content in files.items():
                    assert (await client.artifact(task_id, "a")).content == content
                again = {(await client.create(COMMAND)).id for _ in range(50)}
            assert not again & ledger.created
        async with codeq.AsyncClient(server.producer_addr, token=DEV_TOKEN) as client:
            for task_id, content in kept.items():
                assert (await client.artifact(task_id, "a")).content == content


def test_backup_without_a_configured_folder_is_rejected(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server") as server:
        answer = back_up(server, "one")
        assert (answer.status_code, answer.json()["reason"]) == (409, "BACKUP_NOT_CONFIGURED")


def test_backup_names_stay_inside_the_folder_and_are_unique(tmp_path: Path) -> None:
    backups = tmp_path / "a" / "backups"
    with ServerProcess(tmp_path / "server", env={"BACKUP_DIR": str(backups)}) as server:
        for name in ("", "..", "../x", "a/b", "a.partial", "x" * 65, ".hidden"):
            answer = back_up(server, name)
            assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, "name"), name
        assert back_up(server, "one", "wrong").status_code == 401
        assert not backups.exists()
        (tmp_path / "a").mkdir()
        backups.mkdir()
        (backups / ".one.partial").mkdir()  # left by a server that was killed
        (backups / ".one.partial" / MARK).touch()
        (backups / ".one.partial" / "one").mkdir()
        done = run("-o", "json", "backup", "one", server=server)
        assert done.returncode == 0, done.stderr
        with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
            assert client.back_up("two").name == "two"
        refused = back_up(server, "one")
        assert (refused.status_code, refused.json()["reason"]) == (400, "INVALID_FIELD")
        assert sorted(path.name for path in backups.iterdir()) == ["one", "two"]


def test_backups_are_made_one_at_a_time(tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    env = {"BACKUP_DIR": str(backups)}
    with ServerProcess(tmp_path / "server", env=env) as server, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: back_up(server, f"b{number}"), range(8)))
        made = [number for number, answer in enumerate(answers) if answer.status_code == 200]
        assert made
        assert {answer.json()["reason"] for answer in answers if answer.status_code != 200} <= {"LIMIT_REACHED"}
        assert sorted(path.name for path in backups.iterdir()) == [f"b{number}" for number in made]
        assert server.stop() == 0
    assert all(check_store(path)[0] == [] for path in backups.iterdir())


@pytest.mark.parametrize("way", ["default", "named"])
def test_offline_backup_and_restore_include_artifacts(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "elsewhere"
    env = {"LOCAL_ARTIFACTS_DIR": str(folder)} if way == "named" else {}
    option = ["--artifacts", str(folder)] if way == "named" else []
    with ServerProcess(tmp_path / "first", env=env) as server:
        with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
            client.create(FILES)
            [task] = client.claim([FILES])
            client.submit(task, codeq.Completed(1, [codeq.NewArtifact("a", b"content")]))
        assert server.stop() == 0
        assert run("store", "backup", server.store, tmp_path / "saved", *option).returncode == 0
    restored = tmp_path / "second" / "store"
    assert run("store", "restore", tmp_path / "saved", restored, *option).returncode == 0
    with (
        ServerProcess(tmp_path / "second", env=env) as server,
        codeq.Client(server.producer_addr, token=DEV_TOKEN) as client,
    ):
        assert client.artifact(task.id, "a").content == b"content"
        with pytest.raises(codeq.BackupNotConfigured):
            client.back_up("one")
