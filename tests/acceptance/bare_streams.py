"""The two streams as seen by a bare client, for tests that send messages that an SDK would never send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
from codeq.v1 import producer_service_pb2 as producer_pb
from codeq.v1 import task_pb2
from codeq.v1 import worker_service_pb2 as worker_pb
from codeq.v1.producer_service_pb2_grpc import ProducerServiceStub
from codeq.v1.worker_service_pb2_grpc import WorkerServiceStub
from server_process import DEV_TOKEN, ServerProcess

SECONDS_MAX: Final = 60
_FRAME_TASKS: Final = 4000


def auth(token: str = DEV_TOKEN) -> tuple[tuple[str, str], ...]:
    """Returns the metadata of a call."""
    return (("authorization", f"Bearer {token}"),)


@asynccontextmanager
async def producing(server: ServerProcess, token: str = DEV_TOKEN) -> AsyncIterator[Any]:
    """Opens a producer stream."""
    async with grpc.aio.insecure_channel(server.producer_addr) as channel, asyncio.timeout(SECONDS_MAX):
        stream: Any = ProducerServiceStub(channel).Produce(metadata=auth(token))
        await stream.write(producer_pb.ProduceRequest(hello=producer_pb.ProducerHello()))
        assert (await stream.read()).welcome.tenant_id
        yield stream


async def produce(stream: Any, tasks: Sequence[task_pb2.TaskSpec]) -> producer_pb.FrameAck:
    """Sends one frame and returns its ack."""
    await stream.write(producer_pb.ProduceRequest(tasks=tasks))
    [ack] = (await stream.read()).acks
    return ack


async def create_many(server: ServerProcess, command: str, count: int, **more: Any) -> list[str]:
    """Creates tasks with their numbers as payloads and the further fields `more`; returns their ids in order."""
    ids: list[str] = []
    async with producing(server) as stream:
        for first in range(0, count, _FRAME_TASKS):
            numbers = range(first, min(count, first + _FRAME_TASKS))
            specs = [task_pb2.TaskSpec(command=command, payload=b"%d" % number, **more) for number in numbers]
            ack = await produce(stream, specs)
            assert not ack.errors
            ids += ack.task_ids
    return ids


@asynccontextmanager
async def working(server: ServerProcess, *commands: str, token: str = DEV_TOKEN, **hello: Any) -> AsyncIterator[Any]:
    """Opens a worker stream; its call is cancelled at the end, unless it has ended."""
    async with grpc.aio.insecure_channel(server.worker_addr) as channel, asyncio.timeout(SECONDS_MAX):
        stream: Any = WorkerServiceStub(channel).Work(metadata=auth(token))
        await stream.write(worker_pb.WorkRequest(hello=worker_pb.WorkerHello(commands=commands, **hello)))
        assert (await stream.read()).welcome.worker_id
        yield stream


async def take(stream: Any, count: int) -> list[task_pb2.Task]:
    """Grants credits for `count` tasks and reads them."""
    await stream.write(worker_pb.WorkRequest(add_credits=count))
    tasks: list[task_pb2.Task] = []
    while len(tasks) < count:
        tasks += (await stream.read()).tasks
    return tasks


async def settle(stream: Any, outcomes: Sequence[task_pb2.Outcome]) -> list[worker_pb.OutcomeError]:
    """Sends outcomes and returns the rejected ones once all are durable."""
    await stream.write(worker_pb.WorkRequest(outcomes=outcomes))
    refused: list[worker_pb.OutcomeError] = []
    settled = 0
    while settled < len(outcomes):
        answer = await stream.read()
        settled += answer.settled
        refused += answer.outcome_errors
    return refused
