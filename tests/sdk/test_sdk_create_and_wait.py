"""Creating tasks and waiting for their results."""

from __future__ import annotations

import asyncio
import threading
import time

import codeq
import pytest
from server_process import DEV_TOKEN, ServerProcess
from worker_runs import running


async def test_create_and_wait_returns_the_result(shared_server: ServerProcess) -> None:
    worker = codeq.AsyncWorker(shared_server.worker_addr, token=DEV_TOKEN)
    async with (
        running(worker, lambda task: {"seen": task.payload}, "wait-async"),
        codeq.AsyncProducer(shared_server.producer_addr, token=DEV_TOKEN) as producer,
    ):
        results = await asyncio.gather(*(producer.create_and_wait("wait-async", n) for n in range(20)))
    assert [result.result for result in results] == [{"seen": n} for n in range(20)]


async def test_create_and_wait_returns_failures_as_results(shared_server: ServerProcess) -> None:
    worker = codeq.AsyncWorker(shared_server.worker_addr, token=DEV_TOKEN)
    async with running(worker, lambda _: codeq.Failed("no such order"), "wait-failed"):
        with codeq.Producer(shared_server.producer_addr, token=DEV_TOKEN) as producer:
            result = await asyncio.to_thread(producer.create_and_wait, "wait-failed")
    assert (result.status, result.error) == (codeq.TaskStatus.FAILED, "no such order")


@pytest.mark.parametrize("seconds", [0.3, 1.5])
def test_create_and_wait_gives_up_in_time_and_names_the_task(seconds: float, shared_server: ServerProcess) -> None:
    begun = time.monotonic()
    with (
        codeq.Producer(shared_server.producer_addr, token=DEV_TOKEN) as producer,
        pytest.raises(codeq.DeadlineExceeded) as caught,
    ):
        producer.create_and_wait("wait-nobody", timeout_seconds=seconds)
    assert seconds - 0.1 <= time.monotonic() - begun < seconds + 5
    with codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client:
        assert client.get(caught.value.metadata["taskId"]).status == codeq.TaskStatus.PENDING


def test_wait_survives_a_restart_of_the_server(server: ServerProcess) -> None:
    created = threading.Event()

    def work() -> None:
        with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
            [task] = client.claim(["restarted"], wait=20)
            created.set()
            server.restart()
            client.complete(task, "after the restart")

    helper = threading.Thread(target=work)
    helper.start()
    with codeq.Producer(server.producer_addr, token=DEV_TOKEN) as producer:
        result = producer.create_and_wait("restarted", timeout_seconds=50)
    helper.join()
    assert result.result == "after the restart"


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "1"])
def test_wrong_timeouts_are_refused_before_anything_is_sent(seconds: float, shared_server: ServerProcess) -> None:
    with (
        codeq.Producer(shared_server.producer_addr, token=DEV_TOKEN) as producer,
        pytest.raises((ValueError, TypeError), match="timeout_seconds"),
    ):
        producer.create_and_wait("wait-refused", timeout_seconds=seconds)
    with codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client, pytest.raises(codeq.QueueNotFound):
        client.queue("wait-refused")
