"""`codeq.testing.memory_server`: a server in the process of the tests, whose clock they move."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import codeq
import httpx
import pytest
from callback_receiver import Receiver
from codeq import testing
from codeq.webhooks import verify
from entry_points import describe_server
from waiting import eventually, eventually_blocking
from worker_runs import running

DAY = 86_400


@pytest.fixture(autouse=True)
def _described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(describe_server(tmp_path)))


@pytest.fixture
def server() -> Iterator[testing.MemoryServer]:
    """A server with a stopped clock and fixed backoff."""
    with testing.memory_server(env={"BACKOFF_POLICY": "fixed", "BACKOFF_BASE_SECONDS": "30"}) as started:
        started.clock.freeze()
        yield started


@pytest.fixture
def client(server: testing.MemoryServer) -> Iterator[codeq.Client]:
    with server.client() as opened:
        yield opened


def test_delayed_task_is_due_at_its_millisecond_and_not_before(
    server: testing.MemoryServer, client: codeq.Client
) -> None:
    task = client.create("A", delay=DAY)
    server.clock.advance(seconds=DAY - 0.001)
    assert client.get(task.id).status == "SCHEDULED"
    assert client.claim(["A"]) == []
    server.clock.advance(seconds=0.001)
    assert [claimed.id for claimed in client.claim(["A"])] == [task.id]


def test_lease_ends_at_its_millisecond_and_not_before(server: testing.MemoryServer, client: codeq.Client) -> None:
    client.create("A")
    [task] = client.claim(["A"], lease_seconds=60)
    server.clock.advance(seconds=59.999)
    client.heartbeat(task)
    server.clock.advance(seconds=59.999)
    assert client.get(task.id).status == "CLAIMED"
    server.clock.advance(seconds=0.001)
    assert client.get(task.id).status != "CLAIMED"
    with pytest.raises(codeq.LeaseLost):
        client.complete(task)


def test_worker_retries_at_each_backoff_until_the_task_is_dead(
    server: testing.MemoryServer, client: codeq.Client
) -> None:
    attempts: list[int] = []
    worker = server.worker()

    @worker.task("A")
    def fail(task: codeq.Task) -> None:
        attempts.append(task.attempts)
        raise RuntimeError

    thread = threading.Thread(target=worker.run)
    thread.start()
    task = client.create("A", max_attempts=3)
    for attempt in (1, 2):
        eventually_blocking(lambda: client.get(task.id).status == "SCHEDULED")
        server.clock.advance(seconds=29.999)
        assert attempts == list(range(1, attempt + 1))
        assert client.get(task.id).status == "SCHEDULED"
        server.clock.advance(seconds=0.001)
        eventually_blocking(lambda: len(attempts) == attempt + 1)  # noqa: B023 - called at once
    assert client.result(task.id, wait=20).status == "DLQ"
    worker.stop()
    thread.join(20)
    assert attempts == [1, 2, 3]


def test_what_falls_due_is_done_in_the_order_of_its_times(server: testing.MemoryServer, client: codeq.Client) -> None:
    late, task = client.create("B", delay=7200), client.create("A", max_attempts=1)
    [claimed] = client.claim(["A"], lease_seconds=60)
    begun = server.clock.now()
    server.clock.advance(seconds=DAY)
    [attempt] = client.get(task.id).attempt_history
    assert (attempt.ended_at, claimed.id) == (begun + timedelta(seconds=60), task.id)
    assert client.get(late.id).updated_at == begun + timedelta(seconds=7200)
    assert server.clock.now() == begun + timedelta(days=1)


def test_tasks_expire_and_are_removed_after_their_retention(client: codeq.Client, server: testing.MemoryServer) -> None:
    task = client.create("A", expire=60)
    server.clock.advance(seconds=60)
    assert client.get(task.id).error == "EXPIRED"
    server.clock.advance(seconds=3650 * DAY)
    with pytest.raises(codeq.TaskNotFound):
        client.get(task.id)


def test_thousands_of_tasks_fall_due_at_once(server: testing.MemoryServer, client: codeq.Client) -> None:
    with server.producer() as producer:
        assert all(
            isinstance(made, str)
            for _ in range(20)
            for made in producer.create_batch([codeq.NewTask("A", delay=60) for _ in range(100)])
        )
    server.clock.advance(seconds=60)
    assert client.queue("A").ready == 2000


async def test_handler_is_cancelled_when_its_lease_elapses(server: testing.MemoryServer) -> None:
    begun: list[codeq.Task] = []
    ends: list[object] = []

    async def handle(task: codeq.Task) -> None:
        begun.append(task)
        try:
            await eventually(lambda: False)
        finally:
            ends.append(task.cancel_reason)

    worker = server.async_worker(lease_seconds=3)
    async with server.async_producer() as producer, running(worker, handle, "A"):
        await producer.create("A", max_attempts=1)
        await eventually(lambda: begun)
        server.clock.advance(seconds=3)
        await eventually(lambda: ends)  # at the next renewal, which is due after a third of the lease
    assert ends == [codeq.CancelReason.LEASE_LOST]


def test_running_clock_runs_and_jumps() -> None:
    with testing.memory_server() as server, server.client() as client:
        before = server.clock.now()
        short, long = client.create("A", delay=0.05), client.create("A", delay=DAY)
        [claimed] = client.claim(["A"], wait=20)
        assert client.complete(claimed).task_id == short.id
        server.clock.advance(seconds=DAY)
        assert client.claim(["A"])[0].id == long.id
        assert server.clock.now() - before > timedelta(days=1)


def test_servers_run_side_by_side_each_with_a_clock_of_its_own() -> None:
    with contextlib.ExitStack() as stack:
        one, other = (stack.enter_context(testing.memory_server()) for _ in range(2))
        first, second = (stack.enter_context(each.client()) for each in (one, other))
        tasks = [client.create("A", delay=DAY) for client in (first, second)]
        one.clock.advance(seconds=DAY)
        assert first.get(tasks[0].id).status == "PENDING"
        assert second.get(tasks[1].id).status == "SCHEDULED"


def test_server_serves_rest_and_reports_its_store(server: testing.MemoryServer, client: codeq.Client) -> None:
    headers = {"Authorization": f"Bearer {server.token}"}
    answer = httpx.post(f"{server.http_url}/v1/codeq/tasks", headers=headers, json={"command": "A", "payload": 1})
    assert answer.status_code == 202
    assert client.get(answer.json()["id"]).payload == 1
    assert client.server_info().persistence_provider == "memory"


def test_server_leaves_nothing_behind_in_the_process(caplog: pytest.LogCaptureFixture) -> None:
    with testing.memory_server():
        pass  # imports, and what the process has once, such as the poller of gRPC

    def state() -> tuple[object, ...]:
        umask = os.umask(0o022)
        os.umask(umask)
        handlers = list(logging.getLogger().handlers)
        signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return umask, handlers, signals, gc.get_threshold(), gc.get_freeze_count(), sys.stderr, sys.unraisablehook

    before, threads = state(), threading.active_count()
    with testing.memory_server() as server, server.client() as client:
        client.create("A")
        port = int(server.producer_addr.rpartition(":")[2])
        assert state() == before
    assert (state(), threading.active_count()) == (before, threads)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert [record for record in caplog.records if record.name.startswith("asyncio")] == []


@pytest.mark.parametrize("seconds", [-0.001, 11 * 365 * DAY, float("nan")])
def test_clock_does_not_go_back_nor_too_far(server: testing.MemoryServer, seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds: must be 0 to"):
        server.clock.advance(seconds)


def test_invalid_setting_is_named() -> None:
    with pytest.raises(ValueError, match="RETENTION_SECONDS"), testing.memory_server(env={"RETENTION_SECONDS": "x"}):
        pass


def test_missing_server_is_reported_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "without").mkdir()
    monkeypatch.syspath_prepend(str(describe_server(tmp_path / "without", entry_points=False)))
    with pytest.raises(testing.ServerNotFoundError, match="install codeq-server"), testing.memory_server():
        pass


PROGRAM = """
from codeq.testing import memory_server

with memory_server() as server, server.producer() as producer, server.client() as client:
    task = producer.create("X", delay=3600)
    server.clock.advance(seconds=3600)
    print(client.get(task).status)
"""


def test_program_prints_nothing_of_the_server(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], env=env, capture_output=True, text=True, check=False, timeout=50
    )
    assert (ran.stdout, ran.stderr, ran.returncode) == ("PENDING\n", "", 0)


def test_requests_are_signed_with_the_time_of_the_moved_clock() -> None:
    secret = "a secret of some length"
    env = {"WEBHOOK_HMAC_SECRET": secret}
    with Receiver() as receiver, testing.memory_server(env=env) as server, server.client() as client:
        server.clock.advance(seconds=DAY)
        client.cancel(client.create("A", webhook=f"{receiver.url}/hook"))
        [request] = receiver.wait("/hook")
        assert verify(request.body, request.headers, [secret], now=server.clock.now()) == request.json["deliveryId"]
        with pytest.raises(codeq.WebhookRejected, match="more than 300 seconds off"):
            verify(request.body, request.headers, [secret])
