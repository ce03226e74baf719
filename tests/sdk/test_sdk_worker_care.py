"""The care that a worker takes of handlers and operators: order, context, time limits, log messages."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
import time

import codeq
import pytest
from codeq import streams
from codeq.backoff import Backoff
from codeq.servers import Servers
from scripted_server import ScriptedServer, Work, answer, answer_after_welcome, delivery, settled, welcome_worker
from server_process import DEV_TOKEN, ServerProcess
from waiting import eventually
from worker_runs import running

TASKS = 600


@pytest.mark.parametrize("is_async", [False, True])
async def test_outcome_never_overtakes_earlier_progress(is_async: bool, shared_server: ServerProcess) -> None:
    command = f"progress-order-{is_async}"

    def tell(task: codeq.Task) -> None:
        task.progress(50)
        task.progress(100)

    async def tell_async(task: codeq.Task) -> None:
        await task.progress(50)
        await task.progress(100)

    worker = codeq.AsyncWorker(shared_server.worker_addr, token=DEV_TOKEN, concurrency=16)
    async with codeq.AsyncClient(shared_server.producer_addr, token=DEV_TOKEN) as client:
        await client.create_batch([codeq.NewTask(command) for _ in range(TASKS)])
        async with running(worker, tell_async if is_async else tell, command):
            await eventually(lambda: worker.stats.settled == TASKS)
        tasks, page = await client.tasks(command, page_size=500)
        rest, _ = await client.tasks(command, page_size=500, page_token=page)
    assert [task.last_progress for task in (*tasks, *rest)] == [100] * TASKS


async def test_progress_that_exceeds_one_message_is_sent_before_the_outcome() -> None:
    ids = [str(number) for number in range(40)]

    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery(*ids))
        await asyncio.wait_for(all_told.wait(), 10)
        told: set[str] = set()
        ended: list[str] = []
        while len(ended) < len(ids):
            request = await stream.read()
            told |= {item.task_id for item in request.progress}
            ended += [outcome.task_id for outcome in request.outcomes]
            assert told >= set(ended)
        await stream.write(settled(len(ids)))
        await answer(stream)

    async def handler(task: codeq.Task) -> None:
        task.progress(1)
        all_told.set()

    all_told = asyncio.Event()
    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address, concurrency=len(ids))
        async with running(worker, handler):
            await eventually(lambda: worker.stats.settled == len(ids))


_variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody")


@pytest.mark.parametrize("is_async", [False, True])
async def test_each_task_runs_in_a_fresh_copy_of_the_context_of_run(is_async: bool) -> None:
    seen: list[str] = []

    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        for task_id in "abc":
            await stream.write(delivery(task_id))
            await stream.read_until(lambda request: request.outcomes)
        await stream.write(settled(3))
        await answer(stream)

    def handler(task: codeq.Task) -> None:
        seen.append(_variable.get())
        _variable.set(task.id)

    async def async_handler(task: codeq.Task) -> None:
        handler(task)

    _variable.set("the program")
    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address, concurrency=1)
        async with running(worker, async_handler if is_async else handler):
            await eventually(lambda: worker.stats.settled == 3)
    assert seen == ["the program"] * 3
    assert _variable.get() == "the program"


async def test_worker_whose_handler_swallows_cancellation_ends_and_can_run_again() -> None:
    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a"))
        await answer(stream)

    async def deaf(task: codeq.Task) -> None:
        started.set()
        while not released.is_set():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    started, released = threading.Event(), threading.Event()
    async with ScriptedServer(script, answer_after_welcome) as server:
        worker = codeq.Worker(server.address, drain_seconds=0.1)
        run = asyncio.create_task(asyncio.to_thread(worker.run, deaf))
        await eventually(started.is_set)
        worker.stop()
        await asyncio.wait_for(run, 30)
        released.set()
        again = asyncio.create_task(asyncio.to_thread(worker.run, deaf))
        await eventually(lambda: server.streams == 2)
        worker.stop()
        await asyncio.wait_for(again, 30)


async def test_late_lease_renewals_are_logged_with_advice(caplog: pytest.LogCaptureFixture) -> None:
    async def script(stream: Work) -> None:
        await welcome_worker(stream, lease_seconds=1)
        await stream.write(delivery("a"))
        await answer(stream)

    def hold_the_lock(task: codeq.Task) -> None:
        # No other thread runs during this call, as with C code that holds the interpreter lock.
        former = sys.getswitchinterval()
        sys.setswitchinterval(60)
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            pass
        sys.setswitchinterval(former)
        assert warned.wait(10)

    warned = threading.Event()
    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address, lease_seconds=1)
        async with running(worker, hold_the_lock):
            await eventually(lambda: any("renewed" in each.message for each in caplog.records))
            warned.set()
            await eventually(lambda: worker.stats.settled == 1)
    assert any("late" in each.message and "(GIL)" in each.message for each in caplog.records)


def test_reconnecting_worker_logs_new_problems_at_once_and_repeats_them_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "codeq")
    reconnects = streams.Reconnects("worker", Servers(["a:1"]), Backoff())
    refused = codeq.Unavailable("connection refused")
    for second in range(40):
        reconnects.tell(refused, "a:1", 1.0, 100.0 + second)
    reconnects.tell(codeq.Unavailable("no route"), "a:1", 2.0, 140.0)
    reconnects.opened("a:1", 141.0)
    reconnects.opened("a:1", 200.0)
    reconnects.tell(refused, "a:1", 1.0, 300.0)
    refusal = "worker stream to a:1 ended: UNAVAILABLE: connection refused"
    assert [record.message for record in caplog.records] == [
        f"{refusal}; connecting to a:1 in 1.0 s",
        f"{refusal}; 31 attempts failed in 30 s, connecting to a:1 in 1.0 s",
        "worker stream to a:1 ended: UNAVAILABLE: no route; 41 attempts failed in 40 s, connecting to a:1 in 2.0 s",
        "worker stream to a:1 is open again after 41.0 s",
        f"{refusal}; connecting to a:1 in 1.0 s",
    ]
