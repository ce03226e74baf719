"""Streams of a bare gRPC client to a server with several shards: one connection sees the work of all processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
from codeq.v1 import error_pb2, task_pb2
from codeq.v1 import producer_service_pb2 as producer_pb
from codeq.v1 import worker_service_pb2 as pb
from codeq.v1.producer_service_pb2_grpc import ProducerServiceStub
from codeq.v1.worker_service_pb2_grpc import WorkerServiceStub
from codeq_server.core.ids import shard_of
from server_process import DEV_TOKEN, ServerProcess
from shard_processes_of import processes

SHARDS = 2
AUTH = (("authorization", f"Bearer {DEV_TOKEN}"),)
DEADLINE_SECONDS = 45
CONNECTIONS_MAX = 40
"""Connections that a test opens until one leads to a certain process."""
SERVED = {str(shard): "served" for shard in range(SHARDS)}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    env = {"PERSISTENCE_CONFIG": json.dumps({"numShards": SHARDS})}
    with ServerProcess(tmp_path / "server", env=env) as server:
        wait_until_served(server)
        yield server


def wait_until_served(server: ServerProcess) -> None:
    """Waits until each process sees all shards served."""
    end = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            replies = [httpx.get(f"{server.http_url}/readyz").json().get("shards") for _ in range(6)]
        except httpx.HTTPError:
            replies = []
        if replies and all(reply == SERVED for reply in replies):
            return
        assert time.monotonic() < end, "the shards are not served"
        time.sleep(0.05)


def has_worker(server: ServerProcess, pid: int) -> bool:
    """Whether a process has a connection of a worker."""
    port = int(server.worker_addr.rpartition(":")[2])
    connections = psutil.Process(pid).net_connections("tcp")
    return any(each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED for each in connections)


@asynccontextmanager
async def worker(server: ServerProcess, **more: Any) -> AsyncIterator[Any]:
    async with greeted(server, pb.WorkerHello(), **more) as (stream, _):
        yield stream


@asynccontextmanager
async def greeted(
    server: ServerProcess, hello: pb.WorkerHello, **more: Any
) -> AsyncIterator[tuple[Any, pb.WorkerWelcome]]:
    """Opens a worker's stream over a connection of its own, on whichever process that leads to."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.aio.insecure_channel(server.worker_addr, options=options)
    async with channel, asyncio.timeout(DEADLINE_SECONDS):
        stream: Any = WorkerServiceStub(channel).Work(metadata=AUTH)
        await stream.write(pb.WorkRequest(hello=hello, **more))
        welcome = (await stream.read()).welcome
        assert welcome.credits_max > 0
        yield stream, welcome


async def produce(server: ServerProcess, *frames: list[task_pb2.TaskSpec]) -> list[producer_pb.FrameAck]:
    acks: list[producer_pb.FrameAck] = []
    async with grpc.aio.insecure_channel(server.producer_addr) as channel, asyncio.timeout(DEADLINE_SECONDS):
        stream: Any = ProducerServiceStub(channel).Produce(metadata=AUTH)
        await stream.write(producer_pb.ProduceRequest(hello=producer_pb.ProducerHello()))
        for frame in frames:
            await stream.write(producer_pb.ProduceRequest(tasks=frame))
        await stream.done_writing()
        while (response := await stream.read()) is not grpc.aio.EOF:
            acks += response.acks
    return acks


def keyed(first: int, count: int) -> list[task_pb2.TaskSpec]:
    """Returns tasks that are spread over the shards."""
    numbers = range(first, first + count)
    return [task_pb2.TaskSpec(command="a", payload=b"1", idempotency_key=f"k{number}") for number in numbers]


def done(task: task_pb2.Task) -> task_pb2.Outcome:
    kind = task_pb2.OUTCOME_KIND_COMPLETED
    return task_pb2.Outcome(task_id=task.id, lease_token=task.lease_token, kind=kind, result=b"1")


async def take(stream: Any, count: int) -> list[task_pb2.Task]:
    tasks: list[task_pb2.Task] = []
    while len(tasks) < count:
        tasks += (await stream.read()).tasks
    assert len(tasks) == count
    return tasks


async def settle(stream: Any, count: int) -> list[pb.OutcomeError]:
    """Reads until so many outcomes are settled; returns the errors."""
    settled, errors = 0, []
    while settled < count:
        response = await stream.read()
        settled += response.settled
        errors += response.outcome_errors
    assert settled == count
    return errors


async def test_one_stream_sees_the_work_of_all_shards(server: ServerProcess) -> None:
    async with worker(server, add_credits=1000) as stream:
        acks = await produce(server, keyed(0, 100), keyed(100, 100), keyed(0, 100))
        ids = {task_id for ack in acks for task_id in ack.task_ids}
        assert ([len(ack.errors) for ack in acks], len(acks[2].duplicates), len(ids)) == ([0, 0, 0], 100, 200)
        assert {shard_of(task_id, SHARDS) for task_id in ids} == set(range(SHARDS))
        tasks = await take(stream, 200)
        assert {task.id for task in tasks} == ids
        await stream.write(pb.WorkRequest(outcomes=[done(task) for task in tasks]))
        assert await settle(stream, 200) == []
        await stream.done_writing()
        while await stream.read() is not grpc.aio.EOF:
            pass


