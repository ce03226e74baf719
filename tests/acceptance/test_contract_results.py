"""Contract rows about a task's data: payload, result, completion, dead letters, retention, durability."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import codeq
import grpc
import httpx
import pytest
from bare_streams import settle, working
from codeq.v1 import task_pb2, task_service_pb2
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from server_process import ServerProcess
from test_bad_input import call, refused
from two_workers import FIRST, SECOND, claimed, created, environment, said, shown, until

JSON = {"Content-Type": "application/json"}
ODD = '{"n":1.10, "big":12345678901234567890123, "e":1e400,\t"s":"\\u00e9\\ud83d\\ude00 é"}'
"""JSON that would change if it were parsed and printed again."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with two workers of one tenant."""
    with ServerProcess(tmp_path_factory.mktemp("results"), env=environment(), dev=False) as started:
        yield started


def result_of(server: ServerProcess, task: dict[str, Any], wait: int = 0) -> httpx.Response:
    """Requests the result of a task."""
    return call(server, "GET", f"/tasks/{task['id']}/result?waitSeconds={wait}", SECOND)


# -- payload, result ---------------------------------------------------------------------------------------------------


ALLOWED = [
    *('"\\ud83d"', '{"\\uDE00":"a\\ud83dé\\\\"}', "[" * 400 + "]" * 400, "9" * 4000, "-0.0e-999999"),
    *('{"a":1,"a":2}', '"\\u0000\x7f"', " \t1 "),
]
"""Valid JSON that many decoders reject or change."""


@pytest.mark.parametrize("value", [ODD, "null", "0", '""', "[]", " [ ] ", "false", *ALLOWED])
def test_payload_and_result_are_returned_byte_for_byte(server: ServerProcess, value: str) -> None:
    body = '{"command":"bytes","payload":' + value + "}"
    task = call(server, "POST", "/tasks", SECOND, content=body, headers=JSON).json()
    kept = f'"payload":{value.strip()}'
    assert kept in call(server, "GET", f"/tasks/{task['id']}", SECOND).text
    assert kept in call(server, "POST", "/tasks/claim", FIRST, json={"commands": ["bytes"]}).text
    body = '{"status":"COMPLETED","result":' + value + "}"
    assert call(server, "POST", f"/tasks/{task['id']}/result", FIRST, content=body, headers=JSON).status_code == 200
    assert f'"result":{value.strip()}' in result_of(server, task).text


@pytest.mark.parametrize("value", [ODD, *ALLOWED], ids=lambda value: repr(value[:20]))
async def test_every_interface_returns_payload_and_result_byte_for_byte(server: ServerProcess, value: str) -> None:
    content = value.encode()
    with (
        codeq.Producer(server.producer_addr, token=SECOND) as producer,
        codeq.Client(server.producer_addr, token=SECOND) as client,
    ):
        ids = [producer.create("fronts", codeq.RawJson(content)), client.create("fronts", codeq.RawJson(content)).id]
    batch = b'{"tasks":[{"command":"fronts","payload":%s}]}' % content
    answer = call(server, "POST", "/tasks/batch", SECOND, content=batch, headers=JSON)
    ids.append(answer.json()["results"][0]["task"]["id"])
    async with grpc.aio.insecure_channel(server.worker_addr) as channel:
        stub = TaskServiceStub(channel)
        claims = task_service_pb2.ClaimTasksRequest(commands=["fronts"], count=9)
        taken = (await stub.ClaimTasks(claims, metadata=bearer(FIRST))).tasks
        assert [(task.id, task.payload.strip()) for task in taken] == [(each, content.strip()) for each in ids]
        results = task_service_pb2.BatchSubmitResultsRequest(
            results=[
                task_service_pb2.SubmitResultRequest(task_id=task_id, status=4, result=content) for task_id in ids[:2]
            ]
        )
        await stub.BatchSubmitResults(results, metadata=bearer(FIRST))
        progress = task_service_pb2.ReportProgressRequest(task_id=ids[2], progress=content)
        await stub.ReportProgress(progress, metadata=bearer(FIRST))
        outcome = task_pb2.Outcome(
            task_id=ids[2], lease_token=taken[2].lease_token, kind=task_pb2.OUTCOME_KIND_COMPLETED, result=content
        )
        async with working(server, "fronts", token=FIRST) as stream:
            assert await settle(stream, [outcome]) == []
        for task_id in ids:
            asked = task_service_pb2.GetTaskResultRequest(task_id=task_id)
            told = await stub.GetTaskResult(asked, metadata=bearer(FIRST))
            assert told.result.result == content
        assert told.task.progress == content


