"""Producers and workers against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import codeq
import pytest
from codeq.worker_handlers import Handler
from server_process import DEV_TOKEN, ServerProcess
from waiting import eventually, eventually_blocking

WORKER_PROGRAM = Path(__file__).with_name("killed_worker.py")


@contextlib.contextmanager
def working(worker: codeq.Worker, handler: Handler | None = None, *commands: str) -> Iterator[None]:
    """Runs a worker in a thread, and stops it at the end."""
    thread = threading.Thread(target=worker.run, args=(handler,), kwargs={"commands": commands})
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join(30)
        assert not thread.is_alive()


@contextlib.contextmanager
def worker_process(server: ServerProcess, command: str) -> Iterator[subprocess.Popen[str]]:
    """Runs WORKER_PROGRAM."""
    process = subprocess.Popen(
        [sys.executable, str(WORKER_PROGRAM), command],
        env={"CODEQ_WORKER_ADDR": server.worker_addr, "CODEQ_TOKEN": DEV_TOKEN},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> list[str]:
    """The words of the next line that the process prints."""
    assert process.stdout is not None
    return process.stdout.readline().split()


def test_task_is_created_and_processed_and_its_result_read(shared_server: ServerProcess) -> None:
    worker = codeq.Worker(shared_server.worker_addr, token=DEV_TOKEN)

    @worker.task("sdk-life")
    def handle(task: codeq.Task) -> object:
        assert (task.command, task.priority, task.attempts) == ("sdk-life", 5, 1)
        return {"seen": task.payload}

    with (
        codeq.Producer(shared_server.producer_addr, token=DEV_TOKEN) as producer,
        codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client,
        working(worker),
    ):
        task_id = producer.create("sdk-life", {"orderId": "42"}, priority=5)
        record = client.result(task_id, wait=20)
        assert (record.status, record.result) == ("COMPLETED", {"seen": {"orderId": "42"}})


async def test_task_is_created_and_processed_and_its_result_read_asynchronously(shared_server: ServerProcess) -> None:
    async def handle(task: codeq.Task) -> object:
        return await asyncio.to_thread(lambda: task.payload)

    worker = codeq.AsyncWorker(shared_server.worker_addr, token=DEV_TOKEN, name="async")
    run = asyncio.create_task(worker.run(handle, commands=["sdk-async"], handle_signals=False))
    async with (
        codeq.AsyncProducer(shared_server.producer_addr, token=DEV_TOKEN) as producer,
        codeq.AsyncClient(shared_server.producer_addr, token=DEV_TOKEN) as client,
    ):
        ids = await asyncio.gather(*(producer.create("sdk-async", n) for n in range(100)))
        assert [(await client.result(task_id, wait=20)).result for task_id in ids] == list(range(100))
        assert (await client.get(ids[0])).worker_id == "worker-dev/async"
    worker.stop()
    await asyncio.wait_for(run, 20)


def test_worker_can_return_every_other_outcome(shared_server: ServerProcess) -> None:
    attempts: Counter[str] = Counter()

    def handle(task: codeq.Task) -> object:
        kind = str(task.payload)
        attempts[kind] += 1
        match kind, attempts[kind]:
            case "fail", _:
                raise codeq.Failed("no such order")
            case "nack", 1:
                return codeq.Nack("not yet", delay=0)
            case "nack", _:
                return task.attempts
            case "abandon", 1:
                raise codeq.Abandon
            case "abandon", _:
                return task.attempts
        raise ValueError("bad order")

    worker = codeq.Worker(shared_server.worker_addr, token=DEV_TOKEN)
    with (
        codeq.Producer(shared_server.producer_addr, token=DEV_TOKEN) as producer,
        codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client,
        working(worker, handle, "sdk-outcomes"),
    ):
        ids = {kind: producer.create("sdk-outcomes", kind) for kind in ("fail", "nack", "abandon")}
        ids["raise"] = producer.create("sdk-outcomes", "raise", max_attempts=1)
        records = {kind: client.result(task_id, wait=20) for kind, task_id in ids.items()}
    assert (records["fail"].status, records["fail"].error) == ("FAILED", "no such order")
    assert (records["nack"].status, records["nack"].result) == ("COMPLETED", 2)
    assert (records["abandon"].status, records["abandon"].result) == ("COMPLETED", 1)
    assert records["raise"].status is codeq.TaskStatus.DLQ
    assert "ValueError: bad order" in (records["raise"].error or "")


def test_failed_handler_is_retried_after_the_servers_backoff(shared_server: ServerProcess) -> None:
    worker = codeq.Worker(shared_server.worker_addr, token=DEV_TOKEN)

    def handle(task: codeq.Task) -> object:
        worker.stop()  # so that it does not take the task again before the test sees it
        raise ValueError("bad order")

    with (
        codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client,
        working(worker, handle, "sdk-backoff"),
    ):
        task_id = client.create("sdk-backoff").id
        eventually_blocking(lambda: client.get(task_id).error is not None)
        task = client.get(task_id)
    assert task.error == "ValueError: bad order"
    assert task.status in {"SCHEDULED", "PENDING"}


def test_invalid_batch_item_affects_no_other_item(shared_server: ServerProcess) -> None:
    with codeq.Producer(shared_server.producer_addr, token=DEV_TOKEN) as producer:
        results = producer.create_batch(
            [
                codeq.NewTask("sdk-batch", 1, delay=3600),
                codeq.NewTask("sdk-batch", codeq.RawJson("{")),
                codeq.NewTask("sdk batch", 2),
                codeq.NewTask("sdk-batch", 3, run_at=datetime.now(UTC) + timedelta(hours=1)),
            ]
        )
        with pytest.raises(codeq.InvalidField):
            producer.create("sdk-batch", 4, priority=10)
        with pytest.raises(codeq.TooLarge):
            producer.create("sdk-batch", "x" * (1 << 20))
        largest = producer.create("sdk-batch", codeq.RawJson('"' + "x" * ((1 << 20) - 2) + '"'), delay=3600)
    assert [type(result) for result in results] == [str, codeq.InvalidField, codeq.InvalidField, str]
    with codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client:
        assert client.queue("sdk-batch").scheduled == 3
        assert len(client.get(largest).payload_bytes) == 1 << 20


def test_worker_with_small_windows_gets_each_task_of_many_threads_once(shared_server: ServerProcess) -> None:
    done: Counter[object] = Counter()

    def create_some(first: int) -> None:
        for number in range(first, first + 50):
            producer.create("sdk-many", {"number": number, "filler": "x" * 200})

    def handle(task: codeq.Task) -> None:
        assert isinstance(task.payload, dict)
        done[task.payload["number"]] += 1

    worker = codeq.Worker(shared_server.worker_addr, token=DEV_TOKEN, concurrency=8, window_bytes=2000)
    with (
        codeq.Producer(shared_server.producer_addr, token=DEV_TOKEN) as producer,
        working(worker, handle, "sdk-many"),
    ):
        threads = [threading.Thread(target=create_some, args=(first,)) for first in range(0, 800, 50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        eventually_blocking(lambda: worker.stats.settled == 800)
    assert done == Counter(range(800))


@pytest.mark.parametrize("is_async", [False, True])
def test_lease_is_renewed_for_a_task_that_takes_three_lease_lengths(
    shared_server: ServerProcess, is_async: bool
) -> None:
    command = f"sdk-long-{is_async}"

    def handle(task: codeq.Task) -> object:
        return [task.lost.wait(3.2), task.attempts]  # blocks its thread, or the loop of the async handlers

    async def handle_on_the_loop(task: codeq.Task) -> object:
        return handle(task)

    worker = codeq.Worker(shared_server.worker_addr, token=DEV_TOKEN, lease_seconds=1)
    with (
        codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client,
        working(worker, handle_on_the_loop if is_async else handle, command),
    ):
        record = client.result(client.create(command).id, wait=20)
    assert (record.status, record.result) == ("COMPLETED", [False, 1])


def test_task_of_a_killed_worker_is_redelivered_and_its_late_completion_rejected(
    shared_server: ServerProcess,
) -> None:
    with codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client:
        task_id = client.create("sdk-killed", {"n": 1}).id
        with worker_process(shared_server, "sdk-killed") as process:
            taken_id, token = line_of(process)
            assert taken_id == task_id
            process.kill()
            killed_at = time.monotonic()
        started, may_end = threading.Event(), threading.Event()

        def handle(task: codeq.Task) -> object:
            started.set()
            assert may_end.wait(20)
            return task.attempts

        worker = codeq.Worker(shared_server.worker_addr, token=DEV_TOKEN)
        with working(worker, handle, "sdk-killed"):
            assert started.wait(20)
            assert time.monotonic() - killed_at < 10
            with pytest.raises(codeq.StaleLeaseToken):
                client.complete(task_id, "late", lease_token=int(token))
            may_end.set()
            record = client.result(task_id, wait=20)
            with pytest.raises(codeq.LeaseLost):
                client.complete(task_id, "late", lease_token=int(token))
        assert (record.status, record.result) == ("COMPLETED", 2)
        assert client.result(task_id).result == 2


def test_late_outcome_of_a_worker_that_lost_its_lease_is_rejected_and_counted(shared_server: ServerProcess) -> None:
    with codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client:

        def handle(task: codeq.Task) -> str:
            client.nack(task, delay=3600)  # without the worker's knowledge
            return "late"

        worker = codeq.Worker(shared_server.worker_addr, token=DEV_TOKEN)
        with working(worker, handle, "sdk-late"):
            task_id = client.create("sdk-late").id
            eventually_blocking(lambda: worker.stats.refused == 1)
        assert client.get(task_id).status is codeq.TaskStatus.SCHEDULED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains_the_worker_process(shared_server: ServerProcess, number: signal.Signals) -> None:
    command = f"sdk-drain-{number.name}"
    with codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client:
        ids = [client.create(command).id for _ in range(5)]
        with worker_process(shared_server, command) as process:
            taken = [line_of(process)[0] for _ in range(2)]
            process.send_signal(number)
            eventually_blocking(lambda: client.queue(command).claimed == 2)
            process.communicate("one\ntwo\n", timeout=20)
            assert process.returncode == 0
        results = {str(client.result(task_id).result) for task_id in taken}
        assert results == {"one", "two"}
        queue = client.queue(command)
        assert (queue.ready, queue.claimed) == (3, 0)
        assert {client.get(task_id).attempts for task_id in set(ids) - set(taken)} == {0}


def test_second_signal_returns_running_tasks(shared_server: ServerProcess) -> None:
    with codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client:
        task_id = client.create("sdk-second").id
        with worker_process(shared_server, "sdk-second") as process:
            line_of(process)
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        eventually_blocking(lambda: client.get(task_id).status == "PENDING")
        assert client.get(task_id).attempts == 0


async def test_producer_and_worker_survive_a_server_crash(server: ServerProcess) -> None:
    """Kills the server while tasks are created and worked on: every acknowledged task is completed in the end."""
    acknowledged: list[str] = []
    is_over = False

    async def create_tasks() -> None:
        # A lead that is bounded keeps the number of results to ask for at the end small, however slow the worker is.
        while not is_over:
            await eventually(lambda: is_over or len(acknowledged) < worker.stats.settled + 200)
            with contextlib.suppress(codeq.OutcomeUnknown):
                acknowledged.append(await producer.create("sdk-crash", {}))

    async def handle(task: codeq.Task) -> None:
        await asyncio.sleep(0)

    async def progress() -> None:
        created, settled = len(acknowledged) + 200, worker.stats.settled + 100
        await eventually(lambda: len(acknowledged) > created and worker.stats.settled > settled)

    worker = codeq.AsyncWorker(server.worker_addr, token=DEV_TOKEN, lease_seconds=2)
    run = asyncio.create_task(worker.run(handle, commands=["sdk-crash"], handle_signals=False))
    async with codeq.AsyncProducer(server.producer_addr, token=DEV_TOKEN) as producer:
        creating = asyncio.gather(*(create_tasks() for _ in range(8)))
        for _ in range(2):
            await progress()
            await asyncio.to_thread(server.restart)
        await progress()
        is_over = True
        await creating
    async with codeq.AsyncClient(server.producer_addr, token=DEV_TOKEN) as client:
        for task_id in acknowledged:
            record = await client.result(task_id, wait=20)
            assert record.status is codeq.TaskStatus.COMPLETED
    worker.stop()
    await asyncio.wait_for(run, 20)
    assert len(set(acknowledged)) == len(acknowledged)
    assert worker.stats.streams >= 3


async def test_task_that_runs_across_a_server_restart_ends_once(server: ServerProcess) -> None:
    runs = 0
    started, may_end = asyncio.Event(), asyncio.Event()

    async def handle(task: codeq.Task) -> object:
        nonlocal runs
        runs += 1
        started.set()
        await may_end.wait()
        return task.attempts

    worker = codeq.AsyncWorker(server.worker_addr, token=DEV_TOKEN)
    run = asyncio.create_task(worker.run(handle, commands=["sdk-stop"], handle_signals=False))
    async with codeq.AsyncProducer(server.producer_addr, token=DEV_TOKEN) as producer:
        task_id = await producer.create("sdk-stop")
        await asyncio.wait_for(started.wait(), 20)
        assert await asyncio.to_thread(server.stop) == 0
        await asyncio.to_thread(server.start)
        await eventually(lambda: worker.stats.streams >= 2)
        may_end.set()
        async with codeq.AsyncClient(server.producer_addr, token=DEV_TOKEN) as client:
            record = await client.result(task_id, wait=20)
        assert (record.status, record.result, runs) == ("COMPLETED", 1, 1)
        assert await producer.create("sdk-stop")
    worker.stop()
    await asyncio.wait_for(run, 20)
