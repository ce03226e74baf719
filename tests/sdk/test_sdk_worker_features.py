"""Limits and timeouts of handlers, and the reasons why they should stop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import codeq
import pytest
from codeq.v1 import error_pb2, task_pb2
from codeq.v1 import worker_service_pb2 as pb
from one_delivery import OneDelivery
from scripted_server import ScriptedServer, Work, answer, delivery, has_outcomes, settled, welcome_worker
from server_process import DEV_TOKEN, ServerProcess
from waiting import eventually
from worker_runs import running

# ------------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("is_async", [False, True])
async def test_command_runs_no_more_tasks_at_once_than_its_limit(is_async: bool, shared_server: ServerProcess) -> None:
    command, free = f"limited-{is_async}", f"free-{is_async}"
    now, most = 0, 0
    guard = threading.Lock()
    free_done = threading.Event()

    def enter(step: int) -> None:
        nonlocal now, most
        with guard:
            now += step
            most = max(most, now)

    def limited(task: codeq.Task) -> None:
        enter(1)
        free_done.wait(0.02)
        enter(-1)

    async def limited_async(task: codeq.Task) -> None:
        enter(1)
        await asyncio.sleep(0.02)
        enter(-1)

    worker = codeq.AsyncWorker(shared_server.worker_addr, token=DEV_TOKEN, concurrency=8)
    worker.task(command, limit=2)(limited_async if is_async else limited)
    worker.task(free)(lambda _: None)
    async with codeq.AsyncClient(shared_server.producer_addr, token=DEV_TOKEN) as client:
        await client.create_batch([codeq.NewTask(command) for _ in range(20)])
        await client.create_batch([codeq.NewTask(free) for _ in range(20)])
        async with running(worker, lambda _: None, "limited-rest"):
            await eventually(lambda: worker.stats.settled == 40)
        assert (await client.queue(command)).dlq == 0
    assert most == 2


async def test_tasks_that_wait_for_others_go_back_when_the_worker_stops() -> None:
    script = OneDelivery("a", "b", "c")
    release = threading.Event()
    started: list[str] = []

    def handler(task: codeq.Task) -> None:
        started.append(task.id)
        release.wait(20)

    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)
        worker.task("X", limit=1)(handler)
        async with running(worker, lambda _: None, "Y"):
            await eventually(lambda: worker.stats.received == 3 and started)
            worker.stop(10)
            await eventually(lambda: len(script.outcomes) == 2)
            release.set()
    kinds = [(outcome.task_id, outcome.kind) for outcome in script.outcomes]
    abandoned, completed = task_pb2.OUTCOME_KIND_ABANDON, task_pb2.OUTCOME_KIND_COMPLETED
    assert kinds == [("b", abandoned), ("c", abandoned), ("a", completed)]
    assert started == ["a"]


async def test_waiting_task_whose_lease_is_lost_never_starts() -> None:
    release = threading.Event()
    started: list[str] = []

    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a", "b"))
        await eventually(lambda: started)
        await stream.write(pb.WorkResponse(lost=[pb.LostLease(task_id="b", lease_token=7)]))
        await eventually(lambda: worker.stats.lost == 1)
        release.set()
        await answer(stream)

    def handler(task: codeq.Task) -> None:
        started.append(task.id)
        release.wait(20)

    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)
        worker.task("X", limit=1)(handler)
        async with running(worker, lambda _: None, "Y"):
            await eventually(lambda: worker.stats.settled == 1)
    assert started == ["a"]


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": 17}, {"limit": True}, {"timeout": 0}, {"timeout": "1"}])
def test_wrong_options_of_handlers_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        codeq.Worker().task("X", **options)


# ----------------------------------------------------------------------------------------------------------- timeouts


async def test_async_handler_is_cancelled_at_its_timeout_and_the_task_retried(caplog: pytest.LogCaptureFixture) -> None:
    script = OneDelivery("a")
    reasons: list[codeq.CancelReason | None] = []

    async def handler(task: codeq.Task) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            reasons.append(task.cancel_reason)
            assert not task.lost.is_set()

    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)
        worker.task("X", timeout=0.1)(handler)
        async with running(worker, lambda _: None, "Y"):
            await eventually(lambda: worker.stats.settled == 1)
    [outcome] = script.outcomes
    assert (outcome.kind, outcome.error) == (
        task_pb2.OUTCOME_KIND_NACK,
        "TimeoutError: the handler exceeded its timeout of 0.1 s",
    )
    assert (reasons, worker.stats.stuck) == ([codeq.CancelReason.TIMEOUT], 1)
    assert [record.message for record in caplog.records if "stuck" in record.message] == [
        "handler of X is stuck on task a: it exceeded its timeout of 0.1 s"
    ]


async def test_sync_handler_keeps_its_place_after_its_timeout_and_its_outcome_counts() -> None:
    script = OneDelivery("a", "b")
    release = threading.Event()
    started: list[str] = []

    def handler(task: codeq.Task) -> str:
        started.append(task.id)
        release.wait(20)
        return "late, but done"

    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)
        worker.task("X", timeout=0.05, limit=1)(handler)
        async with running(worker, lambda _: None, "Y"):
            await eventually(lambda: worker.stats.stuck == 1)
            assert started == ["a"]
            release.set()
            await eventually(lambda: worker.stats.settled == 2)
    assert [outcome.result for outcome in script.outcomes] == [b'"late, but done"'] * 2


async def test_handler_that_outlives_its_lease_is_stuck(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()

    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a", "b"))
        lost = [pb.LostLease(task_id=each, lease_token=7) for each in "ab"]
        await stream.write(pb.WorkResponse(lost=lost))
        await answer(stream)

    def handler(task: codeq.Task) -> None:
        if task.id == "b":
            task.lost.wait(20)
        else:
            release.wait(20)

    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)
        async with running(worker, handler):
            await eventually(lambda: worker.stats.stuck == 1)
            release.set()
    assert [record.message for record in caplog.records if "stuck" in record.message] == [
        "handler of X is stuck on task a: its lease ended"
    ]


# ------------------------------------------------------------------------------------------------------------ reasons


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (pb.WorkResponse(lost=[pb.LostLease(task_id="a", lease_token=7)]), codeq.CancelReason.LEASE_LOST),
        (
            pb.WorkResponse(lost=[pb.LostLease(task_id="a", lease_token=7, reason=error_pb2.ERROR_REASON_TASK_ENDED)]),
            codeq.CancelReason.CANCELLED,
        ),
        (pb.WorkResponse(cancelled=[pb.LostLease(task_id="a", lease_token=7)]), codeq.CancelReason.CANCELLED),
        (None, codeq.CancelReason.SHUTDOWN),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_handler_learns_why_it_should_stop(
    is_async: bool, response: pb.WorkResponse | None, reason: codeq.CancelReason
) -> None:
    told: list[codeq.CancelReason | None] = []
    started = threading.Event()

    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a"))
        if response is not None:
            await asyncio.to_thread(started.wait, 10)
            await stream.write(response)
        await answer(stream)

    def handler(task: codeq.Task) -> None:
        assert task.cancel_reason is None
        started.set()
        task.lost.wait(20)
        told.append(task.cancel_reason)

    async def handler_async(task: codeq.Task) -> None:
        assert task.cancel_reason is None
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            told.append(task.cancel_reason)

    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)
        async with running(worker, handler_async if is_async else handler):
            await asyncio.to_thread(started.wait, 10)
            if response is None:
                worker.stop(0)
            await eventually(lambda: told)
    assert told == [reason]


async def test_worker_cut_off_for_a_whole_lease_cancels_its_handlers() -> None:
    told: list[tuple[codeq.CancelReason | None, float]] = []

    async def cut(stream: Work) -> None:
        await welcome_worker(stream, lease_seconds=1)
        await stream.write(delivery("a"))
        await asyncio.to_thread(started.wait, 10)
        await stream.abort("INTERNAL")

    async def refuse(stream: Work) -> None:
        await stream.abort("DRAINING")

    def handler(task: codeq.Task) -> None:
        begun = time.monotonic()
        started.set()
        task.lost.wait(20)
        told.append((task.cancel_reason, time.monotonic() - begun))

    started = threading.Event()
    async with ScriptedServer(cut, refuse) as server:
        worker = codeq.AsyncWorker(server.address, lease_seconds=1, drain_seconds=0)
        async with running(worker, handler):
            await eventually(lambda: told)
    [(reason, seconds)] = told
    assert reason is codeq.CancelReason.LEASE_LOST
    assert 0.9 < seconds < 5
    assert worker.stats.lost == 1


async def test_worker_that_is_cut_off_for_less_keeps_its_handlers() -> None:
    async def cut(stream: Work) -> None:
        await welcome_worker(stream, lease_seconds=30)
        await stream.write(delivery("a"))
        await asyncio.to_thread(started.wait, 10)
        await stream.abort("INTERNAL")

    async def back(stream: Work) -> None:
        await welcome_worker(stream, lease_seconds=30)
        release.set()
        await stream.read_until(has_outcomes)
        await stream.write(settled(1))
        await answer(stream)

    def handler(task: codeq.Task) -> None:
        started.set()
        release.wait(20)
        assert task.cancel_reason is None

    started, release = threading.Event(), threading.Event()
    async with ScriptedServer(cut, back) as server:
        worker = codeq.AsyncWorker(server.address, lease_seconds=30)
        async with running(worker, handler):
            await eventually(lambda: worker.stats.settled == 1)
    assert worker.stats.lost == 0


async def test_late_renewals_are_counted_and_warned_of_once(
    shared_server: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    from codeq import runtime

    caplog.set_level(logging.WARNING)
    worker = codeq.AsyncWorker(shared_server.worker_addr, token=DEV_TOKEN, lease_seconds=1)

    def handler(task: codeq.Task) -> None:
        for count in (1, 2):
            runtime.loop().call_soon_threadsafe(time.sleep, 0.7)  # as if the process were blocked
            while worker.stats.late_renewals < count:
                time.sleep(0.01)

    async with codeq.AsyncClient(shared_server.producer_addr, token=DEV_TOKEN) as client:
        await client.create("late-renewals")
        async with running(worker, handler, "late-renewals"):
            await eventually(lambda: worker.stats.late_renewals >= 2)
    assert len([record for record in caplog.records if "renewed" in record.message]) == 1


# --------------------------------------------------------------------------------------------------------- exceptions


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (codeq.NonRetryable("bad card"), task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_FAILED, error="bad card")),
        (
            codeq.NonRetryable(ValueError("x")),
            task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_FAILED, error="ValueError: x"),
        ),
        (codeq.RetryAfter(30), task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_NACK, delay_seconds=30)),
        (
            codeq.RetryAfter(1.5, OSError("busy")),
            task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_NACK, delay_seconds=2, error="OSError: busy"),
        ),
    ],
)
async def test_raised_verdicts_decide_what_becomes_of_the_task(error: Exception, expected: task_pb2.Outcome) -> None:
    script = OneDelivery("a")

    def handler(task: codeq.Task) -> None:
        raise error

    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)
        async with running(worker, handler):
            await eventually(lambda: worker.stats.settled == 1)
    expected.task_id, expected.lease_token = "a", 7
    assert script.outcomes == [expected]