@pytest.mark.parametrize("end", ["result", "nack", "cancel"])
def test_human_readable_texts_are_never_rejected_for_their_content(server: ServerProcess, end: str) -> None:
    texts = {'"half \\ud83d"': "half \ufffd", json.dumps("é" * 5000): "é" * 4095 + "…", '"\\u0000\x7f"': "\0\x7f"}
    for text, kept in texts.items():
        task = created(server, "texts", maxAttempts=1)
        claimed(server, "texts")
        body = {
            "result": '{"status":"FAILED","error":%s}',
            "nack": '{"delaySeconds":0,"reason":%s}',
            "cancel": '{"reason":%s}',
        }[end] % text
        answer = call(
            server,
            "POST",
            f"/tasks/{task['id']}/{end}",
            SECOND if end == "cancel" else FIRST,
            content=body,
            headers=JSON,
        )
        assert answer.status_code == 200
        assert shown(server, task)["error"] == kept


def test_absent_result_is_not_null(server: ServerProcess) -> None:
    records = []
    for body in ({}, {"result": None}):
        task = created(server, "absent")
        claimed(server, "absent")
        assert said(server, task, "result", status="COMPLETED", **body).status_code == 200
        records.append(result_of(server, task).json()["result"])
    assert "result" not in records[0]
    assert records[1]["result"] is None


@pytest.mark.parametrize("value", [b"\xff", b"{", b"", b"1 2", b"NaN", b'"\xc3"'], ids=repr)
async def test_every_interface_rejects_payloads_and_results_that_are_not_json(
    server: ServerProcess, value: bytes
) -> None:
    answer = call(server, "POST", "/tasks", SECOND, content=b'{"command":"no","payload":%s}' % value, headers=JSON)
    assert answer.status_code == 400
    task = created(server, "leased")
    claimed(server, "leased")
    async with grpc.aio.insecure_channel(server.producer_addr) as channel:
        stub = TaskServiceStub(channel)
        if value:  # an empty result is null over gRPC
            spec = task_pb2.TaskSpec(command="no", payload=value)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.CreateTask(task_service_pb2.CreateTaskRequest(spec=spec), metadata=bearer(SECOND))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        request = task_service_pb2.SubmitResultRequest(task_id=task["id"], status=4, result=value)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.SubmitResult(request, metadata=bearer(FIRST))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with codeq.Producer(server.producer_addr, token=SECOND) as producer:
        (refusal,) = producer.create_batch([codeq.NewTask("no", codeq.RawJson(value or b"{"))])
    assert isinstance(refusal, codeq.InvalidField)
    refused(call(server, "GET", "/admin/queues/no", SECOND), 404, "QUEUE_NOT_FOUND")
    assert shown(server, task)["status"] == "CLAIMED"
    said(server, task, "result", status="COMPLETED")


def bearer(token: str) -> tuple[tuple[str, str]]:
    """Returns the metadata of a gRPC call."""
    return (("authorization", f"Bearer {token}"),)


# -- completion, DLQ and FAILED, results -------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [{}, {"error": ""}, {"error": " \t"}])
def test_failure_needs_a_non_blank_error(server: ServerProcess, body: dict[str, str]) -> None:
    task = created(server, "blank")
    claimed(server, "blank")
    answer = said(server, task, "result", status="FAILED", **body)
    assert "error" in refused(answer, 400, "INVALID_FIELD")["error"]
    assert shown(server, task)["status"] == "CLAIMED"
    assert said(server, task, "result", status="FAILED", error="why").status_code == 200
    assert shown(server, task)["error"] == "why"


