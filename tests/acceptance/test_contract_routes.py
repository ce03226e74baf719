"""Contract rows about the routes of tasks and queues: their replies and their limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from server_process import ServerProcess
from test_bad_input import call, refused
from two_workers import FIRST, SECOND, claimed, created, environment, said, shown

ALWAYS = {
    *(
        "id",
        "command",
        "payload",
        "priority",
        "status",
        "tenantId",
        "attempts",
        "maxAttempts",
        "createdAt",
        "updatedAt",
    ),
}
"""Fields that every task has."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with two workers of one tenant."""
    with ServerProcess(tmp_path_factory.mktemp("routes"), env=environment(), dev=False) as started:
        yield started


def post(server: ServerProcess, path: str, body: object, token: str = FIRST) -> httpx.Response:
    """Posts a body."""
    return call(server, "POST", path, token, json=body)


def test_create_returns_202_with_a_flat_task(server: ServerProcess) -> None:
    answer = post(server, "/tasks", {"command": "flat", "payload": {"n": 1}, "priority": 3}, SECOND)
    task = answer.json()
    assert (answer.status_code, task.keys()) == (202, ALWAYS)
    assert (task["command"], task["payload"], task["priority"], task["tenantId"]) == ("flat", {"n": 1}, 3, "acme")
    claim = claimed(server, "flat")
    assert claim.keys() == ALWAYS | {"workerId", "leaseToken", "leaseUntil"}
    said(server, task, "result", status="FAILED", error="no")
    assert shown(server, task).keys() == ALWAYS | {"workerId", "error", "finishedAt", "attemptHistory"}


def test_batch_create_returns_items_in_order_and_accepts_at_most_1000(server: ServerProcess) -> None:
    specs: list[dict[str, Any]] = [{"command": "many", "payload": number} for number in range(1000)]
    specs[1] = {"command": "many", "priority": 10}
    answer = post(server, "/tasks/batch", {"tasks": specs}, SECOND)
    results = answer.json()["results"]
    assert (answer.status_code, len(results)) == (200, 1000)
    assert (results[1]["error"]["index"], results[1]["error"]["reason"]) == (1, "INVALID_FIELD")
    assert [item["task"]["payload"] for item in results if "task" in item] == [0, *range(2, 1000)]
    for wrong in ([], [*specs, specs[0]]):
        assert "tasks" in refused(post(server, "/tasks/batch", {"tasks": wrong}, SECOND), 400, "INVALID_FIELD")["error"]
    atomic = {"tasks": specs[:2], "atomic": True}
    refused(post(server, "/tasks/batch", atomic, SECOND), 400, "INVALID_FIELD")
    assert call(server, "GET", "/admin/queues/many", SECOND).json()["ready"] == 999


def test_claim_on_an_empty_queue_returns_204_after_its_wait_or_a_new_task(server: ServerProcess) -> None:
    begin = time.monotonic()
    answer = post(server, "/tasks/claim", {"commands": ["none"], "waitSeconds": 1})
    assert (answer.status_code, answer.content) == (204, b"")
    assert time.monotonic() - begin >= 1
    answers: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: answers.append(claimed(server, "arrives")))
    waiting.start()
    task = created(server, "arrives")
    waiting.join(30)
    assert answers[0]["id"] == task["id"]
    assert "waitSeconds" in refused(post(server, "/tasks/claim", {"waitSeconds": 31}), 400, "INVALID_FIELD")["error"]


def test_batch_claim_returns_at_most_100_tasks(server: ServerProcess) -> None:
    tasks = [{"command": "hundred", "payload": number} for number in range(101)]
    post(server, "/tasks/batch", {"tasks": tasks}, SECOND)
    body = {"commands": ["hundred"], "count": 100}
    answer = post(server, "/tasks/claim/batch", body)
    assert [task["payload"] for task in answer.json()["tasks"]] == list(range(100))
    assert [task["payload"] for task in post(server, "/tasks/claim/batch", body).json()["tasks"]] == [100]
    assert post(server, "/tasks/claim/batch", body).status_code == 204
    for count in (0, 101):
        answer = post(server, "/tasks/claim/batch", {**body, "count": count})
        assert "count" in refused(answer, 400, "INVALID_FIELD")["error"]


def test_heartbeat_returns_the_lease(server: ServerProcess) -> None:
    task = created(server, "beats")
    lease = claimed(server, "beats", leaseSeconds=600)
    answer = said(server, task, "heartbeat", leaseToken=lease["leaseToken"], extendSeconds=1200).json()
    assert answer["leaseToken"] == lease["leaseToken"]
    assert answer["leaseUntil"] > lease["leaseUntil"]


