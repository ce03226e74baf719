"""Middleware around handlers, and the metrics hook."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, cast

import codeq
import pytest
from codeq.v1 import worker_service_pb2 as pb
from one_delivery import OneDelivery
from scripted_server import ScriptedServer, Work, answer, delivery, welcome_worker
from waiting import eventually
from worker_runs import running


@pytest.mark.parametrize("handler_is_async", [False, True])
@pytest.mark.parametrize("layer_is_async", [False, True])
async def test_middleware_wraps_handlers_of_both_kinds(handler_is_async: bool, layer_is_async: bool) -> None:
    script = OneDelivery("a")
    steps: list[str] = []

    def outer(task: codeq.Task, call_next: codeq.Handler) -> object:
        steps.append("outer")
        return call_next(task)

    def layer(task: codeq.Task, call_next: codeq.Handler) -> object:
        steps.append("before")
        value = call_next(task)
        steps.append("after")
        return value

    async def layer_async(task: codeq.Task, call_next: codeq.Handler) -> object:
        steps.append("before")
        value = await cast("Awaitable[object]", call_next(task))
        steps.append("after")
        return {"wrapped": value}

    def handler(task: codeq.Task) -> object:
        steps.append("sync" if threading.current_thread() is not threading.main_thread() else "in the main thread")
        return 1

    async def handler_async(task: codeq.Task) -> object:
        steps.append("async")
        return 1

    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)
        assert worker.middleware(outer) is outer
        worker.middleware(layer_async if layer_is_async else layer)
        async with running(worker, handler_async if handler_is_async else handler):
            await eventually(lambda: worker.stats.settled == 1)
    inner = "async" if handler_is_async else "sync"
    # A sync layer around an async handler gets its coroutine, which runs later.
    is_late = handler_is_async and not layer_is_async
    assert steps == ["outer", "before", *(["after", inner] if is_late else [inner, "after"])]
    assert script.outcomes[0].result == (b'{"wrapped":1}' if layer_is_async else b"1")


async def test_middleware_may_answer_itself_and_sees_exceptions() -> None:
    script = OneDelivery("a", "b")
    seen: list[str] = []

    def layer(task: codeq.Task, call_next: Callable[[codeq.Task], object]) -> object:
        if task.id == "a":
            return codeq.Completed("from the cache")
        try:
            return call_next(task)
        except ZeroDivisionError as error:
            seen.append(str(error))
            raise codeq.NonRetryable(error) from None

    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address)
        worker.middleware(layer)
        async with running(worker, lambda _: 1 // 0):
            await eventually(lambda: worker.stats.settled == 2)
    told = {outcome.task_id: (outcome.result, outcome.error) for outcome in script.outcomes}
    assert told["a"] == (b'"from the cache"', "")
    assert told["b"][1].startswith("ZeroDivisionError")
    assert len(seen) == 1


async def test_cancelled_chain_waits_for_its_sync_handler() -> None:
    release = threading.Event()
    started = threading.Event()

    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        assert (await stream.read()).add_credits == 1
        await stream.write(delivery("a"))
        await asyncio.to_thread(started.wait, 10)
        await stream.write(pb.WorkResponse(lost=[pb.LostLease(task_id="a", lease_token=7)]))
        await eventually(lambda: worker.stats.lost == 1)
        release.set()
        assert (await stream.read_until(lambda request: request.add_credits)).add_credits == 1
        credited.set()
        await answer(stream)

    async def layer(task: codeq.Task, call_next: codeq.Handler) -> object:
        return await cast("Awaitable[object]", call_next(task))

    def handler(task: codeq.Task) -> None:
        started.set()
        release.wait(20)

    credited = asyncio.Event()
    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address, concurrency=1)
        worker.middleware(layer)
        async with running(worker, handler):
            await asyncio.wait_for(credited.wait(), 20)


@pytest.mark.parametrize("layer", [5, lambda _: None, lambda: None])
def test_wrong_middleware_is_refused(layer: Any) -> None:
    with pytest.raises(TypeError, match="middleware"):
        codeq.Worker().middleware(layer)


# ------------------------------------------------------------------------------------------------------------ metrics


class Told(codeq.Metrics):
    """Collects what it is told, and fails each time."""

    def __init__(self, failure: type[BaseException]) -> None:
        self.failure = failure
        self.started: list[str] = []
        self.ended: list[tuple[str, str]] = []

    def task_started(self, task: codeq.Task) -> None:
        self.started.append(task.id)
        raise self.failure("a hook that fails")

    def task_ended(self, task: codeq.Task, outcome: str, seconds: float) -> None:
        assert 0 <= seconds < 20
        self.ended.append((task.id, outcome))
        raise self.failure("a hook that fails")


@pytest.mark.parametrize("failure", [RuntimeError, SystemExit])
@pytest.mark.parametrize("is_async", [False, True])
async def test_metrics_hook_is_told_of_starts_and_ends(is_async: bool, failure: type[BaseException]) -> None:
    script = OneDelivery("COMPLETED", "FAILED", "NACK", "ABANDON")
    outcomes = {"COMPLETED": 1, "FAILED": codeq.Failed("x"), "NACK": codeq.Nack(), "ABANDON": codeq.Abandon()}

    def handler(task: codeq.Task) -> object:
        return outcomes[task.id]

    async def handler_async(task: codeq.Task) -> object:
        return outcomes[task.id]

    metrics = Told(failure)
    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address, metrics=metrics)
        async with running(worker, handler_async if is_async else handler):
            await eventually(lambda: worker.stats.settled == 4)
    assert sorted(metrics.started) == sorted(outcomes)
    assert sorted(metrics.ended) == sorted((each, each) for each in outcomes)
