"""The documents' lines about topics, and the policies that they hold, against a real server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import codeq
import httpx
import pytest
from bare_streams import take, working
from codeq.v1 import worker_service_pb2
from server_process import DEV_TOKEN, ServerProcess

SECONDS_MAX = 30


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the well-known token for everything."""
    with ServerProcess(tmp_path_factory.mktemp("topics")) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[codeq.Client]:
    """A client of the server."""
    with codeq.Client(server.producer_addr, token=DEV_TOKEN) as opened:
        yield opened


def ask(server: ServerProcess, method: str, path: str, **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {DEV_TOKEN}"}
    return httpx.request(method, f"{server.http_url}/v1/codeq{path}", headers=headers, timeout=SECONDS_MAX, **more)


def put(server: ServerProcess, name: str, **policy: Any) -> httpx.Response:
    return ask(server, "PUT", f"/admin/topics/{name}", json=policy)


def create(server: ServerProcess, command: str, **fields: Any) -> httpx.Response:
    return ask(server, "POST", "/tasks", json={"command": command, "payload": 1, **fields})


# -- the catalogue -------------------------------------------------------------------------------------------------


def test_topic_lives_as_documented(server: ServerProcess) -> None:
    made = put(server, "events", priorityTiers=[5, 1], maxAttempts=5)
    assert made.status_code == 201
    topic = made.json()
    assert topic["topicId"] == "dev-tenant.events"
    assert (topic["tenantId"], topic["topicName"], topic["version"]) == ("dev-tenant", "events", 1)
    assert topic["policy"] == {"priorityTiers": [1, 5], "maxAttempts": 5}
    assert topic["createdAt"] == topic["updatedAt"]
    same = put(server, "events", priorityTiers=[1, 5], maxAttempts=5)
    assert same.status_code == 200
    assert same.json() == {name: value for name, value in topic.items() if name != "created"}
    changed = put(server, "events", priorityTiers=[1, 5], maxAttempts=6)
    assert (changed.status_code, changed.json()["version"]) == (200, 2)
    assert changed.json()["createdAt"] == topic["createdAt"]
    assert changed.json()["updatedAt"] > topic["updatedAt"]
    assert ask(server, "GET", "/admin/topics/events").json() == changed.json()
    assert changed.json() in ask(server, "GET", "/admin/topics").json()["topics"]
    refused = ask(server, "DELETE", "/admin/topics/events")
    assert (refused.status_code, refused.json()["reason"]) == (400, "INVALID_FIELD")
    assert "deletionPolicy" in refused.json()["error"]
    assert ask(server, "DELETE", "/admin/topics/events?deletionPolicy=Keep").status_code == 400
    for _ in range(2):
        gone = ask(server, "DELETE", "/admin/topics/events?deletionPolicy=Delete")
        assert (gone.status_code, gone.content) == (204, b"")
    missing = ask(server, "GET", "/admin/topics/events")
    assert (missing.status_code, missing.json()["reason"]) == (404, "TOPIC_NOT_FOUND")
    assert put(server, "events").json()["version"] == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", ""),
        (b"[]", ""),
        (b"{}{}", ""),
        (b'{"priority":1}', "priority"),
        (b'{"maxAttempts":"many"}', "maxAttempts"),
        (b'{"backoff":{"steps":1}}', "backoff.steps"),
    ],
)
def test_malformed_policy_gets_400(server: ServerProcess, body: bytes, field: str) -> None:
    answer = ask(server, "PUT", "/admin/topics/malformed", content=body)
    assert answer.status_code == 400
    assert [each["field"] for each in answer.json()["details"]] == ([field] if field else [])


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        ({"priorityTiers": [*range(10), 0]}, "priorityTiers"),
        ({"priorityTiers": [1, 1]}, "priorityTiers"),
        ({"priorityTiers": [10]}, "priorityTiers[0]"),
        ({"priorityTiers": [-1]}, "priorityTiers[0]"),
        ({"maxAttempts": 1001}, "maxAttempts"),
        ({"maxAttempts": -1}, "maxAttempts"),
        ({"maxConsumers": 10_001}, "maxConsumers"),
        ({"retentionSeconds": -1}, "retentionSeconds"),
        ({"dlqRetentionSeconds": -1}, "dlqRetentionSeconds"),
        ({"priorityTiers": [1], "defaultPriority": 2}, "defaultPriority"),
        ({"priorityTiers": [0, 2], "defaultPriority": 2}, "defaultPriority"),
        ({"backoff": {"policy": "soon"}}, "backoff.policy"),
        ({"backoff": {"baseSeconds": 43_201}}, "backoff.baseSeconds"),
        ({"payloadBytesMax": 1_048_577}, "payloadBytesMax"),
        ({"defaultExpireSeconds": 315_360_001}, "defaultExpireSeconds"),
        ({"concurrencyPerKey": 10_001}, "concurrencyPerKey"),
        ({"ratePerSecond": -1}, "ratePerSecond"),
        ({"ratePerSecond": 0.0001}, "ratePerSecond"),
        ({"ratePerKeyPerSecond": 1_000_001}, "ratePerKeyPerSecond"),
        ({"rateBurst": 1_000_001}, "rateBurst"),
        ({"atKeyLimit": "panic"}, "atKeyLimit"),
        ({"webhook": "example.com"}, "webhook"),
        ({"payloadSchema": {"type": "text"}}, "payloadSchema"),
        ({"payloadSchema": {"$ref": "https://example.com/"}}, "payloadSchema"),
        ({"payloadSchema": {"title": "x" * 16_384}}, "payloadSchema"),
        ({"payloadSchema": []}, "payloadSchema"),
        ({"payloadSchema": None}, "payloadSchema"),
        ({"defaultLeaseSeconds": 43_201}, "defaultLeaseSeconds"),
        ({"webhook": "https://user:pass@example.com/"}, "webhook"),
        ({"concurrencyKeyPath": "customer"}, "concurrencyKeyPath"),
        ({"rateKeyPath": "/a~2"}, "rateKeyPath"),
        ({"orderingKeyPath": "/" + "a" * 256}, "orderingKeyPath"),
    ],
)
def test_bad_policy_gets_422_with_the_field(server: ServerProcess, policy: dict[str, Any], field: str) -> None:
    answer = put(server, "bad", **policy)
    assert (answer.status_code, answer.json()["reason"], answer.json()["field"]) == (422, "INVALID_POLICY", field)
    assert ask(server, "GET", "/admin/topics/bad").status_code == 404


