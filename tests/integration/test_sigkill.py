"""A server is killed under load 30 times: nothing acknowledged is lost, nothing is completed twice."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import codeq
import pytest
from acknowledged_load import Ledger, drain, load
from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys
from codeq_server.storage.check import check_store
from codeq_server.storage.reading import stored_rows
from server_process import DEV_TOKEN, ServerProcess

ROUNDS = 30


def check(store: Path) -> None:
    """Runs the offline checker over a store that no server has open."""
    differences, _ = check_store(store)
    assert list(differences) == []


@pytest.mark.timeout(400)
async def test_sigkill_under_load_loses_nothing_acknowledged(tmp_path: Path) -> None:
    ledger = Ledger()
    chance = random.Random(1)
    with ServerProcess(tmp_path / "server") as server:
        busy = asyncio.create_task(load(server, ledger))
        for _ in range(ROUNDS):
            ledger.progress.clear()
            await asyncio.wait_for(ledger.progress.wait(), 30)
            await asyncio.sleep(chance.uniform(0, 0.4))  # the kill may come at any moment of the load
            server.kill()
            await asyncio.to_thread(check, server.store)
            await asyncio.to_thread(server.start)
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)
        await drain(server, ledger)
        async with codeq.AsyncClient(server.producer_addr, token=DEV_TOKEN) as client:
            for task_id in ledger.created | ledger.completed:
                assert (await client.get(task_id)).status == "COMPLETED"
        assert server.stop() == 0
        check(server.store)
        queue = next(
            rows_pb2.QueueRow.FromString(value)
            for key, value in stored_rows(server.store)
            if key.startswith(keys.queue_key(1))
        )
    assert ledger.completed_twice == set()
    assert len(ledger.created) > ROUNDS
    assert queue.completed_total == queue.created_total >= len(ledger.created)
