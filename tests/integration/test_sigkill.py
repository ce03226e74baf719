"""The server is killed under load, 30 times: nothing acknowledged is lost, nothing is completed twice."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import codeq
import grpc
import pytest
from codeq.v1 import task_pb2
from codeq.v1 import worker_service_pb2 as pb
from codeq.v1.worker_service_pb2_grpc import WorkerServiceStub
from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys
from codeq_server.storage.check import check_store
from codeq_server.storage.rocks import stored_rows
from server_process import DEV_TOKEN, ServerProcess

ROUNDS = 30
CALLERS = 32
COMMAND = "KILLED"
LEASE_SECONDS = 2
RECONNECT_SECONDS = 0.5
DRAIN_SECONDS_MAX = 60
AUTH = (("authorization", f"Bearer {DEV_TOKEN}"),)


class Ledger:
    """What clients were told: the truth that the server has to keep."""

    def __init__(self) -> None:
        self.created: set[str] = set()
        self.completed: set[str] = set()
        self.completed_twice: set[str] = set()
        self.progress = asyncio.Event()

    def note_completed(self, task_id: str) -> None:
        """Notes an acknowledged completion."""
        (self.completed_twice if task_id in self.completed else self.completed).add(task_id)
        self.progress.set()


async def produce(address: str, ledger: Ledger) -> None:
    """Creates one task after the other with the SDK; creates whose outcome stays unknown are not counted on.

    A broken stream gets a new producer, because the SDK's own waits longer each time a server keeps dying.
    """

    async def caller(producer: codeq.AsyncProducer) -> None:
        while True:
            payload = {"n": len(ledger.created)}
            ledger.created.add(await producer.create(COMMAND, payload, timeout_seconds=RECONNECT_SECONDS))

    while True:
        try:
            async with codeq.AsyncProducer(address, token=DEV_TOKEN) as producer, asyncio.TaskGroup() as group:
                for _ in range(CALLERS):
                    group.create_task(caller(producer))
        except* (codeq.OutcomeUnknown, codeq.DeadlineExceeded):
            pass  # what was not acknowledged is not counted on


async def work(address: str, ledger: Ledger) -> None:
    """Completes tasks over a bare stream, because the SDK does not tell which outcomes were acknowledged."""
    while True:
        sent: list[str] = []
        settled = 0
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                stream: Any = WorkerServiceStub(channel).Work(metadata=AUTH)
                hello = pb.WorkerHello(commands=[COMMAND], lease_seconds=LEASE_SECONDS)
                await stream.write(pb.WorkRequest(hello=hello, add_credits=256))
                while (message := await stream.read()) is not grpc.aio.EOF:
                    refused = {error.number for error in message.outcome_errors}
                    for number in range(settled + 1, settled + message.settled + 1):
                        if number not in refused:
                            ledger.note_completed(sent[number - 1])
                    settled += message.settled
                    if message.tasks:
                        outcomes = [
                            task_pb2.Outcome(
                                task_id=task.id,
                                lease_token=task.lease_token,
                                kind=task_pb2.OUTCOME_KIND_COMPLETED,
                                result=task.payload,
                            )
                            for task in message.tasks
                        ]
                        sent += [task.id for task in message.tasks]
                        await stream.write(pb.WorkRequest(outcomes=outcomes, add_credits=len(outcomes)))
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.02)  # the server is down: try again


async def load(server: ServerProcess, ledger: Ledger) -> None:
    """Keeps the server busy until it is cancelled."""
    async with asyncio.TaskGroup() as group:
        group.create_task(produce(server.producer_addr, ledger))
        group.create_task(work(server.worker_addr, ledger))


async def drain(server: ServerProcess, ledger: Ledger) -> None:
    """Works until the queue is empty, leases that ran out included."""
    worker = asyncio.create_task(work(server.worker_addr, ledger))
    async with codeq.AsyncClient(server.producer_addr, token=DEV_TOKEN) as client, asyncio.timeout(DRAIN_SECONDS_MAX):
        while True:
            queue = await client.queue(COMMAND)
            if queue.ready == queue.claimed == queue.scheduled == 0:
                break
            await asyncio.sleep(0.05)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


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
            await asyncio.sleep(chance.uniform(0, 0.4))  # the kill comes at any moment of the load
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