def test_webhook_that_leads_inside_is_refused(server: ServerProcess) -> None:
    answer = put(server, "inside", webhook="http://10.0.0.1/hook").json()
    assert (answer["reason"], answer["field"]) == ("URL_NOT_ALLOWED", "webhook")
    assert ask(server, "GET", "/admin/topics/inside").status_code == 404


def test_zero_in_a_policy_means_not_set(server: ServerProcess) -> None:
    assert put(server, "zeros", retentionSeconds=0, maxConsumers=0, backoff={}, webhook="").json()["policy"] == {}


def test_topics_survive_a_kill(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        assert put(server, "kept", maxConsumers=1).status_code == 201
        for _ in range(3):
            assert create(server, "kept").status_code == 202
        assert len(ask(server, "POST", "/tasks/claim/batch", json={"count": 3}).json()["tasks"]) == 1
        server.kill()
        server.start()
        assert ask(server, "GET", "/admin/topics/kept").json()["version"] == 1
        assert ask(server, "POST", "/tasks/claim/batch", json={"count": 3}).status_code == 204
        assert put(server, "kept", maxConsumers=2).json()["version"] == 2
        assert len(ask(server, "POST", "/tasks/claim/batch", json={"count": 3}).json()["tasks"]) == 1


def test_concurrent_updates_each_get_a_version_of_their_own(server: ServerProcess) -> None:
    put(server, "busy", maxAttempts=1)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: put(server, "busy", maxAttempts=number), range(2, 34)))
    assert sorted(answer.json()["version"] for answer in answers) == list(range(2, 34))


# -- new tasks -----------------------------------------------------------------------------------------------------


