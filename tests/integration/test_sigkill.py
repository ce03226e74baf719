"""A server is killed under load 30 times: nothing acknowledged is lost, nothing is completed twice."""

from __future__ import annotations

import asyncio
import random
from contextlib import closing
from pathlib import Path

import codeq
import pytest
from acknowledged_load import Ledger, drain, load, produce
from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys
from codeq_server.storage.check import check_store
from codeq_server.storage.reading import stored_rows
from server_process import DEV_TOKEN, LOOPBACK, ServerProcess, reserved_port

ROUNDS = 30
CANCELLED = 60
HASTE_SECONDS = 0.05


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


async def test_load_ends_when_it_is_cancelled_while_its_creates_fail() -> None:
    with closing(reserved_port()) as port:
        address = f"{LOOPBACK}:{port.getsockname()[1]}"
        for number in range(CANCELLED):
            busy = asyncio.create_task(produce(address, Ledger(), HASTE_SECONDS))
            await asyncio.sleep(HASTE_SECONDS * (0.9 + 0.5 * number / CANCELLED))  # any moment around the failure
            busy.cancel()
            assert (await asyncio.wait([busy], timeout=20))[0]
