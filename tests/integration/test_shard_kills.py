"""Processes of shards are killed under load: nothing acknowledged is lost, and nothing is completed twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest
from acknowledged_load import Ledger, drain, load, missing
from codeq_server.storage.check import check_store
from codeq_server.storage.layout import shard_path
from server_process import ServerProcess
from shard_processes_of import ENV, SHARDS, processes, served, until

ROUNDS = 3


@pytest.mark.timeout(400)
async def test_killed_processes_under_load_lose_nothing_acknowledged(tmp_path: Path) -> None:
    ledger = Ledger()
    chance = random.Random(1)
    with ServerProcess(tmp_path / "server", env=ENV) as server:
        busy = asyncio.create_task(load(server, ledger))
        for number in range(ROUNDS):
            ledger.progress.clear()
            await asyncio.wait_for(ledger.progress.wait(), 60)
            await asyncio.sleep(chance.uniform(0, 0.4))  # the kill may come at any moment of the load
            victim = (await asyncio.to_thread(processes, server))[number % SHARDS]
            os.kill(victim, signal.SIGKILL)
            await asyncio.to_thread(until, lambda victim=victim: victim not in processes(server).values())
            await asyncio.to_thread(until, lambda: len(processes(server)) == SHARDS and served(server))
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)
        await drain(server, ledger)
        assert await missing(server, ledger) == []
        assert await asyncio.to_thread(server.stop) == 0
        for shard in range(SHARDS):
            assert list(check_store(shard_path(server.store, shard))[0]) == []
    assert ledger.completed_twice == set()
    assert len(ledger.created) > ROUNDS