def test_new_tasks_get_the_defaults_of_their_policy_and_stay_in_its_bounds(server: ServerProcess) -> None:
    put(server, "fit", priorityTiers=[2, 7], defaultPriority=2, maxAttempts=3, payloadBytesMax=10)
    task = create(server, "fit").json()
    assert (task["priority"], task["maxAttempts"]) == (2, 3)
    task = create(server, "fit", priority=7, maxAttempts=2).json()
    assert (task["priority"], task["maxAttempts"]) == (7, 2)
    for fields, field in (
        ({"priority": 3}, "priority"),
        ({"maxAttempts": 4}, "maxAttempts"),
        ({"payload": "x" * 9}, "payload"),
    ):
        answer = create(server, "fit", **fields)
        assert (answer.status_code, answer.json()["reason"], answer.json()["field"]) == (422, "POLICY_VIOLATION", field)


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def test_payloads_must_fit_the_schema_in_calls_streams_schedules_and_after_a_kill(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        assert put(server, "typed", payloadSchema=SCHEMA).json()["policy"] == {"payloadSchema": SCHEMA}
        assert create(server, "typed", payload={"n": 1}).status_code == 202
        spec = {"every": "1h", "command": "typed", "payload": {"n": 0.5}}
        assert ask(server, "PUT", "/admin/schedules/typed", json=spec).status_code == 200
        for _ in range(2):
            answer = create(server, "typed", payload={"n": "secret"}).json()
            assert (answer["reason"], answer["field"]) == ("POLICY_VIOLATION", "payload")
            assert "/n: " in answer["error"]
            assert "secret" not in answer["error"]
            assert ask(server, "POST", "/admin/schedules/typed/trigger").json()["reason"] == "POLICY_VIOLATION"
            with codeq.Producer(server.producer_addr, token=DEV_TOKEN) as producer:
                producer.create("typed", {"n": 2})
                with pytest.raises(codeq.CodeqError, match="payloadSchema"):
                    producer.create("typed", {"m": 2})
            server.kill()
            server.start()
        records = ask(server, "GET", "/admin/audit").json()["records"]
        digests = [json.loads(each["after"])["payloadSchema"] for each in records if each["call"] == "PutTopic"]
        assert [len(digest) for digest in digests] == [64]
        put(server, "typed")
        assert create(server, "typed", payload=7).status_code == 202


def test_task_expires_as_its_policy_says(server: ServerProcess) -> None:
    put(server, "short", defaultExpireSeconds=1)
    task = create(server, "short").json()
    record = ask(server, "GET", f"/tasks/{task['id']}/result?waitSeconds=10").json()["result"]
    assert (record["status"], record["error"]) == ("FAILED", "EXPIRED")


def test_items_of_batches_fail_one_by_one_and_atomic_batches_as_a_whole(server: ServerProcess) -> None:
    put(server, "batch", priorityTiers=[1])
    tasks = [{"command": "batch", "payload": 1, "priority": priority} for priority in (1, 2, 1)]
    results = ask(server, "POST", "/tasks/batch", json={"tasks": tasks}).json()["results"]
    assert [each.get("error", {}).get("reason") for each in results] == [None, "POLICY_VIOLATION", None]
    answer = ask(server, "POST", "/tasks/batch", json={"tasks": tasks, "atomic": True})
    assert (answer.status_code, answer.json()["field"]) == (422, "tasks[1].priority")
    assert ask(server, "GET", "/admin/queues/batch").json()["ready"] == 2


def test_streams_refuse_items_that_the_policy_does_not_allow(server: ServerProcess) -> None:
    put(server, "stream", maxAttempts=2)
    with codeq.Producer(server.producer_addr, token=DEV_TOKEN) as producer:
        made = producer.create("stream", 1)
        with pytest.raises(codeq.CodeqError, match="max_attempts") as caught:
            producer.create("stream", 1, max_attempts=3)
    assert caught.value.reason == "POLICY_VIOLATION"
    assert ask(server, "GET", f"/tasks/{made}").json()["maxAttempts"] == 2


def test_repeated_request_finds_its_task_even_if_the_policy_has_become_stricter(server: ServerProcess) -> None:
    task = create(server, "again", idempotencyKey="again-1", priority=3).json()
    put(server, "again", priorityTiers=[5])
    again = create(server, "again", idempotencyKey="again-1", priority=3)
    assert (again.status_code, again.json()["id"]) == (200, task["id"])
    assert create(server, "again", idempotencyKey="again-2", priority=3).status_code == 422


# -- leases --------------------------------------------------------------------------------------------------------


def seconds_left(until: str) -> float:
    return (datetime.fromisoformat(until) - datetime.now(UTC)).total_seconds()


def test_claim_without_a_length_gets_the_lease_of_the_policy_at_once_and_after_a_wait(server: ServerProcess) -> None:
    put(server, "leased", defaultLeaseSeconds=600)
    create(server, "leased")
    task = ask(server, "POST", "/tasks/claim", json={"commands": ["leased"]}).json()
    assert 500 < seconds_left(task["leaseUntil"]) <= 600
    extended = ask(server, "POST", f"/tasks/{task['id']}/heartbeat", json={}).json()
    assert 500 < seconds_left(extended["leaseUntil"]) <= 600
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, server, "POST", "/tasks/claim", json={"commands": ["leased"], "waitSeconds": 20})
        create(server, "leased")
        assert 500 < seconds_left(waiting.result(SECONDS_MAX).json()["leaseUntil"]) <= 600
    create(server, "leased")
    task = ask(server, "POST", "/tasks/claim", json={"commands": ["leased"], "leaseSeconds": 30}).json()
    assert seconds_left(task["leaseUntil"]) <= 30


