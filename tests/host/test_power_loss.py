"""The power fails under load: unsynced data is lost, but everything acknowledged is there."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from acknowledged_load import Ledger, drain, load, missing
from codeq_server.storage.check import check_store
from power_loss import Disk, build
from server_process import ServerProcess

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]

ROUNDS = 6
CREATED_IN_ROUND = 300
PAYLOAD_CHARS = 30_000
"""Payload size at which some rounds fill a buffer of the store, so that the store flushes and rotates its log under
load."""


async def busy_until_killed(server: ServerProcess, ledger: Ledger, seconds: float) -> None:
    """Loads a server, and kills it at a random moment."""
    enough = len(ledger.created) + CREATED_IN_ROUND
    busy = asyncio.create_task(load(server, ledger))
    async with asyncio.timeout(120):
        while len(ledger.created) < enough:
            ledger.progress.clear()
            await ledger.progress.wait()
        await asyncio.sleep(seconds)  # the power may fail at any moment of the load
    server.kill()
    busy.cancel()
    await asyncio.gather(busy, return_exceptions=True)


async def test_power_loss_under_load_keeps_everything_acknowledged(tmp_path: Path) -> None:
    ledger = Ledger(PAYLOAD_CHARS)
    chance = random.Random(4)
    disk = Disk(tmp_path / "0", build(tmp_path))
    for number in range(1, ROUNDS + 1):
        with ServerProcess(disk.root.parent, store=disk.root / "store", env=disk.env) as server:
            assert await missing(server, ledger) == []
            await busy_until_killed(server, ledger, chance.uniform(0, 1.5))
        disk = disk.after_power_loss(tmp_path / str(number))
        differences, _ = await asyncio.to_thread(check_store, disk.root / "store")
        assert differences == []
    with ServerProcess(disk.root.parent, store=disk.root / "store", env=disk.env) as server:
        await drain(server, ledger)
        assert await missing(server, ledger) == []
    assert ledger.completed_twice == set()


async def test_power_loss_under_load_without_fsync_loses_acknowledged_tasks(tmp_path: Path) -> None:
    """Proves that the power loss test can fail: the same load and disk without syncs."""
    ledger = Ledger()
    disk = Disk(tmp_path / "0", build(tmp_path))
    with ServerProcess(disk.root.parent, store=disk.root / "store", env=disk.env, flags=["--no-fsync"]) as server:
        await busy_until_killed(server, ledger, 0)
    disk = disk.after_power_loss(tmp_path / "1")
    with ServerProcess(disk.root.parent, store=disk.root / "store", env=disk.env) as server:
        assert len(await missing(server, ledger)) >= CREATED_IN_ROUND


STEPS = """
import os, sys
from pathlib import Path
root = Path(sys.argv[1])
def sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
(root / "a").write_text("synced")
(root / "b").write_text("not synced, but its name is")
(root / "d").mkdir()
(root / "d" / "c").write_text("in a directory that was not synced")
sync(root / "a")
sync(root / "d" / "c")
sync(root)
with (root / "a").open("a") as file:
    file.write(" and more")
(root / "e").write_text("synced, but its name is not")
sync(root / "e")
(root / "a").rename(root / "f")
"""


def test_disk_keeps_only_synced_data(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "0", build(tmp_path))
    (disk.root / "old").write_text("there before")
    subprocess.run([sys.executable, "-c", STEPS, disk.root], env={**os.environ, **disk.env}, check=True)
    left = disk.after_power_loss(tmp_path / "1").root
    assert {path.relative_to(left).as_posix(): path.read_text() for path in left.rglob("*") if path.is_file()} == {
        "a": "synced",
        "b": "",
        "old": "there before",
    }
    assert list((left / "d").iterdir()) == []
