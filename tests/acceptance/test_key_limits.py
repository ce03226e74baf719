"""Limits of keys in the policies of commands, over REST: they hold, change while tasks wait, and survive a restart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from server_process import ServerProcess
from test_bad_input import call
from test_task_keys import claimed, created, explained


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the well-known token for everything."""
    with ServerProcess(tmp_path_factory.mktemp("limits")) as started:
        yield started


def put(server: ServerProcess, command: str, **policy: object) -> None:
    answer = call(server, "PUT", f"/admin/topics/{command}", json=policy)
    assert answer.status_code in {200, 201}, answer.text
    assert answer.json()["policy"] == policy


def complete(server: ServerProcess, task: str) -> None:
    assert call(server, "POST", f"/tasks/{task}/result", json={"status": "COMPLETED"}).status_code == 200


def test_concurrency_of_a_key_follows_its_policy_at_run_time(server: ServerProcess) -> None:
    put(server, "sync", concurrencyPerKey=1)
    first, second, third, fourth = (created(server, "sync", concurrencyKey="k") for _ in range(4))
    other = created(server, "sync", concurrencyKey="l")
    assert [claimed(server, "sync") for _ in range(3)] == [first, other, ""]
    shown = explained(server, second)
    assert (shown["reason"], shown["keyWait"]["limit"], shown["keyWait"]["holders"]) == ("KEY", 1, 1)
    put(server, "sync", concurrencyPerKey=2)
    assert [claimed(server, "sync") for _ in range(2)] == [second, ""]
    put(server, "sync", concurrencyPerKey=1)
    complete(server, first)
    assert claimed(server, "sync") == ""
    complete(server, second)
    assert [claimed(server, "sync") for _ in range(2)] == [third, ""]
    assert call(server, "DELETE", "/admin/topics/sync?deletionPolicy=Delete").status_code == 204
    assert claimed(server, "sync") == fourth


def test_limit_of_a_key_and_its_holders_survive_a_restart(server: ServerProcess) -> None:
    put(server, "lasting", concurrencyPerKey=1)
    first, second = created(server, "lasting", concurrencyKey="k"), created(server, "lasting", concurrencyKey="k")
    assert claimed(server, "lasting") == first
    server.kill()
    server.start()
    assert claimed(server, "lasting") == ""
    complete(server, first)
    assert claimed(server, "lasting") == second


def test_policy_set_before_the_first_task_limits_the_new_queue(server: ServerProcess) -> None:
    put(server, "slow", ratePerSecond=0.001, rateBurst=2)
    tasks = [created(server, "slow") for _ in range(3)]
    assert [claimed(server, "slow") for _ in range(3)] == [*tasks[:2], ""]
    shown = explained(server, tasks[2])
    assert (shown["reason"], shown["limit"]) == ("LIMITED", "ratePerSecond")
    assert 0 < shown["delaySeconds"] <= 1000
    assert not shown.keys() & {"limitMax", "limitUsed"}
    put(server, "slow", ratePerSecond=1_000_000.0)
    claim = {"commands": ["slow"], "waitSeconds": 20}
    assert call(server, "POST", "/tasks/claim", json=claim).json()["id"] == tasks[2]


def test_rate_of_a_key_delays_no_other_key(server: ServerProcess) -> None:
    put(server, "rated", ratePerKeyPerSecond=0.001, rateBurst=1)
    first, second = created(server, "rated", rateKey="r"), created(server, "rated", rateKey="r")
    other = created(server, "rated", rateKey="s")
    assert [claimed(server, "rated") for _ in range(3)] == [first, other, ""]
    shown = explained(server, second)
    assert (shown["reason"], shown["keyWait"]["kind"], shown["keyWait"]["limit"]) == ("KEY", "RATE", 0.001)


def test_newest_task_is_dropped_or_replaces_the_running_one_if_the_policy_says_so(server: ServerProcess) -> None:
    put(server, "newest", concurrencyPerKey=1, atKeyLimit="drop_newest")
    first, second = created(server, "newest", concurrencyKey="k"), created(server, "newest", concurrencyKey="k")
    assert [claimed(server, "newest") for _ in range(2)] == [first, ""]
    dropped = call(server, "GET", f"/tasks/{second}").json()
    assert (dropped["status"], dropped["error"]) == ("CANCELLED", "KEY_AT_LIMIT")
    put(server, "newest", concurrencyPerKey=1, atKeyLimit="cancel_running")
    third = created(server, "newest", concurrencyKey="k")
    assert claimed(server, "newest") == third
    replaced = call(server, "GET", f"/tasks/{first}").json()
    assert (replaced["status"], replaced["error"]) == ("CANCELLED", "REPLACED")


def test_limits_of_keys_and_of_consumers_hold_together(server: ServerProcess) -> None:
    put(server, "both", maxConsumers=2, concurrencyPerKey=1)
    first, second = created(server, "both", concurrencyKey="k"), created(server, "both", concurrencyKey="k")
    others = [created(server, "both") for _ in range(2)]
    assert [claimed(server, "both") for _ in range(3)] == [first, others[0], ""]
    assert explained(server, second)["reason"] == "KEY"
    assert explained(server, others[1])["reason"] == "LIMITED"
    complete(server, first)
    assert [claimed(server, "both") for _ in range(2)] == [second, ""]
    complete(server, second)
    assert claimed(server, "both") == others[1]


def test_key_in_the_payload_limits_tasks_that_name_none(server: ServerProcess) -> None:
    put(server, "paths", concurrencyPerKey=1, concurrencyKeyPath="/customer/id")
    created_of = {"command": "paths", "payload": {"customer": {"id": 17}}}
    first, second = (call(server, "POST", "/tasks", json=created_of).json() for _ in range(2))
    assert (first["concurrencyKey"], second["concurrencyKey"]) == ("17", "17")
    named = created(server, "paths", concurrencyKey="18", payload={"customer": {"id": 17}})
    assert [claimed(server, "paths") for _ in range(3)] == [first["id"], named, ""]
    refused = call(server, "POST", "/tasks", json={"command": "paths", "payload": {"customer": {"id": []}}})
    assert refused.status_code == 422
    assert (refused.json()["reason"], refused.json()["details"][0]["field"]) == ("POLICY_VIOLATION", "payload")
    batch = {"tasks": [created_of, {"command": "paths", "payload": {"customer": {"id": {}}}}], "atomic": True}
    refused = call(server, "POST", "/tasks/batch", json=batch)
    assert refused.status_code == 422
    assert refused.json()["details"][0]["field"] == "tasks[1].payload"


def test_task_of_a_schedule_has_the_key_in_its_payload(server: ServerProcess) -> None:
    put(server, "timed", concurrencyPerKey=1, concurrencyKeyPath="/shop")
    schedule = {"every": "3600s", "command": "timed", "payload": {"shop": "north"}}
    assert call(server, "PUT", "/admin/schedules/timed", json=schedule).status_code in {200, 201}
    assert call(server, "POST", "/admin/schedules/timed/trigger", json={}).status_code == 200
    task = call(server, "POST", "/tasks/claim", json={"commands": ["timed"]}).json()
    assert task["concurrencyKey"] == "north"