def test_result_returns_the_record_and_ignores_a_worker_id(server: ServerProcess) -> None:
    task = created(server, "record")
    claimed(server, "record")
    record = said(server, task, "result", status="COMPLETED", result=[1], workerId="somebody").json()
    assert (record["taskId"], record["status"], record["result"]) == (task["id"], "COMPLETED", [1])
    assert shown(server, task)["workerId"] == "of-worker"
    for status in ("PENDING", "CANCELLED", "DLQ"):
        refused(said(server, task, "result", status=status), 400, "INVALID_FIELD")


def test_result_batch_is_settled_item_by_item_in_order(server: ServerProcess) -> None:
    tasks = [created(server, "settle") for _ in range(3)]
    leases = post(server, "/tasks/claim/batch", {"commands": ["settle"], "count": 2}).json()["tasks"]
    items: list[dict[str, Any]] = [
        {"taskId": tasks[1]["id"], "leaseToken": leases[1]["leaseToken"], "status": "FAILED", "error": "no"},
        {"taskId": tasks[2]["id"], "status": "COMPLETED"},
        {"taskId": tasks[0]["id"], "status": "FAILED"},
        {"taskId": tasks[0]["id"], "status": "COMPLETED", "result": {"n": 1}},
        {"taskId": "nobody", "status": "COMPLETED"},
    ]
    results = post(server, "/tasks/batch/results", {"results": items}).json()["results"]
    assert [item["taskId"] for item in results] == [item["taskId"] for item in items]
    outcomes = [item["result"]["status"] if "result" in item else item["error"]["reason"] for item in results]
    assert outcomes == ["FAILED", "TASK_NOT_CLAIMED", "INVALID_FIELD", "COMPLETED", "TASK_NOT_FOUND"]
    assert [shown(server, task)["status"] for task in tasks] == ["COMPLETED", "FAILED", "PENDING"]
    too_many = {"results": [items[0]] * 1001}
    assert "results" in refused(post(server, "/tasks/batch/results", too_many), 400, "INVALID_FIELD")["error"]


def test_nack_and_abandon_return_status_and_delay(server: ServerProcess) -> None:
    task = created(server, "back")
    claimed(server, "back")
    assert said(server, task, "nack", delaySeconds=7200).json() == {"status": "SCHEDULED", "delaySeconds": 7200}
    task = created(server, "back")
    claimed(server, "back")
    assert said(server, task, "abandon").json() == {"status": "PENDING", "delaySeconds": 0}


def test_every_call_for_a_missing_task_returns_404(server: ServerProcess) -> None:
    for path in ("", "/result", "/explain"):
        refused(call(server, "GET", f"/tasks/nobody{path}", FIRST), 404, "TASK_NOT_FOUND")
    for what, body in {"heartbeat": {}, "result": {"status": "COMPLETED"}, "nack": {}, "abandon": {}}.items():
        refused(said(server, {"id": "nobody"}, what, **body), 404, "TASK_NOT_FOUND")
    for what in ("cancel", "redrive"):
        refused(post(server, f"/tasks/nobody/{what}", {}, SECOND), 404, "TASK_NOT_FOUND")


def test_error_names_the_unknown_field(server: ServerProcess) -> None:
    task = created(server, "unknown")
    claimed(server, "unknown")
    for what in ("heartbeat", "nack", "abandon", "progress"):
        assert "colour" in refused(said(server, task, what, colour="red"), 400, "INVALID_FIELD")["error"]
    for path in ("/tasks/claim", "/tasks/claim/batch", "/tasks/batch/results"):
        assert "colour" in refused(post(server, path, {"colour": "red"}), 400, "INVALID_FIELD")["error"]


def test_admin_queue_list_shows_counters_ordered_by_name(server: ServerProcess) -> None:
    for command, fields in {"q.b": {}, "q.a": {"delaySeconds": 3600}}.items():
        created(server, command, **fields)
    page, names = {"nextPageToken": ""}, []
    while True:
        answer = call(server, "GET", f"/admin/queues?pageSize=1&pageToken={page['nextPageToken']}", SECOND)
        page = answer.json()
        names += [queue["command"] for queue in page["queues"]]
        if not page["nextPageToken"]:
            break
    assert names == sorted(set(names))
    assert {"q.a", "q.b"} <= set(names)
    one = call(server, "GET", "/admin/queues/q.b", SECOND).json()
    names = ["command", "ready", "scheduled", "claimed", "dlq", "paused"]
    assert [one[name] for name in names] == ["q.b", 1, 0, 0, 0, False]
    assert one["oldestAgeSeconds"] > 0
    assert one["createdRate"] > 0
    assert one["completedRate"] == 0
    assert call(server, "GET", "/admin/queues/q.a", SECOND).json()["scheduled"] == 1
    refused(call(server, "GET", "/admin/queues/nobody", SECOND), 404, "QUEUE_NOT_FOUND")
