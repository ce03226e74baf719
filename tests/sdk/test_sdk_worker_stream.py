"""Deliveries, leases and outcomes of workers, against a server that breaks, stalls and rejects on demand."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
import time

import codeq
import pytest
from codeq.v1 import error_pb2, task_pb2
from codeq.v1 import producer_service_pb2 as producer_pb
from codeq.v1 import worker_service_pb2 as pb
from codeq.worker_handlers import Handler
from scripted_server import (
    ScriptedServer,
    Work,
    answer,
    delivery,
    has_outcomes,
    settled,
    welcome_worker,
)
from waiting import eventually
from worker_runs import running

STALE = error_pb2.ERROR_REASON_STALE_LEASE_TOKEN
DRAINING = producer_pb.StreamNotice(reason=error_pb2.ERROR_REASON_DRAINING, grace_ms=10_000)


async def test_worker_requests_its_concurrency_and_a_credit_after_each_outcome() -> None:
    seen: list[pb.WorkRequest] = []

    async def script(stream: Work) -> None:
        hello = await welcome_worker(stream)
        assert (hello.name, list(hello.commands), hello.lease_seconds) == ("me", [], 45)
        assert stream.token == "Bearer secret"
        seen.append(await stream.read())
        response = delivery("a", "b", payload=b'{"n":1}')
        await stream.write(response)
        outcomes = 0
        while outcomes < 2:
            seen.append(await stream.read())
            outcomes += len(seen[-1].outcomes)
        assert sum(request.add_credits for request in seen[1:]) == 2
        assert sum(request.add_credit_bytes for request in seen[1:]) == sum(task.ByteSize() for task in response.tasks)
        await stream.write(settled(2))
        await answer(stream)
        done.set()

    done = asyncio.Event()
    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(
            server.address, token="secret", name="me", concurrency=4, lease_seconds=45, window_bytes=1000
        )
        async with running(worker, lambda task: {"seen": task.payload}):
            await eventually(lambda: worker.stats.settled == 2)
        await asyncio.wait_for(done.wait(), 10)
    assert (seen[0].add_credits, seen[0].add_credit_bytes) == (4, 1000)
    outcomes = [outcome for request in seen for outcome in request.outcomes]
    assert sorted(outcome.task_id for outcome in outcomes) == ["a", "b"]
    for outcome in outcomes:
        assert (outcome.kind, outcome.lease_token) == (task_pb2.OUTCOME_KIND_COMPLETED, 7)
        assert outcome.result == b'{"seen":{"n":1}}'
    assert worker.stats == codeq.WorkerStats(streams=1, received=2, settled=2)


async def _fail(task: codeq.Task) -> None:
    raise codeq.Failed("no such order")


async def _returned_nack(task: codeq.Task) -> codeq.Nack:
    return codeq.Nack("later", delay=9)


async def _exit(task: codeq.Task) -> None:
    raise ValueError("bad")


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (lambda _: None, task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_COMPLETED)),
        (lambda _: [1], task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_COMPLETED, result=b"[1]")),
        (lambda _: codeq.Abandon(), task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_ABANDON)),
        (
            lambda _: 1 // 0,
            task_pb2.Outcome(
                kind=task_pb2.OUTCOME_KIND_NACK, error="ZeroDivisionError: integer division or modulo by zero"
            ),
        ),
        (lambda _: sys.exit(3), task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_NACK, error="SystemExit: 3")),
        (_fail, task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_FAILED, error="no such order")),
        (_returned_nack, task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_NACK, error="later", delay_seconds=9)),
        (_exit, task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_NACK, error="ValueError: bad")),
    ],
)
async def test_handler_result_or_exception_determines_the_outcome(handler: Handler, expected: task_pb2.Outcome) -> None:
    got: list[task_pb2.Outcome] = []

    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a"))
        got.extend((await stream.read_until(has_outcomes)).outcomes)
        await stream.write(settled(1))
        await answer(stream)

    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)
        async with running(worker, handler):
            await eventually(lambda: worker.stats.settled == 1)
    expected.task_id, expected.lease_token = "a", 7
    assert got == [expected]


@pytest.mark.parametrize("result", [object(), "x" * (1 << 20)])
async def test_unsendable_result_becomes_a_nack_with_the_reason(result: object) -> None:
    got: list[task_pb2.Outcome] = []

    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a"))
        got.extend((await stream.read_until(has_outcomes)).outcomes)
        await stream.write(settled(1))
        await answer(stream)

    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)
        async with running(worker, lambda _: result):
            await eventually(lambda: worker.stats.settled == 1)
    assert got[0].kind == task_pb2.OUTCOME_KIND_NACK
    assert "result" in got[0].error


async def test_each_handler_gets_the_tasks_of_its_command() -> None:
    async def script(stream: Work) -> None:
        assert list((await welcome_worker(stream)).commands) == ["A", "B", "C"]
        for command in ("A", "B", "C"):
            await stream.write(delivery(command, command=command))
        outcomes: list[task_pb2.Outcome] = []
        while len(outcomes) < 3:
            outcomes.extend((await stream.read()).outcomes)
        assert {outcome.task_id: outcome.result for outcome in outcomes} == {"A": b'"ab"', "B": b'"ab"', "C": b'"c"'}
        await stream.write(settled(3))
        await answer(stream)

    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)

        @worker.task("A", "B")
        def handle(task: codeq.Task) -> str:
            return "ab"

        @worker.task("C")
        async def handle_c(task: codeq.Task) -> str:
            return "c"

        run = asyncio.create_task(worker.run(handle_signals=False))
        await eventually(lambda: worker.stats.settled == 3)
        worker.stop()
        await asyncio.wait_for(run, 10)


@pytest.mark.parametrize("is_async", [False, True])
async def test_lease_is_renewed_at_a_third_of_its_time_while_handlers_block(is_async: bool) -> None:
    times: list[float] = []

    async def script(stream: Work) -> None:
        await welcome_worker(stream, lease_seconds=1)
        times.append(time.monotonic())
        await stream.write(delivery("a", "b"))
        while len(times) < 5:
            for heartbeat in (await stream.read()).heartbeats:
                assert (heartbeat.task_id in {"a", "b"}, heartbeat.lease_token) == (True, 7)
                if heartbeat.task_id == "a":
                    times.append(time.monotonic())
        may_end.set()
        await answer(stream)

    def block(task: codeq.Task) -> None:
        assert may_end.wait(20)

    async def block_the_loop(task: codeq.Task) -> None:
        assert may_end.wait(20)

    may_end = threading.Event()
    async with ScriptedServer(script) as server:
        worker = codeq.Worker(server.address, concurrency=2, lease_seconds=1)
        handler = block_the_loop if is_async else block
        run = asyncio.create_task(asyncio.to_thread(worker.run, handler))
        await eventually(lambda: worker.stats.settled == 2)
        worker.stop()
        await asyncio.wait_for(run, 10)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(0.2 < gap < 0.9 for gap in gaps), gaps


@pytest.mark.parametrize("kind", ["lost", "cancelled"])
async def test_lost_lease_cancels_the_handler_without_an_outcome(kind: str) -> None:
    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a", "b"))
        await asyncio.wait_for(started.wait(), 10)
        other = pb.LostLease(task_id="b", lease_token=6)  # an older lease of the same task, not the worker's own
        mine = pb.LostLease(task_id="a", lease_token=7, reason=STALE)
        await stream.write(pb.WorkResponse(**{kind: [other, mine]}))
        async for request in stream:
            assert [outcome.task_id for outcome in request.outcomes] in ([], ["b"])
            if request.outcomes:
                await stream.write(settled(1))

    async def handler(task: codeq.Task) -> None:
        tasks.append(task)
        if task.id == "a":
            try:
                started.set()
                await asyncio.Event().wait()
            finally:
                cancelled.set()
        await cancelled.wait()

    tasks: list[codeq.Task] = []
    started, cancelled = asyncio.Event(), asyncio.Event()
    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)
        async with running(worker, handler):
            await eventually(lambda: worker.stats.settled == 1)
    assert [task.lost.is_set() for task in sorted(tasks, key=lambda task: task.id)] == [True, False]
    assert worker.stats.lost == 1


async def test_lost_lease_sets_the_sync_handlers_event_and_its_late_outcome_is_dropped() -> None:
    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a"))
        await stream.read()
        await stream.write(pb.WorkResponse(lost=[pb.LostLease(task_id="a", lease_token=7, reason=STALE)]))
        assert not any(request.outcomes for request in await stream.read_end())

    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)
        async with running(worker, lambda task: task.lost.wait(10)):
            await eventually(lambda: worker.stats.refused == 1)
    assert (worker.stats.settled, worker.stats.lost) == (0, 1)


async def test_outcome_rejected_as_malformed_is_replaced_by_one_nack() -> None:
    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a"))
        await stream.read_until(has_outcomes)
        refusal = pb.OutcomeError(number=1, task_id="a", reason=error_pb2.ERROR_REASON_INVALID_FIELD, message="no")
        await stream.write(settled(1, [refusal]))
        replacement = (await stream.read_until(has_outcomes)).outcomes[0]
        assert (replacement.kind, replacement.task_id) == (task_pb2.OUTCOME_KIND_NACK, "a")
        assert "no" in replacement.error
        refusal.number = 2
        await stream.write(settled(1, [refusal]))
        assert not any(request.outcomes for request in await stream.read_end())

    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)
        async with running(worker, lambda _: None):
            await eventually(lambda: worker.stats.refused == 2)


async def test_unsettled_outcomes_of_a_broken_stream_are_resent_in_order() -> None:
    async def breaking(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a", "b", "c"))
        sent: list[str] = []
        while len(sent) < 3:
            sent += [outcome.task_id for outcome in (await stream.read()).outcomes]
        order.extend(sent)
        await stream.write(settled(1))
        await stream.abort("OUTCOME_UNKNOWN")

    async def working(stream: Work) -> None:
        await welcome_worker(stream)
        again = await stream.read_until(has_outcomes)
        assert [outcome.task_id for outcome in again.outcomes] == order[1:]
        assert again.add_credits == 5
        refusal = pb.OutcomeError(number=2, task_id=order[2], reason=STALE)  # numbered anew on this stream
        await stream.write(settled(2, [refusal]))
        await answer(stream)

    def handler(task: codeq.Task) -> None:
        tasks[task.id] = task

    order: list[str] = []
    tasks: dict[str, codeq.Task] = {}
    async with ScriptedServer(breaking, working) as server:
        worker = codeq.AsyncWorker(server.address, concurrency=5)
        async with running(worker, handler):
            await eventually(lambda: worker.stats.settled + worker.stats.refused == 3)
    assert [task_id for task_id in order if tasks[task_id].lost.is_set()] == order[2:]
    assert (worker.stats.settled, worker.stats.refused, worker.stats.streams) == (2, 1, 2)


async def test_task_of_a_broken_stream_is_renewed_and_settled_over_the_next_one() -> None:
    async def breaking(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a"))
        await asyncio.wait_for(started.wait(), 10)
        await stream.abort("DRAINING")

    async def working(stream: Work) -> None:
        await welcome_worker(stream)
        request = await stream.read()
        assert [heartbeat.task_id for heartbeat in request.heartbeats] == ["a"]
        assert request.add_credits == 2  # the third place is taken
        may_end.set()
        request = await stream.read_until(has_outcomes)
        assert (request.outcomes[0].task_id, request.add_credits) == ("a", 1)
        await stream.write(settled(1))
        await answer(stream)

    async def handler(task: codeq.Task) -> None:
        started.set()
        await may_end.wait()

    started, may_end = asyncio.Event(), asyncio.Event()
    async with ScriptedServer(breaking, working) as server:
        worker = codeq.AsyncWorker(server.address, concurrency=3)
        async with running(worker, handler):
            await eventually(lambda: worker.stats.settled == 1)


async def test_drain_notice_moves_the_worker_and_keeps_the_leases_of_running_tasks() -> None:
    async def stopping(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a", "b"))
        await stream.read_until(has_outcomes)
        await stream.write(pb.WorkResponse(notice=DRAINING))
        await asyncio.sleep(0)
        await stream.write(settled(1))
        await stream.read_break(pb.WorkResponse())  # a half-close would have given "b" back

    async def working(stream: Work) -> None:
        await welcome_worker(stream)
        may_end.set()
        request = await stream.read_until(has_outcomes)
        assert [outcome.task_id for outcome in request.outcomes] == ["b"]
        await stream.write(settled(1))
        await answer(stream)

    async def handler(task: codeq.Task) -> None:
        if task.id == "b":
            await may_end.wait()

    may_end = asyncio.Event()
    async with ScriptedServer(stopping, working) as server:
        worker = codeq.AsyncWorker(server.address)
        async with running(worker, handler):
            await eventually(lambda: worker.stats.settled == 2)
    assert worker.stats.streams == 2
    assert worker.stats.lost == 0


async def test_redelivery_of_a_running_task_cancels_the_older_run() -> None:
    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a", token=7))
        await asyncio.wait_for(started.wait(), 10)
        await stream.write(delivery("a", token=8))
        request = await stream.read_until(has_outcomes)
        assert [(outcome.task_id, outcome.lease_token) for outcome in request.outcomes] == [("a", 8)]
        await stream.write(settled(1))
        await answer(stream)

    async def handler(task: codeq.Task) -> None:
        if task.lease_token == 7:
            started.set()
            await asyncio.Event().wait()

    started = asyncio.Event()
    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)
        async with running(worker, handler):
            await eventually(lambda: worker.stats.settled == 1)
    assert worker.stats.lost == 1
