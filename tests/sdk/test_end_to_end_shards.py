"""Workers and producers against a real server with several shards."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import codeq
import psutil
import pytest
from codeq import worker_streams
from codeq_server.core.ids import shard_of
from server_process import DEV_TOKEN, ServerProcess
from shard_processes_of import ENV, SHARDS, processes
from waiting import eventually
from worker_runs import running

COMMAND = "sdk-shards"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "server", env=ENV) as server:
        yield server


def have_workers(server: ServerProcess) -> bool:
    """Whether the process of each shard has a connection of a worker."""
    port = int(server.worker_addr.rpartition(":")[2])
    connections = [psutil.Process(pid).net_connections("tcp") for pid in processes(server).values()]
    open_ones = [[each for each in some if each.status == psutil.CONN_ESTABLISHED] for some in connections]
    return all(any(each.laddr.port == port for each in some) for some in open_ones)


async def test_worker_has_a_stream_to_each_process_and_goes_on_after_the_end_of_one(server: ServerProcess) -> None:
    done: list[str] = []
    worker = codeq.AsyncWorker(server.worker_addr, token=DEV_TOKEN, concurrency=4 * SHARDS)
    async with (
        codeq.AsyncProducer(server.producer_addr, token=DEV_TOKEN, request_keys=True) as producer,
        codeq.AsyncClient(server.producer_addr, token=DEV_TOKEN) as client,
        running(worker, lambda task: done.append(task.id), COMMAND),
    ):
        await eventually(lambda: have_workers(server), 60)
        workers, _ = await client.workers()
        assert sorted(each.credits for each in workers) == [4] * SHARDS
        created = await asyncio.gather(*(producer.create(COMMAND, number) for number in range(200)))
        await eventually(lambda: worker.stats.settled == 200, 60)
        psutil.Process(processes(server)[1]).kill()
        created += await asyncio.gather(*(producer.create(COMMAND, number) for number in range(200)))
        await eventually(lambda: set(created) <= set(done), 60)
        await eventually(lambda: have_workers(server), 60)
    assert (worker.stats.settled, worker.stats.lost) == (400, 0)


async def test_producer_fills_all_shards(server: ServerProcess) -> None:
    async with codeq.AsyncProducer(server.producer_addr, token=DEV_TOKEN) as producer:
        shards: set[int] = set()
        async with asyncio.timeout(60):
            while len(shards) < SHARDS:
                shards.add(shard_of(await producer.create(COMMAND), SHARDS))


async def test_task_that_runs_while_the_number_of_shards_is_changed_ends_once(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_streams, "REPLACE_SECONDS_MIN", 0.0)
    runs: list[str] = []
    may_end = asyncio.Event()

    async def handle(task: codeq.Task) -> None:
        runs.append(task.id)
        await may_end.wait()

    worker = codeq.AsyncWorker(server.worker_addr, token=DEV_TOKEN, concurrency=4 * SHARDS, lease_seconds=600)
    async with running(worker, handle, COMMAND), codeq.AsyncClient(server.producer_addr, token=DEV_TOKEN) as client:
        tasks = [(await client.create(COMMAND, number)).id for number in range(2 * SHARDS)]
        await eventually(lambda: len(runs) == len(tasks), 60)
        assert await asyncio.to_thread(server.stop) == 0
        command = [sys.executable, "-m", "codeq_cli.main", "store", "reshard", str(server.store), "--to", "2"]
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
        server.env["PERSISTENCE_CONFIG"] = json.dumps({"numShards": 2})
        await asyncio.to_thread(server.start)
        await eventually(lambda: worker.stats.streams > 1, 60)
        may_end.set()
        await eventually(lambda: worker.stats.settled == len(tasks), 60)
        tasks += [(await client.create(COMMAND, number)).id for number in range(20)]
        await eventually(lambda: worker.stats.settled == len(tasks), 60)
        assert sorted(runs) == sorted(tasks)
        async with asyncio.timeout(60):
            while [each.credits for each in (await client.workers())[0]] != [2 * SHARDS] * 2:
                pass
