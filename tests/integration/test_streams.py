"""The two streams as a bare client sees them: credits, windows, slow readers, and tasks returned on close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import httpx
import psutil
import pytest
from codeq.v1 import producer_service_pb2 as producer_pb
from codeq.v1 import task_pb2, task_service_pb2
from codeq.v1 import worker_service_pb2 as pb
from codeq.v1.producer_service_pb2_grpc import ProducerServiceStub
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from codeq.v1.worker_service_pb2_grpc import WorkerServiceStub
from server_process import DEV_TOKEN, ServerProcess

AUTH = (("authorization", f"Bearer {DEV_TOKEN}"),)
DEADLINE_SECONDS = 30


async def create(server: ServerProcess, command: str, payloads: list[bytes]) -> list[str]:
    """Creates tasks in frames of at most 500 tasks and 5 MB; returns their ids."""
    frame = min(500, 5_000_000 // len(payloads[0]))
    ids: list[str] = []
    async with grpc.aio.insecure_channel(server.producer_addr) as channel, asyncio.timeout(DEADLINE_SECONDS):
        stream: Any = ProducerServiceStub(channel).Produce(metadata=AUTH)
        await stream.write(producer_pb.ProduceRequest(hello=producer_pb.ProducerHello()))
        assert (await stream.read()).welcome.tenant_id == "dev-tenant"
        for first in range(0, len(payloads), frame):
            part = payloads[first : first + frame]
            tasks = [task_pb2.TaskSpec(command=command, payload=payload) for payload in part]
            await stream.write(producer_pb.ProduceRequest(tasks=tasks))
            while len(ids) < first + len(part):
                for ack in (await stream.read()).acks:
                    assert not ack.errors
                    ids += ack.task_ids
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
    return ids


@asynccontextmanager
async def worker(server: ServerProcess, command: str, **more: Any) -> AsyncIterator[Any]:
    """Opens a worker stream; `more` are further fields of its first message."""
    async with grpc.aio.insecure_channel(server.worker_addr) as channel, asyncio.timeout(DEADLINE_SECONDS):
        stream: Any = WorkerServiceStub(channel).Work(metadata=AUTH)
        await stream.write(pb.WorkRequest(hello=pb.WorkerHello(commands=[command]), **more))
        assert (await stream.read()).welcome.credits_max > 0
        yield stream


async def take(stream: Any, count: int) -> list[task_pb2.Task]:
    """Reads deliveries until it has `count` of them."""
    tasks: list[task_pb2.Task] = []
    while len(tasks) < count:
        tasks += (await stream.read()).tasks
    assert len(tasks) == count
    return tasks


async def close(stream: Any) -> None:
    """Half-closes a stream and reads it to its end."""
    await stream.done_writing()
    while await stream.read() is not grpc.aio.EOF:
        pass


async def queue_of(server: ServerProcess, command: str) -> dict[str, int]:
    """Returns the counters of a queue."""
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {DEV_TOKEN}"}) as http:
        counters: dict[str, int] = (await http.get(f"{server.http_url}/v1/codeq/admin/queues/{command}")).json()
        return counters


async def until(server: ServerProcess, command: str, **wanted: int) -> None:
    """Waits until the counters of a queue have the expected values."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while wanted.items() - (await queue_of(server, command)).items():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)


async def test_large_credit_grant_delivers_that_many_tasks_in_order(server: ServerProcess) -> None:
    """The tasks exceed one response; the server continues without another message from the client."""
    ids = await create(server, "MANY", [b"%d" % n for n in range(7000)])
    async with worker(server, "MANY", add_credits=6500) as stream:
        assert [task.id for task in await take(stream, 6500)] == ids[:6500]
        await close(stream)
    await until(server, "MANY", ready=7000, claimed=0)


async def test_tasks_beyond_the_credits_wait_for_more(server: ServerProcess) -> None:
    ids = await create(server, "FEW", [b"1"] * 5)
    async with worker(server, "FEW", add_credits=2) as stream:
        assert [task.id for task in await take(stream, 2)] == ids[:2]
        await until(server, "FEW", ready=3, claimed=2)
        await stream.write(pb.WorkRequest(add_credits=1))
        assert [task.id for task in await take(stream, 1)] == ids[2:3]


async def test_returned_credits_pay_for_no_task(server: ServerProcess) -> None:
    async with worker(server, "returned", add_credits=5, return_credits=3) as stream:
        assert (await stream.read()).returned_credits == 3
        await create(server, "returned", [b"1"] * 4)
        await take(stream, 2)
        await stream.write(pb.WorkRequest(return_credits=9))
        answer = await stream.read()
        assert (answer.HasField("returned_credits"), answer.returned_credits) == (True, 0)
        assert (await queue_of(server, "returned"))["ready"] == 2
        await stream.write(pb.WorkRequest(return_credits=-1))
        with pytest.raises(grpc.aio.AioRpcError, match="return_credits"):
            await stream.read()


async def test_exhausted_byte_credits_stop_pushes_until_they_are_granted_again(server: ServerProcess) -> None:
    await create(server, "BYTES", [b'"%s"' % (b"x" * 10_000)] * 9)
    async with worker(server, "BYTES", add_credits=100, add_credit_bytes=25_000) as stream:
        tasks = await take(stream, 3)  # the third one may exceed the credits
        await until(server, "BYTES", ready=6, claimed=3)
        for _ in range(2):
            await stream.write(pb.WorkRequest(add_credit_bytes=25_000))
            tasks = await take(stream, 3)
        assert all(10_000 < task.ByteSize() < 10_300 for task in tasks)