def test_results_of_dead_letters_and_failed_tasks_are_stored(server: ServerProcess) -> None:
    ends: dict[str, tuple[str, dict[str, object]]] = {
        "DLQ": ("nack", {"delaySeconds": 0, "reason": "worn out"}),
        "FAILED": ("result", {"status": "FAILED", "error": "worn out"}),
    }
    for status, (what, body) in ends.items():
        task = created(server, "ends", maxAttempts=1)
        claimed(server, "ends")
        assert said(server, task, what, **body).status_code == 200
        answer = result_of(server, task, wait=20).json()
        assert (answer["task"]["status"], answer["result"]["status"]) == (status, status)
        assert (answer["result"]["error"], answer["task"]["error"]) == ("worn out", "worn out")
        assert "result" not in answer["result"]
        assert "finishedAt" in answer["task"]


def test_end_of_a_task_wakes_callers_waiting_for_its_result(server: ServerProcess) -> None:
    task = created(server, "woken")
    claimed(server, "woken")
    refused(result_of(server, task), 404, "RESULT_NOT_FOUND")
    begin = time.monotonic()
    refused(result_of(server, task, wait=1), 404, "RESULT_NOT_FOUND")
    assert time.monotonic() - begin >= 1
    answers: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(result_of(server, task, wait=60)))
    waiting.start()
    said(server, task, "result", status="COMPLETED", result="done")
    waiting.join(30)
    assert answers[0].json()["result"]["result"] == "done"
    assert "waitSeconds" in refused(result_of(server, task, wait=61), 400, "INVALID_FIELD")["error"]


# -- retention, durability ---------------------------------------------------------------------------------------------


def test_retention_removes_ended_tasks_on_time_and_never_live_ones(tmp_path: Path) -> None:
    env = environment(RETENTION_SECONDS="1", DLQ_RETENTION_SECONDS="4")
    with ServerProcess(tmp_path, env=env, dev=False) as server:
        live = [created(server, "waits"), created(server, "later", delaySeconds=3600), created(server, "leased")]
        claimed(server, "leased", leaseSeconds=3600)
        done = created(server, "done", idempotencyKey="key")
        claimed(server, "done")
        dead = created(server, "dead", maxAttempts=1)
        claimed(server, "dead")
        said(server, dead, "nack", delaySeconds=0)
        said(server, done, "result", status="COMPLETED")
        died = time.monotonic()
        until(lambda: gone(server, done))
        assert not gone(server, dead) or time.monotonic() - died >= 4
        # The key was removed with its task.
        assert "duplicate" not in created(server, "done", idempotencyKey="key")
        until(lambda: gone(server, dead))
        assert time.monotonic() - died >= 3.5
        assert call(server, "GET", "/admin/queues/dead", SECOND).json()["dlq"] == 0
        assert [shown(server, task)["status"] for task in live] == ["PENDING", "SCHEDULED", "CLAIMED"]


def gone(server: ServerProcess, task: dict[str, Any]) -> bool:
    """Returns whether a task no longer has any rows."""
    answers = {call(server, "GET", f"/tasks/{task['id']}{what}", SECOND).status_code for what in ("", "/result")}
    return answers == {404}


def test_acknowledged_changes_survive_a_kill_right_after_the_reply(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, env=environment(), dev=False) as server:
        tasks = [created(server, "kept", maxAttempts=1) for _ in range(5)]
        server.restart()
        first = claimed(server, "kept", leaseSeconds=600)
        server.restart()
        assert shown(server, first)["leaseToken"] == first["leaseToken"]
        said(server, first, "result", status="COMPLETED", result={"n": 1})
        claimed(server, "kept")
        said(server, tasks[1], "nack", delaySeconds=0)
        claimed(server, "kept")
        said(server, tasks[2], "abandon")
        call(server, "POST", f"/tasks/{tasks[3]['id']}/cancel", SECOND, json={})
        server.restart()
        statuses = [shown(server, task)["status"] for task in tasks]
        assert statuses == ["COMPLETED", "DLQ", "PENDING", "CANCELLED", "PENDING"]
        assert result_of(server, first).json()["result"]["result"] == {"n": 1}
