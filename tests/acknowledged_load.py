"""Load over streams, with a ledger of the server's acknowledgements."""

from __future__ import annotations

import asyncio
from typing import Any

import codeq
import grpc
from codeq.v1 import task_pb2
from codeq.v1 import worker_service_pb2 as pb
from codeq.v1.worker_service_pb2_grpc import WorkerServiceStub
from server_process import DEV_TOKEN, ServerProcess

CALLERS = 32
COMMAND = "KILLED"
LEASE_SECONDS = 2
RECONNECT_SECONDS = 0.5
DRAIN_SECONDS_MAX = 60
READS_TOGETHER = 64
AUTH = (("authorization", f"Bearer {DEV_TOKEN}"),)


class Ledger:
    """Changes that the server acknowledged to clients, and so must not lose."""

    def __init__(self, payload_chars: int = 0) -> None:
        self.fill = "x" * payload_chars
        self.created: set[str] = set()
        self.completed: set[str] = set()
        self.completed_twice: set[str] = set()
        self.progress = asyncio.Event()

    def note_completed(self, task_id: str) -> None:
        """Records an acknowledged completion."""
        (self.completed_twice if task_id in self.completed else self.completed).add(task_id)
        self.progress.set()


async def produce(
    address: str, ledger: Ledger, seconds: float = RECONNECT_SECONDS, *, callers_max: int = CALLERS
) -> None:
    """Creates one task after another with the SDK; creates with an unknown outcome are ignored.

    A new producer replaces one whose stream broke, because a producer backs off longer each time its server dies.
    """

    async def caller(producer: codeq.AsyncProducer) -> None:
        while True:
            payload = {"n": len(ledger.created), "fill": ledger.fill}
            ledger.created.add(await producer.create(COMMAND, payload, timeout_seconds=seconds))

    while True:
        try:
            async with codeq.AsyncProducer(address, token=DEV_TOKEN) as producer:
                # No group: if callers fail just when this task is cancelled, a group loses the cancellation.
                callers = [asyncio.create_task(caller(producer)) for _ in range(callers_max)]
                try:
                    failed, _ = await asyncio.wait(callers, return_when=asyncio.FIRST_EXCEPTION)
                finally:
                    for each in callers:
                        each.cancel()
                    await asyncio.wait(callers)
                for each in failed:
                    each.result()
        except (codeq.OutcomeUnknown, codeq.DeadlineExceeded):
            pass  # unacknowledged creates do not count


async def work(address: str, ledger: Ledger) -> None:
    """Completes tasks over a bare stream, because the SDK does not report which outcomes were acknowledged."""
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
            await asyncio.sleep(0.02)  # the server is down; try again


async def load(server: ServerProcess, ledger: Ledger, callers: int = CALLERS) -> None:
    """Keeps the server busy until it is cancelled, with so many creates at a time."""
    async with asyncio.TaskGroup() as group:
        group.create_task(produce(server.producer_addr, ledger, callers_max=callers))
        group.create_task(work(server.worker_addr, ledger))


async def drain(server: ServerProcess, ledger: Ledger) -> None:
    """Works until the queue is empty, including tasks whose leases expired."""
    worker = asyncio.create_task(work(server.worker_addr, ledger))
    async with codeq.AsyncClient(server.producer_addr, token=DEV_TOKEN) as client, asyncio.timeout(DRAIN_SECONDS_MAX):
        while True:
            queue = await client.queue(COMMAND)
            if queue.ready == queue.claimed == queue.scheduled == 0:
                break
            await asyncio.sleep(0.05)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


async def missing(server: ServerProcess, ledger: Ledger) -> list[str]:
    """Returns the acknowledged changes that the server lacks."""
    ids = sorted(ledger.created | ledger.completed)
    lost = []
    async with codeq.AsyncClient(server.producer_addr, token=DEV_TOKEN) as client:

        async def status(task_id: str) -> str:
            try:
                return (await client.get(task_id)).status
            except codeq.NotFound:
                return ""

        for first in range(0, len(ids), READS_TOGETHER):
            part = ids[first : first + READS_TOGETHER]
            for task_id, found in zip(part, await asyncio.gather(*map(status, part)), strict=True):
                if not found or (task_id in ledger.completed and found != "COMPLETED"):
                    lost.append(f"{task_id}: {found or 'gone'}")
    return lost
