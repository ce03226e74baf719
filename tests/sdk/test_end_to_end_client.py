"""Clients against a real server: every call, and its errors."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import codeq
import pytest
from callback_receiver import Receiver
from server_process import DEV_TOKEN, ServerProcess


def test_client_drives_a_task_through_its_lifecycle(shared_server: ServerProcess) -> None:
    with codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client:
        created = client.create("client-life", {"n": 1}, priority=3, max_attempts=4)
        assert (created.status, created.priority, created.max_attempts) == ("PENDING", 3, 4)
        [task] = client.claim(["client-life"], lease_seconds=30, wait=5)
        assert (task.id, task.payload, task.attempts, task.status) == (created.id, {"n": 1}, 1, "CLAIMED")
        assert task.lease_token is not None
        until = client.heartbeat(task, extend_seconds=600)
        assert until - datetime.now(UTC) > timedelta(seconds=500)
        assert client.nack(task, "try again", delay=0) == codeq.Returned(codeq.TaskStatus.PENDING, 0)
        with pytest.raises(codeq.LeaseLost):
            client.heartbeat(task)
        [again] = client.claim(["client-life"])
        assert (again.attempts, again.error) == (2, "try again")
        assert client.abandon(again).status is codeq.TaskStatus.PENDING
        [last] = client.claim(["client-life"])
        assert last.attempts == 2
        with pytest.raises(codeq.ResultNotFound):
            client.result(created.id)
        with pytest.raises(codeq.StaleLeaseToken):
            client.complete(task, {"late": True})
        record = client.complete(last, {"ok": True})
        assert (record.status, record.result) == ("COMPLETED", {"ok": True})
        assert client.complete(last, {"ok": True}).completed_at == record.completed_at
        assert client.result(created.id, wait=5).result_bytes == b'{"ok":true}'
        ended = client.get(created.id)
        assert (ended.status, ended.finished_at) == ("COMPLETED", record.completed_at)
        assert client.claim(["client-life"]) == []


def test_client_fails_a_task_and_reads_queue_and_server_state(shared_server: ServerProcess) -> None:
    with codeq.Client(shared_server.worker_addr, token=DEV_TOKEN) as client:
        tasks = client.create_batch([codeq.NewTask("client-fail", n, delay=3600 if n else None) for n in range(3)])
        assert [task.status for task in tasks if isinstance(task, codeq.Task)] == ["PENDING", "SCHEDULED", "SCHEDULED"]
        queue = client.queue("client-fail")
        assert (queue.ready, queue.scheduled, queue.claimed, queue.dlq) == (1, 2, 0, 0)
        assert "client-fail" in [queue.command for queue in client.queues(page_size=500)[0]]
        [task] = client.claim(["client-fail"])
        assert client.fail(task.id, "no such order").error == "no such order"
        assert client.get(task.id).status is codeq.TaskStatus.FAILED
        info = client.server_info()
        assert info.fsync
        assert info.payload_bytes_max == 1 << 20


def test_client_gets_typed_errors(shared_server: ServerProcess) -> None:
    with codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client:
        with pytest.raises(codeq.TaskNotFound):
            client.get("unknown")
        with pytest.raises(codeq.QueueNotFound):
            client.queue("never-used")
        with pytest.raises(codeq.InvalidField) as caught:
            client.create("client-errors", priority=10)
        assert [violation.field.split(".")[-1] for violation in caught.value.violations] == ["priority"]
        refused, accepted = client.create_batch(
            [codeq.NewTask("client-errors", codeq.RawJson("{")), codeq.NewTask("client-errors")]
        )
        assert isinstance(refused, codeq.InvalidField)
        assert isinstance(accepted, codeq.Task)
    with pytest.raises(codeq.Closed):
        client.get("unknown")
    with codeq.Client(shared_server.producer_addr, token="wrong") as client, pytest.raises(codeq.Unauthenticated):
        client.server_info()
    with codeq.Client("127.0.0.1:1", token=DEV_TOKEN) as client, pytest.raises(codeq.Unavailable) as unavailable:
        client.server_info()
    assert unavailable.value.retryable


async def test_async_client_drives_a_task_through_its_lifecycle(shared_server: ServerProcess) -> None:
    async with codeq.AsyncClient(shared_server.producer_addr, token=lambda: DEV_TOKEN) as client:
        waiting = asyncio.create_task(client.claim(["async-client"], wait=20))
        created = await client.create("async-client", [1])
        [task] = await waiting
        assert task.id == created.id
        await client.heartbeat(task)
        await client.nack(task, delay=0)
        [task] = await client.claim(["async-client"])
        await client.abandon(task)
        [task] = await client.claim(["async-client"])
        record = asyncio.create_task(client.result(task.id, wait=20))
        await client.complete(task)
        assert (await record).result_bytes is None
        assert (await client.get(task.id)).status is codeq.TaskStatus.COMPLETED
        [other] = await client.create_batch([codeq.NewTask("async-client")])
        assert isinstance(other, codeq.Task)
        [task] = await client.claim(["async-client"])
        await client.fail(task, "broken")
        assert (await client.queue("async-client")).claimed == 0
        assert (await client.queues())[0]
        assert (await client.server_info()).mode == "single"
        with pytest.raises(codeq.TaskNotFound):
            await client.get("unknown")
    with pytest.raises(codeq.Closed):
        await client.get("unknown")


def test_worker_subscribes_to_signals(shared_server: ServerProcess) -> None:
    with Receiver() as receiver, codeq.Client(shared_server.worker_addr, token=DEV_TOKEN) as client:
        made, expires_at = client.subscribe(
            f"{receiver.url}/ready", ["client-signals"], ttl_seconds=60, min_interval_seconds=0
        )
        client.create("client-signals")
        assert receiver.wait("/ready", seconds=20)[0].json["eventType"] == "client-signals"
        assert client.renew_subscription(made, 600)[1] > expires_at
        shown = client.subscription(made)
        assert (shown.commands, shown.delivery_mode, shown.ttl_seconds) == (("client-signals",), "fanout", 600)
        assert shown in client.subscriptions(page_size=500)[0]
        client.unsubscribe(made)
        with pytest.raises(codeq.NotFound):
            client.subscription(made)
        with pytest.raises(codeq.Rejected, match="internal network"):
            client.subscribe("http://10.0.0.1/")


async def test_async_client_has_the_same_calls_about_subscriptions(shared_server: ServerProcess) -> None:
    async with codeq.AsyncClient(shared_server.worker_addr, token=DEV_TOKEN) as client:
        made, _ = await client.subscribe("https://hooks.example/", delivery_mode="group", group_id="g")
        await client.renew_subscription(made)
        shown = await client.subscription(made)
        assert (shown.group_id, shown.min_interval_seconds) == ("g", 5)
        assert made in [each.id for each in (await client.subscriptions(page_size=500))[0]]
        await client.unsubscribe(made)


async def test_client_parks_the_key_of_a_task(shared_server: ServerProcess) -> None:
    async with codeq.AsyncClient(shared_server.producer_addr, token=DEV_TOKEN) as client:
        first = await client.create("client-park", concurrency_key="k")
        second = await client.create("client-park", concurrency_key="k")
        [task] = await client.claim(["client-park"])
        assert (await client.abandon(task, delay=3600, park_key=True)).delay_seconds == 3600
        assert await client.claim(["client-park"]) == []
        for waiting in (first, second):
            wait = (await client.explain(waiting.id)).key_wait
            assert wait is not None
            assert (wait.kind, wait.key, wait.parked_until is not None) == ("CONCURRENCY", "k", True)


def test_tasks_of_an_ordering_key_are_numbered(shared_server: ServerProcess) -> None:
    with codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client:
        made = [client.create("client-order", ordering_key="k") for _ in range(2)]
        assert [client.get(task.id).ordering_number for task in made] == [1, 2]
        assert client.create("client-order").ordering_number is None
