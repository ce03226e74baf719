"""A small disk that fills up: creates are rejected in time, and a failed write loses nothing acknowledged."""

from __future__ import annotations

import asyncio
from pathlib import Path

import codeq
import httpx
import pytest
from acknowledged_load import Ledger, drain, load, missing
from codeq_server.storage.check import check_store
from server_process import ServerProcess
from small_disk import fill

pytestmark = [pytest.mark.host, pytest.mark.timeout(300)]

RESERVE = {"DISK_RESERVE_BYTES": str(64 << 20)}
NONE = {"DISK_RESERVE_BYTES": "0"}
LEFT_BYTES = 2 << 20


def says_full(server: ServerProcess) -> bool:
    full = httpx.get(f"{server.http_url}/readyz").json()["storageFull"]
    assert isinstance(full, bool)
    return full


async def until_full(server: ServerProcess, full: bool) -> None:
    async with asyncio.timeout(20):
        while says_full(server) is not full:  # noqa: ASYNC110 - the server tells nobody by itself
            await asyncio.sleep(0.05)


async def test_nearly_full_disk_rejects_creates_until_space_is_freed(tmp_path: Path, disk: Path) -> None:
    ledger = Ledger()
    with ServerProcess(tmp_path / "server", store=disk / "store", env=RESERVE) as server:
        busy = asyncio.create_task(load(server, ledger))
        await ledger.progress.wait()
        ballast = fill(disk, 32 << 20)
        await until_full(server, True)
        with pytest.raises(BaseExceptionGroup) as refused:
            await busy
        assert refused.group_contains(codeq.StorageFull)
        await drain(server, ledger)
        ballast.unlink()
        await until_full(server, False)
        before = len(ledger.created)
        busy = asyncio.create_task(load(server, ledger))
        async with asyncio.timeout(20):
            while len(ledger.created) == before:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)
        assert await missing(server, ledger) == []
        assert server.stop() == 0


async def test_full_disk_ends_the_server_and_loses_nothing_acknowledged(tmp_path: Path, disk: Path) -> None:
    ledger = Ledger(20_000)
    with ServerProcess(tmp_path / "server", store=disk / "store", env=NONE) as server:
        busy = asyncio.create_task(load(server, ledger))
        await ledger.progress.wait()
        ballast = fill(disk, LEFT_BYTES)
        assert await asyncio.to_thread(server.wait) == 1
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)
        ballast.unlink()
        assert check_store(server.store)[0] == []
        server.start()
        assert await missing(server, ledger) == []
        await drain(server, ledger)
        assert server.stop() == 0