async def test_stream_without_a_length_gets_leases_as_the_policies_of_its_commands_say(server: ServerProcess) -> None:
    put(server, "long", defaultLeaseSeconds=600)
    for command in ("long", "usual", "long", "usual"):
        create(server, command)
    async with working(server, "long", "usual") as stream:
        tasks = {task.id: task for task in await take(stream, 4)}
        until = {name: task.lease_until.seconds for name, task in tasks.items()}
        beats = [worker_service_pb2.Heartbeat(task_id=t.id, lease_token=t.lease_token) for t in tasks.values()]
        await stream.write(worker_service_pb2.WorkRequest(heartbeats=beats))
        extended: dict[str, float] = {}
        while len(extended) < 4:
            extended |= {each.task_id: each.lease_until.seconds for each in (await stream.read()).extended}
    for name, task in tasks.items():
        for end in (until[name], extended[name]):
            assert (500 if task.command == "long" else 0) < end - time.time() <= (601 if task.command == "long" else 61)


# -- maxConsumers --------------------------------------------------------------------------------------------------


def test_freed_slot_wakes_a_waiting_claim(server: ServerProcess) -> None:
    put(server, "slots", maxConsumers=1)
    create(server, "slots")
    create(server, "slots")
    held = ask(server, "POST", "/tasks/claim", json={"commands": ["slots"]}).json()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, server, "POST", "/tasks/claim", json={"commands": ["slots"], "waitSeconds": 20})
        explained = ask(server, "GET", f"/tasks/{create(server, 'slots').json()['id']}/explain").json()
        assert (explained["reason"], explained["limit"]) == ("LIMITED", "maxConsumers")
        assert (explained["limitMax"], explained["limitUsed"]) == (1, 1)
        began = time.monotonic()
        assert not waiting.done()
        ask(server, "POST", f"/tasks/{held['id']}/result", json={"status": "COMPLETED"})
        assert waiting.result(SECONDS_MAX).status_code == 200
        assert time.monotonic() - began < 10


def test_worker_streams_never_hold_more_than_the_policy_allows(server: ServerProcess, client: codeq.Client) -> None:
    put(server, "parallel", maxConsumers=3)
    lock, running, most, done = threading.Lock(), 0, 0, threading.Event()
    left = 60

    def handle(task: codeq.Task) -> None:
        nonlocal running, most, left
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.01)
        with lock:
            running -= 1
            left -= 1
            if not left:
                done.set()

    workers = [codeq.Worker(server.worker_addr, token=DEV_TOKEN, concurrency=8) for _ in range(3)]
    threads = [threading.Thread(target=each.run, args=(handle,), kwargs={"commands": ["parallel"]}) for each in workers]
    client.create_batch([codeq.NewTask("parallel", number) for number in range(left)])
    for thread in threads:
        thread.start()
    try:
        assert done.wait(SECONDS_MAX)
    finally:
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join(SECONDS_MAX)
    assert most <= 3


def waiting_workers(server: ServerProcess) -> float:
    lines = httpx.get(f"{server.http_url}/metrics", timeout=SECONDS_MAX).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("codeq_workers_waiting "))


def test_workers_share_the_slots_of_a_limited_queue(server: ServerProcess, client: codeq.Client) -> None:
    put(server, "shared", maxConsumers=1)
    left, handled, done = 40, [0, 0], threading.Event()
    workers = [codeq.Worker(server.worker_addr, token=DEV_TOKEN, concurrency=4) for _ in handled]

    def run(index: int) -> None:
        def handle(task: codeq.Task) -> None:
            handled[index] += 1
            if sum(handled) == left:
                done.set()

        workers[index].run(handle, commands=["shared"])

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(workers))]
    ask(server, "POST", "/admin/queues/shared/pause")
    client.create_batch([codeq.NewTask("shared", number) for number in range(left)])
    for thread in threads:
        thread.start()
    try:
        with codeq.Client(server.producer_addr, token=DEV_TOKEN) as watching:
            deadline = time.monotonic() + SECONDS_MAX
            while waiting_workers(server) < len(workers):
                assert time.monotonic() < deadline
                watching.queue("shared")
        ask(server, "POST", "/admin/queues/shared/resume")
        assert done.wait(SECONDS_MAX)
    finally:
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join(SECONDS_MAX)
    assert min(handled) >= left // 4
