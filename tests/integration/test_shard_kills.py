"""Owners of shards are killed under load: nothing acknowledged is lost, and nothing is completed twice.

`SHARD_KILLS=300` makes so many kills of each kind instead of a few.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from acknowledged_load import Ledger, drain, load, missing
from codeq_server.storage.check import check_store
from codeq_server.storage.layout import shard_path
from server_process import ServerProcess
from shard_processes_of import ENV, SHARDS, processes, served, until
from static_cluster import served as seen
from static_cluster import static_cluster

ROUNDS = int(os.environ.get("SHARD_KILLS", "3"))
SECONDS_PER_ROUND = 20
CALLERS = 4
"""So few that each acknowledged task of many rounds can be looked up at the end."""

pytestmark = pytest.mark.timeout(340 + ROUNDS * SECONDS_PER_ROUND)


async def killed_under_load(server: ServerProcess, kill: Callable[[int], None], stores: Sequence[Path]) -> None:
    """Kills an owner again and again while a client works on one server, and then compares the ledger with the server.

    Args:
        server: The server that the client uses.
        kill: Kills an owner, and returns once all serve again.
        stores: Stores of the owners, which are checked once the server has stopped.
    """
    ledger, chance = Ledger(), random.Random(1)
    busy = asyncio.create_task(load(server, ledger, CALLERS))
    for number in range(ROUNDS):
        ledger.progress.clear()
        await asyncio.wait_for(ledger.progress.wait(), 60)
        await asyncio.sleep(chance.uniform(0, 0.4))  # the kill may come at any moment of the load
        await asyncio.to_thread(kill, number)
    busy.cancel()
    await asyncio.gather(busy, return_exceptions=True)
    await drain(server, ledger)
    assert await missing(server, ledger) == []
    assert await asyncio.to_thread(server.stop) == 0
    for store in stores:
        assert list(check_store(store)[0]) == []
    assert ledger.completed_twice == set()
    assert len(ledger.created) > ROUNDS
    print(f"{ROUNDS} kills, {len(ledger.created)} creates and {len(ledger.completed)} completions acknowledged")


async def test_killed_processes_under_load_lose_nothing_acknowledged(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server", env=ENV) as server:

        def kill(number: int) -> None:
            victim = processes(server)[number % SHARDS]
            os.kill(victim, signal.SIGKILL)
            until(lambda: victim not in processes(server).values())
            until(lambda: len(processes(server)) == SHARDS and served(server))

        await killed_under_load(server, kill, [shard_path(server.store, shard) for shard in range(SHARDS)])


async def test_killed_nodes_of_a_static_cluster_under_load_lose_nothing_acknowledged(tmp_path: Path) -> None:
    with static_cluster(tmp_path) as nodes:

        def kill(number: int) -> None:
            nodes[number % len(nodes)].restart()
            until(lambda: all(seen(node) == {"served"} for node in nodes))

        await killed_under_load(nodes[0], kill, [])
        for node in nodes[1:]:
            assert await asyncio.to_thread(node.stop) == 0
        for node in nodes:
            assert list(check_store(node.store)[0]) == []
