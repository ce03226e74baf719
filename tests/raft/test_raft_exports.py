"""Snapshots: what is left when making one fails or is cancelled."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path

import pytest
from codeq_server.replication.raft.disk_identity import GROUP, founder_rows, prepare
from codeq_server.replication.raft.exports import SnapshotMaker
from codeq_server.replication.raft.log_rows import GroupKeys
from codeq_server.storage.errors import StoreError
from codeq_server.storage.rocks import RocksStore
from members_net import Cluster


async def test_cancelled_snapshot_leaves_no_files_and_lets_the_store_close(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "a", fsync=True, log=True)
    for first in range(0, 30_000, 1000):
        store.write({b"t%d" % number: os.urandom(1000) for number in range(first, first + 1000)})
    maker = SnapshotMaker(store, GroupKeys(GROUP), tmp_path / "snapshots")
    flushing = threading.Event()

    def checkpoint(path: Path) -> None:
        flushing.set()
        RocksStore.checkpoint(store, path)

    store.checkpoint = checkpoint  # type: ignore[method-assign]
    making = asyncio.ensure_future(maker.make())
    assert await asyncio.to_thread(flushing.wait, 10)
    making.cancel()
    await asyncio.wait([making])
    store.close()  # refused while RocksDB flushes its memory
    assert list((tmp_path / "snapshots").iterdir()) == []


async def test_member_that_fails_to_make_a_snapshot_leaves_no_files_and_retries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codeq_server.replication.raft.member.RETRY_SECONDS", 0.01)
    async with Cluster(tmp_path) as cluster:
        folder, held = tmp_path / "a-snapshots", cluster.nodes["a"].maker._folder
        assert folder == held
        folder.write_text("in the way")
        tried: list[BaseException] = []
        make = cluster.nodes["a"].maker.make

        async def make_and_note() -> object:
            try:
                return await make()
            except StoreError as problem:
                tried.append(problem)
                raise

        monkeypatch.setattr(cluster.nodes["a"].maker, "make", make_and_note)
        await cluster.until(lambda: len(tried) > 1)
        folder.unlink()
        await cluster.voters(3)


async def test_snapshot_process_has_neither_the_servers_folder_nor_its_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for name in ("json", "hashlib", "codeq_server", "sitecustomize"):
        (work / f"{name}.py").write_text("raise SystemExit('a file of the working folder was run')")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nenv > "{tmp_path}/env"\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o700)
    store = RocksStore(tmp_path / "a", fsync=True, log=True)
    row = prepare(store, 7, "a")
    store.write({b"t": b"x"} | founder_rows(row, bytes(16), "a", {"a": "a:7000"}, 0))
    monkeypatch.chdir(work)
    monkeypatch.setenv("PRODUCER_AUTH_CONFIG", "secret")
    monkeypatch.setenv("RAFT_CLUSTER_SECRET", "secret")
    monkeypatch.setattr("sys.executable", str(python))
    made = await SnapshotMaker(store, GroupKeys(GROUP), tmp_path / "snapshots").make()
    assert (made.folder / "manifest.json").is_file()
    environment = (tmp_path / "env").read_text()
    assert "PATH=" in environment
    assert "secret" not in environment
    store.close()


async def test_failed_export_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RocksStore(tmp_path / "a", fsync=True, log=True)
    store.write({b"t": b"x"})
    maker = SnapshotMaker(store, GroupKeys(GROUP), tmp_path / "snapshots")
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(StoreError, match="could not make a snapshot"):
        await maker.make()
    monkeypatch.setattr("sys.executable", str(tmp_path / "missing"))
    with pytest.raises(StoreError, match="could not make a snapshot"):
        await maker.make()
    assert list((tmp_path / "snapshots").iterdir()) == []
    store.close()
