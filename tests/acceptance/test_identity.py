"""Contract rows "idempotency" and "ids and names" over HTTP, gRPC streams and the SDK, against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import codeq
import httpx
import pytest
from documented import ENVIRONMENT
from server_process import DEV_TOKEN, ServerProcess
from test_bad_input import WORKER_SCOPES, call, queue_of, refused, static

SAME = {"command": "A", "payload": {"n": 1}, "priority": 3, "maxAttempts": 2, "delaySeconds": 3600}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the well-known token for everything."""
    with ServerProcess(tmp_path_factory.mktemp("running")) as server:
        yield server


def create(server: ServerProcess, body: dict[str, Any], **headers: str) -> httpx.Response:
    """Creates a task over HTTP."""
    return call(server, "POST", "/tasks", json=body, headers=headers)


def test_same_key_with_the_same_request_returns_the_first_task_as_a_duplicate(running: ServerProcess) -> None:
    first = create(running, {**SAME, "idempotencyKey": "same"})
    assert first.status_code == 202
    assert "duplicate" not in first.json()
    again = create(running, SAME, **{"Idempotency-Key": "same"})
    assert (again.status_code, again.json()) == (200, {**first.json(), "duplicate": True})


@pytest.mark.parametrize(
    "change",
    [
        {"command": "OTHER"},
        {"payload": {"n": 2}},
        {"priority": 4},
        {"maxAttempts": 3},
        {"delaySeconds": 3601},
        {"delaySeconds": None, "runAt": "2100-01-01T00:00:00Z"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_same_key_with_a_different_request_gets_409(running: ServerProcess, change: dict[str, Any]) -> None:
    key = {"idempotencyKey": f"another-{change}"}
    assert create(running, {**SAME, **key}).status_code == 202
    refused(create(running, {**SAME, **key, **change}), 409, "IDEMPOTENCY_CONFLICT")
    assert create(running, {**SAME, **key}).status_code == 200


MEANS_THE_SAME = [
    {"payload": '{ "a": {"c": [1.50, 1e3], "b": "\\u00e9"}, "n": 1 }'},
    {"payload": '{"n":1,"a":{"b":"é","c":[1.50,1e3]}}'},
    {"maxAttempts": "5"},
    {"priority": "0", "delaySeconds": "0"},
    {"maxAttempts": "null"},
]
MEANS_ANOTHER = [{"payload": '{"a":{"b":"é","c":[1.5,1e3]},"n":1}'}, {"maxAttempts": "4"}, {"expireSeconds": "60"}]


def test_idempotency_fingerprint_ignores_json_spelling(running: ServerProcess) -> None:
    def send(**fields: str) -> httpx.Response:
        body = {"command": '"A"', "payload": '{"a":{"b":"é","c":[1.50,1e3]},"n":1}', "idempotencyKey": '"meaning"'}
        text = ",".join(f'"{name}":{value}' for name, value in (body | fields).items())
        return call(
            running,
            "POST",
            "/tasks",
            content=f"{{{text}}}",
            headers={"Content-Type": "application/json; charset=utf-8"},
        )

    assert send().status_code == 202
    for same in MEANS_THE_SAME:
        assert (send(**same).status_code, send(**same).json()["duplicate"]) == (200, True)
    for other in MEANS_ANOTHER:
        refused(send(**other), 409, "IDEMPOTENCY_CONFLICT")
    with codeq.Producer(running.producer_addr, token=DEV_TOKEN) as producer:
        payload = codeq.RawJson(MEANS_THE_SAME[0]["payload"].encode())
        again = producer.create("A", payload, max_attempts=5, idempotency_key="meaning")
        assert again == send().json()["id"]


def test_idempotency_fingerprint_of_a_batch_ignores_json_spelling(running: ServerProcess) -> None:
    def send(first: dict[str, Any], second: dict[str, Any]) -> httpx.Response:
        body = {"tasks": [first, second], "atomic": True, "idempotencyKey": "batch-meaning"}
        return call(running, "POST", "/tasks/batch", json=body)

    first, second = {"command": "A", "payload": {"a": 1, "b": 2}}, {"command": "B", "payload": 1}
    ids = [each["task"]["id"] for each in send(first, second).json()["results"]]
    again = send({"command": "A", "payload": {"b": 2, "a": 1}, "maxAttempts": 5}, second)
    assert [each["task"]["id"] for each in again.json()["results"]] == ids
    refused(send(second, first), 409, "IDEMPOTENCY_CONFLICT")


def test_idempotency_keys_in_body_and_header_must_match(running: ServerProcess) -> None:
    answer = create(running, {"command": "BOTH", "idempotencyKey": "a"}, **{"Idempotency-Key": "b"})
    assert refused(answer, 400, "INVALID_FIELD")["details"][0]["field"] == "Idempotency-Key"
    assert create(running, {"command": "BOTH", "idempotencyKey": "a"}, **{"Idempotency-Key": "a"}).status_code == 202


def test_concurrent_creates_with_one_key_on_every_interface_make_one_task(running: ServerProcess) -> None:
    with (
        ThreadPoolExecutor(16) as pool,
        codeq.Producer(running.producer_addr, token=DEV_TOKEN) as producer,
        codeq.Client(running.producer_addr, token=DEV_TOKEN) as client,
    ):
        fronts = [
            lambda: create(running, {"command": "MANY", "payload": 1, "idempotencyKey": "many"}).json()["id"],
            lambda: producer.create("MANY", 1, idempotency_key="many"),
            lambda: client.create("MANY", 1, idempotency_key="many").id,
        ]
        ids = {future.result() for future in [pool.submit(front) for _ in range(12) for front in fronts]}
    assert len(ids) == 1
    assert queue_of(running, "MANY")["ready"] == 1


def test_idempotency_survives_a_kill_and_streams_report_duplicates(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        first = create(server, {"command": "A", "payload": 1, "idempotencyKey": "k"}).json()["id"]
        server.kill()
    with ServerProcess(tmp_path) as server:
        with codeq.Producer(server.producer_addr, token=DEV_TOKEN) as producer:
            tasks = [codeq.NewTask("A", payload, idempotency_key="k") for payload in (1, 2)]
            same, other = producer.create_batch(tasks)
        assert same == first
        assert isinstance(other, codeq.IdempotencyConflict)
        assert queue_of(server, "A")["ready"] == 1


def test_every_call_finds_a_task_by_its_producer_chosen_id(running: ServerProcess) -> None:
    created = create(running, {"command": "NAMED", "payload": 1, "taskId": "order-42"})
    assert (created.status_code, created.json()["id"]) == (202, "order-42")
    refused(create(running, {"command": "NAMED", "payload": 1, "taskId": "order-42"}), 409, "TASK_ID_TAKEN")
    assert call(running, "GET", "/tasks/order-42").json() == created.json()
    claim = {"commands": ["NAMED"]}
    claimed = call(running, "POST", "/tasks/claim", json=claim).json()
    assert (claimed["id"], claimed["attempts"]) == ("order-42", 1)
    assert "leaseUntil" in call(running, "POST", "/tasks/order-42/heartbeat", json={"extendSeconds": 90}).json()
    assert call(running, "POST", "/tasks/order-42/abandon", json={}).json()["status"] == "PENDING"
    assert call(running, "POST", "/tasks/claim", json=claim).json()["attempts"] == 1
    assert call(running, "POST", "/tasks/order-42/nack", json={"delaySeconds": 0}).json()["status"] == "PENDING"
    worker = codeq.Worker(running.worker_addr, token=DEV_TOKEN)

    @worker.task("NAMED")
    def handle(task: codeq.Task) -> str:
        worker.stop()
        return task.id

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(call, running, "GET", "/tasks/order-42/result?waitSeconds=20")
        worker.run(handle_signals=False)
        result = waiting.result().json()["result"]
    assert (result["taskId"], result["status"], result["result"]) == ("order-42", "COMPLETED", "order-42")


def test_ids_and_names_are_unique_only_within_a_tenant(tmp_path: Path) -> None:
    env = {
        **ENVIRONMENT,
        "PRODUCER_AUTH_CONFIG": static("producer", "acme"),
        "WORKER_AUTH_CONFIG": static("worker", "umbrella", scopes=WORKER_SCOPES, eventTypes=["*"]),
    }
    del env["PERSISTENCE_CONFIG"]
    with ServerProcess(tmp_path / "server", env=env, dev=False) as server:
        mine = call(server, "POST", "/tasks", token="producer", json={"command": "A", "payload": 1, "taskId": "x"})
        assert mine.status_code == 202
        refused(call(server, "GET", "/tasks/x", token="worker"), 404, "TASK_NOT_FOUND")
        refused(call(server, "POST", "/tasks/x/nack", token="worker", json={}), 404, "TASK_NOT_FOUND")


def test_atomic_batch_creates_all_tasks_or_none(running: ServerProcess) -> None:
    good, bad = {"command": "ALL", "payload": 1}, {"command": "ALL", "payload": 1, "priority": 10}
    answer = call(running, "POST", "/tasks/batch", json={"tasks": [good, bad], "atomic": True})
    assert refused(answer, 400, "INVALID_FIELD")["details"][0]["field"] == "tasks[1].priority"
    named = {**good, "taskId": "twice"}
    refused(call(running, "POST", "/tasks/batch", json={"tasks": [named, named], "atomic": True}), 409, "TASK_ID_TAKEN")
    refused(call(running, "GET", "/admin/queues/ALL"), 404, "QUEUE_NOT_FOUND")
    answer = call(running, "POST", "/tasks/batch", json={"tasks": [good, named, good], "atomic": True})
    assert [each["task"]["command"] for each in answer.json()["results"]] == ["ALL"] * 3
    assert queue_of(running, "ALL")["ready"] == 3


def test_atomic_batch_has_one_key_for_all_tasks(running: ServerProcess) -> None:
    tasks = [{"command": "KEYED", "payload": number} for number in range(3)]
    body = {"tasks": tasks, "atomic": True}
    first = call(running, "POST", "/tasks/batch", json=body, headers={"Idempotency-Key": "batch"}).json()["results"]
    again = call(running, "POST", "/tasks/batch", json={**body, "idempotencyKey": "batch"}).json()["results"]
    assert again == [{"task": {**each["task"], "duplicate": True}} for each in first]
    assert queue_of(running, "KEYED")["ready"] == 3
    other = {"tasks": tasks[:2], "atomic": True, "idempotencyKey": "batch"}
    refused(call(running, "POST", "/tasks/batch", json=other), 409, "IDEMPOTENCY_CONFLICT")
    for bad, field in (
        ({"tasks": tasks, "idempotencyKey": "k"}, "idempotencyKey"),
        ({"tasks": [{**tasks[0], "idempotencyKey": "k"}], "atomic": True}, "tasks[0].idempotencyKey"),
        ({"tasks": [{**tasks[0], "taskId": "t"}], "atomic": True, "idempotencyKey": "k"}, "tasks[0].taskId"),
    ):
        answer = refused(call(running, "POST", "/tasks/batch", json=bad), 400, "INVALID_FIELD")
        assert answer["details"][0]["field"] == field


def test_non_atomic_batch_handles_each_key_separately(running: ServerProcess) -> None:
    keys = ["one", "two", "one"]
    tasks = [{"command": "EACH", "payload": 1, "idempotencyKey": key} for key in keys]
    results = call(running, "POST", "/tasks/batch", json={"tasks": tasks}).json()["results"]
    assert [each["task"].get("duplicate", False) for each in results] == [False, False, True]
    assert results[0]["task"]["id"] == results[2]["task"]["id"]
