"""Streams and calls beside a flood: a quiet tenant waits for a bounded number of the flood's tasks."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from codeq.v1 import producer_service_pb2, task_pb2, task_service_pb2, worker_service_pb2
from codeq_gateway.bodies import LARGE_BYTES, WORKED_BYTES_MAX, InFlight
from codeq_internal.v1 import rows_pb2
from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.claims import WORKER_SCOPES, Claims
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.policy import STEPS_PER_TURN
from codeq_server.core.tenants import Tenants
from codeq_server.engine.admission import TURN_COST
from codeq_server.services.artifacts import Artifacts
from codeq_server.services.calls import Calls
from codeq_server.services.produce import ProducerStream
from codeq_server.services.rate_limits import RateLimits
from codeq_server.services.serving import Serving
from codeq_server.services.shard_table import ShardTable
from codeq_server.services.stream_token import StreamToken
from codeq_server.services.streams import StreamRegistry
from codeq_server.services.work import WorkerStream
from held_log import HeldRunner, turns, until
from tenant_tokens import TenantTokens

STREAMS = 100
FRAME_TASKS = 64
CREATE = "/codeq.v1.TaskService/CreateTask"
CREATE_BATCH = "/codeq.v1.TaskService/BatchCreateTasks"
CLAIM = "/codeq.v1.TaskService/ClaimTask"
TURNS_OF_A_CALL_MAX = 24
"""Maximum number of event loop turns from a lone call to its reply, including commits."""


class EndlessClient:
    """A client that sends the same message endlessly, and reads whatever it receives."""

    def __init__(self, first: Any, again: Any) -> None:
        self._first, self._again = first, again

    async def read(self) -> Any:
        await asyncio.sleep(0)
        message, self._first = self._first or self._again, None
        return message

    async def write(self, _: Any) -> None:
        await asyncio.sleep(0)

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


@pytest.fixture
async def runner() -> HeldRunner:
    runner = HeldRunner()
    runner.log.free = True
    return runner


@pytest.fixture
def calls(runner: HeldRunner) -> Calls:
    made = Calls(
        Authenticator(TenantTokens(), TenantTokens()), ShardTable(lambda: Rejection(Reason.NOT_LEADER, "elsewhere"))
    )
    made.shards.present(Serving(runner, None, lease_seconds=60, artifact_bytes_max=0))
    return made


def flood_token() -> StreamToken:
    claims = Claims("flood", "flood", WORKER_SCOPES, frozenset({"*"}), "USER", is_admin=False)
    return StreamToken(claims, no_renewal, time.time)


async def no_renewal(_: str) -> Claims:
    raise Rejection(Reason.UNAUTHENTICATED, "invalid token")


def producer(runner: HeldRunner) -> ProducerStream:
    """Returns a stream whose client sends full frames endlessly."""
    frame = producer_service_pb2.ProduceRequest(tasks=[task_pb2.TaskSpec(command="F", payload=b"1")] * FRAME_TASKS)
    hello = producer_service_pb2.ProduceRequest(hello=producer_service_pb2.ProducerHello())
    return ProducerStream(
        runner, flood_token(), StreamRegistry(Tenants()), EndlessClient(hello, frame), InFlight(), RateLimits(runner)
    )


async def work(runner: HeldRunner) -> None:
    """Serves a stream whose client endlessly takes every available task."""
    more = worker_service_pb2.WorkRequest(add_credits=FRAME_TASKS)
    hello = worker_service_pb2.WorkRequest(hello=worker_service_pb2.WorkerHello(), add_credits=FRAME_TASKS)
    stream = WorkerStream(
        runner,
        flood_token(),
        StreamRegistry(Tenants()),
        60,
        Artifacts(runner, None, 0),
        EndlessClient(more, more),
        RateLimits(runner),
        hello,
    )
    await stream.run()


def create_request() -> task_service_pb2.CreateTaskRequest:
    return task_service_pb2.CreateTaskRequest(spec=task_pb2.TaskSpec(command="Q", payload=b"1"))


async def test_lone_call_beside_a_flood_of_frames_waits_only_a_few_turns(runner: HeldRunner, calls: Calls) -> None:
    streams = [asyncio.create_task(producer(runner).run()) for _ in range(STREAMS)]
    await until(lambda: runner.shard.totals.created > 10 * STREAMS * FRAME_TASKS)
    for _ in range(5):
        before = runner.shard.totals.created
        await calls.call(CREATE, create_request(), "Bearer quiet")
        assert runner.shard.totals.created - before <= TURNS_OF_A_CALL_MAX * (TURN_COST + FRAME_TASKS)
    for stream in streams:
        stream.cancel()
    await asyncio.wait(streams)


async def test_waiting_claim_beside_greedy_streams_is_woken_within_a_few_turns(
    runner: HeldRunner, calls: Calls
) -> None:
    """A backlog of the flooding tenant is pushed to all its streams at once."""
    streams = [asyncio.create_task(work(runner)) for _ in range(STREAMS)]
    await until(lambda: len(runner.waiting) == STREAMS)
    waiting = asyncio.create_task(
        calls.call(CLAIM, task_service_pb2.ClaimTaskRequest(commands=["Q"], wait_seconds=30), "Bearer quiet")
    )
    await until(lambda: len(runner.waiting) == STREAMS + 1)
    for _ in range(100_000):
        runner.create("F", tenant="flood")
    await calls.call(CREATE, create_request(), "Bearer quiet")
    before = runner.shard.totals.claimed
    assert (await waiting).task.command == "Q"
    assert runner.shard.totals.claimed - before <= TURNS_OF_A_CALL_MAX * (TURN_COST + FRAME_TASKS)
    for stream in streams:
        stream.cancel()
    await asyncio.wait(streams)


async def test_large_frame_waits_for_its_turn_among_large_requests(runner: HeldRunner) -> None:
    in_flight = InFlight()
    frame = producer_service_pb2.ProduceRequest(tasks=[task_pb2.TaskSpec(command="F", payload=b"1" * LARGE_BYTES)])
    hello = producer_service_pb2.ProduceRequest(hello=producer_service_pb2.ProducerHello())
    client = EndlessClient(hello, frame)
    async with in_flight.turn(WORKED_BYTES_MAX):
        stream = asyncio.create_task(
            ProducerStream(
                runner, flood_token(), StreamRegistry(Tenants()), client, in_flight, RateLimits(runner)
            ).run()
        )
        await until(lambda: in_flight.held > LARGE_BYTES)
        await turns(10)
        assert runner.shard.totals.created == 0
    await until(lambda: runner.shard.totals.created > 1)
    stream.cancel()
    await asyncio.wait([stream])
    assert in_flight.held == 0


async def test_frame_with_thousands_of_tasks_is_processed_in_parts(runner: HeldRunner) -> None:
    frame = producer_service_pb2.ProduceRequest(tasks=[task_pb2.TaskSpec(command="F", payload=b"1")] * 4096)
    hello = producer_service_pb2.ProduceRequest(hello=producer_service_pb2.ProducerHello())
    stream = asyncio.create_task(
        ProducerStream(
            runner,
            flood_token(),
            StreamRegistry(Tenants()),
            EndlessClient(hello, frame),
            InFlight(),
            RateLimits(runner),
        ).run()
    )
    most, before = 0, 0
    while before < 4096:
        await turns(1)
        created = runner.shard.totals.created
        most, before = max(most, created - before), created
    assert 0 < most <= 2 * TURN_COST
    stream.cancel()
    await asyncio.wait([stream])


@pytest.mark.parametrize("way", ["stream", "batch", "atomic"])
async def test_checks_of_payloads_let_others_go_on(runner: HeldRunner, calls: Calls, way: str) -> None:
    count, shard = 40, runner.shard
    schema = json.dumps({"items": {"allOf": [{}] * 100}}).encode()
    specs = [task_pb2.TaskSpec(command="F", payload=json.dumps([n] * 1_000).encode()) for n in range(count)]
    for tenant in ("flood", "quiet"):
        shard.policies.put(tenant, "F", rows_pb2.PolicyRow(payload_schema=schema), runner.now().wall_ms)
    if way == "stream":
        hello = producer_service_pb2.ProduceRequest(hello=producer_service_pb2.ProducerHello())
        client = EndlessClient(hello, producer_service_pb2.ProduceRequest(tasks=specs))
        registry = StreamRegistry(Tenants())
        running: asyncio.Task[Any] = asyncio.create_task(
            ProducerStream(runner, flood_token(), registry, client, InFlight(), RateLimits(runner)).run()
        )
    else:
        request = task_service_pb2.BatchCreateTasksRequest(tasks=specs, atomic=way == "atomic")
        running = asyncio.create_task(calls.call(CREATE_BATCH, request, "Bearer quiet"))
    most, before = 0, 0
    while shard.totals.created < count:
        await turns(1)
        steps = shard.policies.checker.steps
        most, before = max(most, steps - before), steps
        assert not running.done() or shard.totals.created >= count
    assert 0 < most < 2 * STEPS_PER_TURN
    assert shard.policies.refusals["payload"] == 0
    running.cancel()
    await asyncio.wait([running])