async def test_outcomes_of_every_kind_are_settled_in_order(server: ServerProcess) -> None:
    await create(server, "KINDS", [b"1"] * 6)
    async with worker(server, "KINDS", add_credits=6) as stream:
        tasks = await take(stream, 6)
        kinds = [
            {"kind": task_pb2.OUTCOME_KIND_COMPLETED, "result": b'{"ok":true}'},
            {"kind": task_pb2.OUTCOME_KIND_FAILED, "error": "no"},
            {"kind": task_pb2.OUTCOME_KIND_NACK, "delay_seconds": 3600},
            {"kind": task_pb2.OUTCOME_KIND_ABANDON},
            {"kind": task_pb2.OUTCOME_KIND_COMPLETED, "result": b"{"},
            {"kind": task_pb2.OUTCOME_KIND_FAILED, "error": " "},
        ]
        outcomes = [
            task_pb2.Outcome(task_id=task.id, lease_token=task.lease_token, **kind)
            for task, kind in zip(tasks, kinds, strict=True)
        ]
        stale = task_pb2.Outcome(task_id=tasks[0].id, lease_token=1, kind=task_pb2.OUTCOME_KIND_COMPLETED)
        await stream.write(pb.WorkRequest(outcomes=[*outcomes, outcomes[0], stale]))
        settled, errors = 0, []
        while settled < 8:
            message = await stream.read()
            settled += message.settled
            errors += message.outcome_errors
        assert settled == 8
        assert [(error.number, error.task_id) for error in errors] == [
            (5, tasks[4].id),
            (6, tasks[5].id),
            (8, tasks[0].id),
        ]
    await until(server, "KINDS", scheduled=1)


async def test_clean_close_returns_unsettled_tasks_to_their_places(server: ServerProcess) -> None:
    ids = await create(server, "BACK", [b"1"] * 10)
    async with worker(server, "BACK", add_credits=10) as stream:
        tasks = await take(stream, 10)
        done = task_pb2.Outcome(
            task_id=ids[0], lease_token=tasks[0].lease_token, kind=task_pb2.OUTCOME_KIND_COMPLETED, result=b"1"
        )
        await stream.write(pb.WorkRequest(outcomes=[done]))
        await close(stream)
    await until(server, "BACK", ready=9, claimed=0)
    async with worker(server, "BACK", add_credits=9) as stream:
        again = await take(stream, 9)
        assert [(task.id, task.attempts) for task in again] == [(task_id, 1) for task_id in ids[1:]]
        assert min(task.lease_token for task in again) > tasks[0].lease_token


async def test_drain_stops_pushes_but_accepts_outcomes(server: ServerProcess) -> None:
    await create(server, "DRAIN", [b"1"] * 2)
    async with worker(server, "DRAIN", add_credits=1) as stream:
        [task] = await take(stream, 1)
        await stream.write(pb.WorkRequest(drain=True))
        await stream.write(pb.WorkRequest(add_credits=5))
        done = task_pb2.Outcome(
            task_id=task.id, lease_token=task.lease_token, kind=task_pb2.OUTCOME_KIND_COMPLETED, result=b"1"
        )
        await stream.write(pb.WorkRequest(outcomes=[done]))
        message = await stream.read()
        assert (message.settled, len(message.tasks)) == (1, 0)
        await until(server, "DRAIN", ready=1, claimed=0)


async def test_heartbeats_extend_leases_and_report_lost_ones(server: ServerProcess) -> None:
    await create(server, "BEAT", [b"1"])
    async with worker(server, "BEAT", add_credits=1) as stream:
        [task] = await take(stream, 1)
        good = pb.Heartbeat(task_id=task.id, lease_token=task.lease_token, extend_seconds=3600)
        await stream.write(pb.WorkRequest(heartbeats=[good, pb.Heartbeat(task_id=task.id, lease_token=1)]))
        message = await stream.read()
        assert [lease.task_id for lease in message.extended] == [task.id]
        assert message.extended[0].lease_until.seconds - task.lease_until.seconds > 3000
        assert [lease.lease_token for lease in message.lost] == [1]


async def test_slow_reader_does_not_grow_the_servers_memory(server: ServerProcess) -> None:
    """A worker with ample credits reads nothing; tasks that it has not read stay in the store."""
    payload = b'"%s"' % (b"x" * 100_000)
    await create(server, "SLOW", [payload] * 500)
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    async with worker(server, "SLOW", add_credits=60_000) as stream:
        await until(server, "SLOW", scheduled=0)
        counters = await queue_of(server, "SLOW")
        assert counters["ready"] > 300
        assert process.memory_info().rss - before < 40 << 20
        await take(stream, 500)
        await until(server, "SLOW", ready=0, claimed=500)


async def test_thousands_of_simultaneous_calls_are_all_served(server: ServerProcess) -> None:
    """For example, workers that reconnect together after a restart."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    request = task_service_pb2.ClaimTaskRequest(commands=["NONE"], wait_seconds=1)
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(server.worker_addr, options=options))
            for _ in range(6)
        ]
        calls: list[Any] = [
            TaskServiceStub(channels[number % 6]).ClaimTask(request, metadata=AUTH) for number in range(3000)
        ]
        codes = await asyncio.gather(*(call.code() for call in calls))
    assert set(codes) == {grpc.StatusCode.OK}