async def test_stream_goes_on_while_a_process_is_killed_and_started_again(server: ServerProcess) -> None:
    async with worker(server, add_credits=40) as stream:
        await produce(server, keyed(0, 40))
        tasks = await take(stream, 40)
        (shard,) = [shard for shard in range(SHARDS) if not has_worker(server, processes(server)[shard])]
        os.kill(processes(server)[shard], signal.SIGKILL)  # the process with the stream lives on
        await stream.write(pb.WorkRequest(outcomes=[done(task) for task in tasks]))
        errors = await settle(stream, 40)
        assert {shard_of(error.task_id, SHARDS) for error in errors} <= {shard}
        reasons = {error_pb2.ERROR_REASON_SERVER_UNREACHABLE, error_pb2.ERROR_REASON_OUTCOME_UNKNOWN}
        assert {error.reason for error in errors} <= reasons
        await asyncio.to_thread(wait_until_served, server)
        again = [task for task in tasks if task.id in {error.task_id for error in errors}]
        left = len(again)
        while left:  # the part of the stream may be connected a moment later than the process is seen as ready
            await stream.write(pb.WorkRequest(outcomes=[done(task) for task in again]))
            left = len(await settle(stream, len(again)))
        await stream.write(pb.WorkRequest(add_credits=30))
        await produce(server, keyed(100, 30))
        await take(stream, 30)


@pytest.mark.parametrize("is_direct", [True, False])
async def test_stream_of_one_shard_gets_its_tasks_only_through_whichever_process(
    server: ServerProcess, is_direct: bool
) -> None:
    acks = await produce(server, keyed(0, 100))
    for _ in range(CONNECTIONS_MAX):
        hello = pb.WorkerHello(only_shard=pb.ShardChoice(shard=1, shards=SHARDS))
        async with greeted(server, hello) as (stream, welcome):
            if (welcome.shard == 1) != is_direct:
                continue
            assert welcome.shards == SHARDS
            ids = {task_id for task_id in acks[0].task_ids if shard_of(task_id, SHARDS) == 1}
            await stream.write(pb.WorkRequest(add_credits=100))
            tasks = await take(stream, len(ids))
            assert {task.id for task in tasks} == ids
            await stream.write(pb.WorkRequest(outcomes=[done(task) for task in tasks], return_credits=100))
            answers = [await stream.read()]
            while sum(answer.settled for answer in answers) < len(ids):
                answers.append(await stream.read())
            assert not [error for answer in answers for error in answer.outcome_errors]
            assert sum(answer.returned_credits for answer in answers) == 100 - len(ids)
            return
    pytest.fail("no connection led to the process")


async def test_stream_that_expects_another_number_of_shards_is_over_all(server: ServerProcess) -> None:
    await produce(server, keyed(0, 20))
    choice = pb.ShardChoice(shard=1, shards=SHARDS + 1)
    async with greeted(server, pb.WorkerHello(only_shard=choice), add_credits=20) as (stream, welcome):
        assert welcome.shards == SHARDS
        assert {shard_of(task.id, SHARDS) for task in await take(stream, 20)} == set(range(SHARDS))


@pytest.mark.parametrize(("shard", "shards"), [(SHARDS, SHARDS), (5, 2), (0, 0)])
async def test_choice_of_a_shard_that_does_not_exist_is_rejected(
    server: ServerProcess, shard: int, shards: int
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="only_shard"):
        async with greeted(server, pb.WorkerHello(only_shard=pb.ShardChoice(shard=shard, shards=shards))):
            pass


async def test_producer_is_told_the_shard_that_keeps_its_tasks(server: ServerProcess) -> None:
    async with grpc.aio.insecure_channel(server.producer_addr) as channel, asyncio.timeout(DEADLINE_SECONDS):
        stream: Any = ProducerServiceStub(channel).Produce(metadata=AUTH)
        tasks = [task_pb2.TaskSpec(command="a", payload=b"1")] * 20
        await stream.write(producer_pb.ProduceRequest(hello=producer_pb.ProducerHello(), tasks=tasks))
        welcome = (await stream.read()).welcome
        (ack,) = (await stream.read()).acks
        assert (welcome.shards, {shard_of(each, SHARDS) for each in ack.task_ids}) == (SHARDS, {welcome.shard})


async def test_internal_service_refuses_callers_without_the_secret(server: ServerProcess) -> None:
    async with grpc.aio.insecure_channel(server.worker_addr) as channel:
        call: Any = channel.stream_stream("/codeq_internal.v1.ShardWorkService/WorkOnShard")
        for metadata in (AUTH, (*AUTH, ("codeq-gateway-secret", "guess"))):
            stream = call(metadata=metadata)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stream.read()
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
