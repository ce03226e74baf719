"""How runs of workers begin and end, against a server that breaks, stalls and rejects on demand."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

import codeq
import pytest
from codeq.v1 import task_pb2
from codeq.v1 import worker_service_pb2 as pb
from scripted_server import (
    ScriptedServer,
    Work,
    answer_after_welcome,
    delivery,
    has_outcomes,
    settled,
    welcome_worker,
)
from waiting import eventually
from worker_runs import running


async def test_stop_finishes_running_tasks_and_returns_later_ones_before_half_closing() -> None:
    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a"))
        await asyncio.wait_for(started.wait(), 10)
        worker.stop()
        drain = await stream.read_until(lambda request: request.drain)
        assert drain.add_credits == 0
        await stream.write(delivery("late"))
        abandoned = await stream.read_until(has_outcomes)
        [outcome] = abandoned.outcomes
        assert (outcome.task_id, outcome.kind) == ("late", task_pb2.OUTCOME_KIND_ABANDON)
        may_end.set()
        ended = await stream.read_until(has_outcomes)
        assert [(outcome.task_id, outcome.kind) for outcome in ended.outcomes] == [
            ("a", task_pb2.OUTCOME_KIND_COMPLETED)
        ]
        assert not any(request.add_credits or request.outcomes for request in await stream.read_end())
        await stream.write(settled(2))

    async def handler(task: codeq.Task) -> None:
        started.set()
        await may_end.wait()

    started, may_end = asyncio.Event(), asyncio.Event()
    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)
        await asyncio.wait_for(worker.run(handler), 20)
        assert worker.stats == codeq.WorkerStats(streams=1, received=1, settled=2)


async def test_stop_does_not_wait_beyond_the_drain_time() -> None:
    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a"))
        assert not any(request.outcomes for request in await stream.read_end())

    async def handler(task: codeq.Task) -> None:
        tasks.append(task)
        worker.stop()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    tasks: list[codeq.Task] = []
    cancelled = asyncio.Event()
    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address, drain_seconds=0.3)
        begin = time.monotonic()
        await asyncio.wait_for(worker.run(handler), 20)
        assert 0.3 <= time.monotonic() - begin < 5
        await asyncio.wait_for(cancelled.wait(), 20)
    assert tasks[0].lost.is_set()


async def test_second_stop_ends_the_worker_at_once() -> None:
    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a"))
        assert not any(request.outcomes for request in await stream.read_end())

    async def handler(task: codeq.Task) -> None:
        worker.stop()
        worker.stop()
        await asyncio.Event().wait()

    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address, drain_seconds=60)
        await asyncio.wait_for(worker.run(handler), 20)
        assert worker.stats.lost == 1


async def test_stop_called_on_the_signal_that_drains_the_worker_lets_its_tasks_end() -> None:
    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a"))
        await stream.read_until(lambda request: request.drain)
        may_end.set()
        await stream.read_until(has_outcomes)
        await stream.write(settled(1))
        await stream.read_end()

    async def handler(task: codeq.Task) -> None:
        signal.raise_signal(signal.SIGTERM)
        worker.stop()
        worker.stop(50)
        await may_end.wait()

    may_end = asyncio.Event()
    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)
        await asyncio.wait_for(worker.run(handler), 20)
        assert worker.stats == codeq.WorkerStats(streams=1, received=1, settled=1)


async def test_stop_gives_up_on_a_server_that_does_not_end_the_stream() -> None:
    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        worker.stop(0.1)
        await stream.read_end()
        await stream.cancelled()

    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)
        begin = time.monotonic()
        await asyncio.wait_for(worker.run(lambda _: None), 20)
        assert time.monotonic() - begin < 10


async def test_cancelled_run_half_closes_at_once() -> None:
    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a"))
        await stream.read_end()
        half_closed.set()

    started, half_closed = asyncio.Event(), asyncio.Event()

    async def handler(task: codeq.Task) -> None:
        started.set()
        await asyncio.Event().wait()

    async with ScriptedServer(script) as server:
        run = asyncio.create_task(codeq.AsyncWorker(server.address).run(handler))
        await asyncio.wait_for(started.wait(), 10)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        await asyncio.wait_for(half_closed.wait(), 10)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("UNAUTHENTICATED", codeq.Unauthenticated),
        ("COMMAND_NOT_ALLOWED", codeq.CommandNotAllowed),
        ("INVALID_FIELD", codeq.InvalidField),
    ],
)
async def test_run_raises_the_typed_error_when_the_server_rejects_the_worker(
    reason: str, kind: type[codeq.CodeqError]
) -> None:
    async def refusing(stream: Work) -> None:
        await stream.abort(reason)

    async with ScriptedServer(refusing) as server:
        with pytest.raises(kind):
            await asyncio.wait_for(codeq.AsyncWorker(server.address).run(lambda _: None), 20)


async def test_run_retries_when_the_server_is_full_or_replies_with_garbage() -> None:
    async def full(stream: Work) -> None:
        await stream.abort("LIMIT_REACHED")

    async def silent(stream: Work) -> None:
        await stream.read()

    async def lying(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(settled(1))
        await stream.read_break(pb.WorkResponse())

    async with ScriptedServer(full, silent, lying, answer_after_welcome) as server:
        worker = codeq.AsyncWorker(server.address)
        async with running(worker, lambda _: None):
            await eventually(lambda: server.streams == 4)


async def test_run_returns_at_once_after_an_earlier_stop() -> None:
    worker = codeq.AsyncWorker("127.0.0.1:1")
    worker.stop()
    await asyncio.wait_for(worker.run(lambda _: None), 20)


async def test_stop_returns_even_if_no_server_is_reachable() -> None:
    worker = codeq.AsyncWorker("127.0.0.1:1")
    run = asyncio.create_task(worker.run(lambda _: None, handle_signals=False))
    await asyncio.sleep(0)
    worker.stop()
    await asyncio.wait_for(run, 10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: codeq.Worker("127.0.0.1:1").run(),
        lambda: codeq.Worker("127.0.0.1:1").run(commands=["A"]),
        lambda: codeq.Worker(concurrency=0),
        lambda: codeq.Worker(concurrency=65_537),
        lambda: codeq.Worker(window_bytes=0),
        lambda: codeq.Worker().task(),
    ],
)
def test_worker_without_usable_handlers_is_rejected(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"handler|must be|needs"):
        make()


def test_second_handler_for_a_command_is_rejected() -> None:
    worker = codeq.Worker()
    worker.task("A")(lambda _: None)
    with pytest.raises(ValueError, match="already"):
        worker.task("A")(lambda _: None)
