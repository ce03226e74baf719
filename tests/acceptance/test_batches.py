"""Batches: an error in one item is that item's error, in the caller's field names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import codeq
import grpc
import httpx
import pytest
from codeq.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc
from server_process import DEV_TOKEN, ServerProcess

GOOD = {"command": "GOOD", "payload": {}}
BAD_TASKS: list[tuple[Any, str]] = [
    ({**GOOD, "runAt": "x"}, "runAt: "),
    ({**GOOD, "runAt": 5}, "runAt: "),
    ({**GOOD, "priority": 99}, "priority: "),
    ({**GOOD, "priority": "high"}, "priority: "),
    ({**GOOD, "delaySeconds": -1}, "delaySeconds: "),
    ({**GOOD, "delaySeconds": 1, "runAt": "2030-01-01T00:00:00Z"}, "delaySeconds and runAt cannot both be set"),
    ({**GOOD, "idempotencyKey": "k", "taskId": "t"}, "taskId: cannot be combined with idempotencyKey"),
    ({**GOOD, "idempotencyKey": 5}, "idempotencyKey: "),
    ({**GOOD, "maxAttempts": 1.5}, "maxAttempts: "),
    ({**GOOD, "nothing": 1}, "nothing: unknown field"),
    ({"payload": {}}, "command: "),
    ({}, "command: "),
    (7, "must be one JSON object"),
    (None, "must be one JSON object"),
    ([], "must be one JSON object"),
]
BAD_RESULTS: list[tuple[dict[str, Any], str]] = [
    ({"status": "DONE"}, "status: "),
    ({"status": "PENDING"}, "status: must be COMPLETED or FAILED"),
    ({"status": "COMPLETED", "leaseToken": {}}, "leaseToken: "),
    ({"status": "FAILED"}, "error: must not be blank"),
    ({"status": "COMPLETED", "artifacts": [{"name": "a", "contentBase64": "?"}]}, "artifacts[0].contentBase64: "),
    (
        {"status": "COMPLETED", "artifacts": [{"name": "a", "url": "u", "contentType": "?"}]},
        "artifacts[0].contentType: ",
    ),
    ({"status": "COMPLETED", "nothing": 1}, "nothing: unknown field"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("batches")) as running:
        yield running


@pytest.fixture
def http(server: ServerProcess) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {DEV_TOKEN}"}
    with httpx.Client(base_url=f"{server.http_url}/v1/codeq", headers=headers, timeout=30) as client:
        yield client


def told(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


@pytest.mark.parametrize(("bad", "error"), BAD_TASKS)
def test_only_the_invalid_task_of_a_batch_is_rejected(http: httpx.Client, bad: object, error: str) -> None:
    results = told(http.post("/tasks/batch", json={"tasks": [GOOD, bad, GOOD]}))
    assert [list(each) for each in results] == [["task"], ["error"], ["task"]]
    refused = results[1]["error"]
    assert (refused["index"], refused["reason"]) == (1, "INVALID_FIELD")
    assert refused["message"].startswith(error)
    assert "_" not in refused["message"].replace("INVALID_FIELD", "").split(" match ")[0]


def test_each_invalid_task_of_a_batch_is_rejected_for_its_own_reason(http: httpx.Client) -> None:
    results = told(http.post("/tasks/batch", json={"tasks": [bad for bad, _ in BAD_TASKS]}))
    for index, ((_, error), each) in enumerate(zip(BAD_TASKS, results, strict=True)):
        assert each["error"]["index"] == index
        assert each["error"]["message"].startswith(error)


@pytest.mark.parametrize(("bad", "error"), BAD_TASKS)
def test_invalid_task_fails_an_atomic_batch_with_its_field_path(http: httpx.Client, bad: object, error: str) -> None:
    refused = http.post("/tasks/batch", json={"tasks": [GOOD, bad], "atomic": True})
    assert refused.status_code == 400
    assert refused.json()["reason"] == "INVALID_FIELD"
    assert refused.json()["error"].startswith("tasks[1]")
    if isinstance(bad, dict) and "idempotencyKey" not in bad:  # an item's key is invalid in an atomic batch
        assert error.rstrip(": ") in refused.json()["error"]


@pytest.mark.parametrize(("bad", "error"), BAD_RESULTS)
def test_only_the_invalid_result_of_a_batch_is_rejected(http: httpx.Client, bad: dict[str, Any], error: str) -> None:
    for _ in range(2):
        http.post("/tasks", json={"command": "RESULTS"})
    claimed = http.post("/tasks/claim/batch", json={"commands": ["RESULTS"], "count": 2}).json()["tasks"]
    first, second = ({"taskId": task["id"], "status": "COMPLETED"} for task in claimed)
    results = told(http.post("/tasks/batch/results", json={"results": [first, {"taskId": "mine", **bad}, second]}))
    assert [each["taskId"] for each in results] == [first["taskId"], "mine", second["taskId"]]
    assert ["error" in each for each in results] == [False, True, False]
    assert (results[1]["error"]["index"], results[1]["error"]["reason"]) == (1, "INVALID_FIELD")
    assert results[1]["error"]["message"].startswith(error)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"tasks": []}, "tasks"),
        ({}, "tasks"),
        ({"tasks": 5}, "tasks"),
        ({"tasks": [7] * 1001}, "tasks"),
        ({"tasks": [GOOD] * 1001}, "tasks"),
        ({"tasks": [7], "nothing": 1}, "nothing"),
        ({"tasks": [GOOD], "atomic": "yes"}, "atomic"),
        ({"tasks": [GOOD], "idempotencyKey": "k"}, "idempotencyKey"),
    ],
)
def test_error_in_the_batch_itself_fails_the_call(http: httpx.Client, body: object, field: str) -> None:
    refused = http.post("/tasks/batch", json=body)
    assert refused.status_code == 400
    assert [detail["field"] for detail in refused.json()["details"]] == [field]
    assert "_" not in refused.json()["error"]


def test_errors_of_single_rest_calls_use_json_field_names(http: httpx.Client) -> None:
    bodies: list[tuple[str, dict[str, object], str]] = [
        ("/tasks", {**GOOD, "delaySeconds": -1}, "delaySeconds: "),
        ("/tasks", {**GOOD, "delaySeconds": 1, "runAt": "2030-01-01T00:00:00Z"}, "delaySeconds and runAt cannot"),
        ("/tasks", {**GOOD, "idempotencyKey": "k", "taskId": "t"}, "taskId: cannot be combined with idempotencyKey"),
        ("/tasks/claim", {"leaseSeconds": 0}, "leaseSeconds: "),
        ("/tasks/x/nack", {"delaySeconds": -1}, "delaySeconds: "),
        ("/admin/queues/GOOD/dlq/redrive", {"rate": 1, "dryRun": True}, "rate cannot be combined with dryRun or limit"),
        ("/admin/tasks/cleanup", {"before": "2030-01-01T00:00:00Z", "pageToken": "x"}, "pageToken: "),
    ]
    for path, body, error in bodies:
        refused = http.post(path, json=body)
        assert refused.status_code == 400, path
        assert refused.json()["error"].startswith(error)


def test_grpc_item_errors_use_proto_field_names(server: ServerProcess) -> None:
    specs = [task_pb2.TaskSpec(command="GOOD"), task_pb2.TaskSpec(command="GOOD", delay_seconds=-1)]
    with grpc.insecure_channel(server.producer_addr) as channel:
        answer = task_service_pb2_grpc.TaskServiceStub(channel).BatchCreateTasks(
            task_service_pb2.BatchCreateTasksRequest(tasks=specs),
            metadata=(("authorization", f"Bearer {DEV_TOKEN}"),),
        )
    assert answer.results[0].HasField("task")
    assert answer.results[1].error.message.startswith("delay_seconds: ")


@pytest.mark.parametrize("outcome", ["result", "nack", "abandon"])
def test_outcome_without_a_token_can_be_retried_after_a_lost_answer(
    server: ServerProcess, http: httpx.Client, outcome: str
) -> None:
    body: dict[str, object] = {
        "result": {"status": "COMPLETED", "result": {"n": 1}},
        "nack": {"delaySeconds": 3600},
    }.get(outcome, {})
    task = http.post("/tasks", json={"command": f"REPEAT-{outcome}"}).json()["id"]
    http.post("/tasks/claim", json={"commands": [f"REPEAT-{outcome}"]})
    first = http.post(f"/tasks/{task}/{outcome}", json=body)
    again = http.post(f"/tasks/{task}/{outcome}", json=body)
    assert (first.status_code, again.status_code, again.json()) == (200, 200, first.json())
    other: dict[str, object] = {"status": "COMPLETED", "result": {"n": 2}}
    refused = http.post(f"/tasks/{task}/result", json=other)
    assert (refused.status_code, refused.json()["reason"]) == (409, "TASK_NOT_CLAIMED")
    with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        if outcome == "result":
            assert client.submit(task, codeq.Completed({"n": 1})).task_id == task
            with pytest.raises(codeq.LeaseLost):
                client.submit(task, codeq.Failed("no"))


def test_unpaired_surrogate_is_preserved_beside_a_malformed_item(http: httpx.Client) -> None:
    body = '{"tasks":[{"command":"GOOD","payload":"\\ud83d"},{"command":"GOOD","runAt":"x"}]}'
    answer = http.post("/tasks/batch", content=body, headers={"Content-Type": "application/json"})
    assert '"payload":"\\ud83d"' in answer.text
    assert ["error" in each for each in answer.json()["results"]] == [False, True]
