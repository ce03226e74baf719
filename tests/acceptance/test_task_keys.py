"""Keys of tasks over every interface: strict order end to end, what is shown, and what is rejected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import codeq
import pytest
from server_process import DEV_TOKEN, ServerProcess
from test_bad_input import call, refused


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the well-known token for everything."""
    with ServerProcess(tmp_path_factory.mktemp("keys")) as started:
        yield started


@pytest.fixture
def client(server: ServerProcess) -> Iterator[codeq.Client]:
    with codeq.Client(server.producer_addr, token=DEV_TOKEN) as opened:
        yield opened


def created(server: ServerProcess, command: str, **fields: Any) -> str:
    """Creates a task over REST and returns its id."""
    answer = call(server, "POST", "/tasks", json={"command": command, **fields})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def claimed(server: ServerProcess, command: str) -> str:
    """Claims one task over REST; returns its id, or "" if there is none."""
    answer = call(server, "POST", "/tasks/claim", json={"commands": [command], "waitSeconds": 0})
    return str(answer.json()["id"]) if answer.status_code == 200 else ""


def explained(server: ServerProcess, task_id: str) -> dict[str, Any]:
    shown: dict[str, Any] = call(server, "GET", f"/tasks/{task_id}/explain").json()
    return shown


def test_keys_are_shown_by_every_call_and_delivered(server: ServerProcess) -> None:
    keys = {"concurrencyKey": "tenant 7", "rateKey": "api", "orderingKey": "order-1"}
    task_id = created(server, "shown", **keys)
    for shown in (
        call(server, "GET", f"/tasks/{task_id}").json(),
        call(server, "GET", "/tasks?command=shown").json()["tasks"][0],
        call(server, "POST", "/tasks/claim", json={"commands": ["shown"]}).json(),
    ):
        assert {key: shown[key] for key in keys} == keys
        assert shown["orderingNumber"] == 1
    plain = call(server, "GET", f"/tasks/{created(server, 'shown')}").json()
    assert not plain.keys() & {*keys, "orderingNumber"}


@pytest.mark.parametrize("field", ["concurrencyKey", "rateKey", "orderingKey"])
@pytest.mark.parametrize("key", ["", "x" * 129, "tab\t", "ü", 1])
def test_keys_are_1_to_128_printable_characters(server: ServerProcess, field: str, key: object) -> None:
    answer = call(server, "POST", "/tasks", json={"command": "bad", field: key})
    assert field in str(refused(answer, 400, "INVALID_FIELD")), answer.text


def test_keys_are_part_of_the_fingerprint_of_a_request(server: ServerProcess) -> None:
    request = {"command": "same", "idempotencyKey": "k", "orderingKey": "o"}
    assert call(server, "POST", "/tasks", json=request).status_code == 202
    assert call(server, "POST", "/tasks", json=request).json()["duplicate"] is True
    assert call(server, "POST", "/tasks", json={**request, "orderingKey": "p"}).status_code == 409


def test_tasks_of_an_ordering_key_are_delivered_in_order_over_kills_and_retries(server: ServerProcess) -> None:
    first = created(server, "line", orderingKey="o", delaySeconds=1)
    second, third = created(server, "line", orderingKey="o", priority=9), created(server, "line", orderingKey="o")
    other = created(server, "line", orderingKey="p")
    assert claimed(server, "line") == other
    assert claimed(server, "line") == ""
    assert explained(server, second)["reason"] == "KEY"
    wait = explained(server, third)["keyWait"]
    assert (wait["kind"], wait["key"], wait["limit"], wait["position"]) == ("ORDERING", "o", 1, 2)
    for task in (first, second, third):
        server.kill()
        server.start()
        claim = {"commands": ["line"], "waitSeconds": 20}
        for _ in range(2):
            assert call(server, "POST", "/tasks/claim", json=claim).json()["id"] == task
            call(server, "POST", f"/tasks/{task}/nack", json={"delaySeconds": 1})
        assert call(server, "POST", "/tasks/claim", json=claim).json()["id"] == task
        call(server, "POST", f"/tasks/{task}/result", json={"status": "COMPLETED"})


def test_key_parked_by_a_worker_delivers_nothing_and_costs_no_attempt(
    server: ServerProcess, client: codeq.Client
) -> None:
    first, second = created(server, "parked", rateKey="api"), created(server, "parked", rateKey="api")
    other = created(server, "parked", rateKey="other")
    assert claimed(server, "parked") == first
    reply = call(server, "POST", f"/tasks/{first}/abandon", json={"delaySeconds": 2, "parkKey": True})
    assert reply.json() == {"status": "PENDING", "delaySeconds": 2}
    assert claimed(server, "parked") == other
    assert claimed(server, "parked") == ""
    wait = client.explain(second).key_wait
    assert wait is not None
    assert (wait.kind, wait.key, wait.limit) == ("RATE", "api", None)
    assert wait.parked_until is not None
    assert "limit" not in explained(server, second)["keyWait"]
    claim = {"commands": ["parked"], "waitSeconds": 20}
    again = call(server, "POST", "/tasks/claim", json=claim).json()
    assert (again["id"], again["attempts"]) == (first, 1)
    assert claimed(server, "parked") == second


def test_python_clients_and_producers_send_keys(server: ServerProcess, client: codeq.Client) -> None:
    made = client.create("sdk", concurrency_key="c", rate_key="r", ordering_key="o")
    with codeq.Producer(server.producer_addr, token=DEV_TOKEN) as producer:
        streamed = client.get(producer.create("sdk", concurrency_key="c", rate_key="r", ordering_key="o"))
    for task in (made, streamed):
        assert (task.concurrency_key, task.rate_key, task.ordering_key) == ("c", "r", "o")
