"""Traces of tasks arrive complete at a collector: from a create, over REST or streams, to handler and callback."""

from __future__ import annotations

from typing import Any

import codeq
import httpx
import pytest
from callback_receiver import Receiver
from otlp_collector import Collector, Received
from program_builds import BUILD_SECONDS_MAX
from server_process import DEV_TOKEN, ServerProcess
from traced_programs import LANGUAGES, Programs

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
pytestmark = pytest.mark.timeout(BUILD_SECONDS_MAX * 2 + 60)
"""The first test may have to wait for both builds."""
PARENT = f"00-{TRACE}-{SPAN}-01"
UNKNOWN_TASK = "00000000-0000-4000-8000-000000000000"


def created(server: ServerProcess, body: dict[str, Any], traceparent: str) -> str:
    headers = {"Authorization": f"Bearer {DEV_TOKEN}", "traceparent": traceparent}
    answer = httpx.post(f"{server.http_url}/v1/codeq/tasks", json=body, headers=headers)
    assert answer.status_code in {200, 202}, answer.text
    task_id: str = answer.json()["id"]
    return task_id


def test_trace_of_a_task_leads_from_rest_over_a_worker_in_go_to_the_callback(
    traced: ServerProcess, collector: Collector, programs: Programs
) -> None:
    with Receiver() as receiver, programs.working("go", ["order"], traced, collector):
        answers = iter([503, 200])
        receiver.answer = lambda _: next(answers)
        body = {"command": "order", "payload": "work", "webhook": f"{receiver.url}/hook"}
        task_id = created(traced, body, PARENT)
        told = receiver.wait("/hook", count=2)
    assert traced.stop() == 0

    request = collector.one("POST /v1/codeq/tasks")
    assert (request.service, request.kind, request.status) == ("codeq", "SERVER", "UNSET")
    assert (request.trace_id, request.parent_id) == (TRACE, SPAN)
    assert request.attributes["http.response.status_code"] == 202
    wait, run = collector.one("wait order"), collector.one("run order")
    first, second = collector.named("POST")
    assert {span.parent_id for span in (wait, run, first, second)} == {request.span_id}
    assert {span.trace_id for span in (wait, run, first, second)} == {TRACE}
    assert run.links == (wait.place,)
    assert run.attributes.items() >= {"codeq.task.status": "COMPLETED", "codeq.worker": "worker-dev/go"}.items()
    assert {span.attributes["messaging.message.id"] for span in (wait, run, first, second)} == {task_id}

    assert (first.kind, first.status, first.attributes["error.type"]) == ("CLIENT", "ERROR", "503")
    assert (second.kind, second.status, second.attributes["http.response.status_code"]) == ("CLIENT", "UNSET", 200)
    assert second.attributes["http.request.resend_count"] == 1
    assert [each.headers["traceparent"] for each in told] == [
        f"00-{TRACE}-{span.span_id}-01" for span in (first, second)
    ]

    process = collector.one("process order")
    assert (process.service, process.kind, process.status) == ("go-worker", "CONSUMER", "UNSET")
    assert process.links == (request.place,)
    assert process.trace_id != TRACE
    assert process.parent_id == ""
    assert process.attributes["messaging.message.id"] == task_id


def complete(collector: Collector, producer: str, worker: str) -> None:
    """Checks the spans of the task that a producer has created for a worker."""
    command = f"{producer}-{worker}"
    create = collector.one(f"order {command}")
    assert create.service == f"{producer}-producer"
    wait, run, process = (collector.one(f"{name} {command}") for name in ("wait", "run", "process"))
    assert {(span.trace_id, span.parent_id) for span in (wait, run)} == {create.place}
    assert run.links == (wait.place,)
    assert (run.status, run.attributes["codeq.task.status"]) == ("UNSET", "COMPLETED")
    assert run.attributes["codeq.worker"] == f"worker-dev/{worker}"
    assert (process.service, process.kind, process.status) == (f"{worker}-worker", "CONSUMER", "UNSET")
    assert (process.parent_id, process.links) == ("", (create.place,))
    assert process.attributes == {
        "messaging.system": "codeq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": command,
        "messaging.message.id": run.attributes["messaging.message.id"],
        "codeq.task.attempts": 1,
    }
    before, after = create.nanoseconds, process.nanoseconds
    assert before[0] <= after[0] <= after[1]


def test_traces_over_streams_are_complete_between_all_sdks(
    traced: ServerProcess, collector: Collector, programs: Programs
) -> None:
    for worker in LANGUAGES:
        with programs.working(worker, [f"{producer}-{worker}" for producer in LANGUAGES], traced, collector):
            for producer in LANGUAGES:
                programs.create(producer, [f"{producer}-{worker}"], traced, collector)
    assert traced.stop() == 0
    for producer in LANGUAGES:
        for worker in LANGUAGES:
            complete(collector, producer, worker)
    of_tasks = [span for span in collector.spans if span.kind != "SERVER"]
    assert len(of_tasks) == 4 * len(LANGUAGES) ** 2


@pytest.mark.parametrize("language", LANGUAGES)
def test_failed_task_fails_the_spans_of_its_handler_and_its_run(
    language: str, traced: ServerProcess, collector: Collector, programs: Programs
) -> None:
    with programs.working(language, ["order"], traced, collector), Receiver() as receiver:
        created(traced, {"command": "order", "payload": "fail", "webhook": f"{receiver.url}/hook"}, PARENT)
        receiver.wait("/hook")
    assert traced.stop() == 0
    process, run = collector.one("process order"), collector.one("run order")
    assert (process.status, run.status) == ("ERROR", "ERROR")
    assert (run.attributes["error.type"], run.attributes["codeq.task.status"]) == ("FAILED", "FAILED")
    assert process.attributes["error.type"] in {"NonRetryable", "*errors.errorString", "Failed"}
    assert process.events == ()


def failed(spans: list[Received]) -> list[tuple[Any, ...]]:
    return [
        (span.status, span.attributes.get("error.type"), span.attributes.get("codeq.error.reason")) for span in spans
    ]


def test_refused_calls_do_not_fail_their_spans(traced: ServerProcess, collector: Collector) -> None:
    headers = {"Authorization": f"Bearer {DEV_TOKEN}", "traceparent": PARENT}
    path = f"{traced.http_url}/v1/codeq/tasks/"
    assert httpx.get(path + UNKNOWN_TASK, headers=headers).status_code == 404
    assert httpx.get(path + UNKNOWN_TASK).status_code == 401
    with codeq.Client(traced.producer_addr, token=DEV_TOKEN) as client:
        with pytest.raises(codeq.NotFound):
            client.get(UNKNOWN_TASK)
        with pytest.raises(codeq.InvalidField):
            client.create("a", traceparent="x")
        client.create("a")
    with codeq.Client(traced.producer_addr, token="wrong") as client, pytest.raises(codeq.Unauthenticated):
        client.get(UNKNOWN_TASK)
    assert traced.stop() == 0
    assert failed(collector.named("GET /v1/codeq/tasks/{task_id}")) == [
        ("UNSET", None, "TASK_NOT_FOUND"),
        ("UNSET", None, "UNAUTHENTICATED"),
    ]
    gets, creates = collector.named("codeq.v1.TaskService/GetTask"), collector.named("codeq.v1.TaskService/CreateTask")
    assert failed([*gets, *creates]) == [
        ("UNSET", None, "TASK_NOT_FOUND"),
        ("UNSET", None, "UNAUTHENTICATED"),
        ("UNSET", None, "INVALID_FIELD"),
        ("UNSET", None, None),
    ]
    codes = [span.attributes["rpc.response.status_code"] for span in [*gets, *creates]]
    assert codes == ["NOT_FOUND", "UNAUTHENTICATED", "INVALID_ARGUMENT", "OK"]


def test_traces_that_their_callers_do_not_sample_are_not_exported(traced: ServerProcess, collector: Collector) -> None:
    created(traced, {"command": "order"}, f"{PARENT[:-2]}00")
    created(traced, {"command": "order"}, PARENT)
    assert traced.stop() == 0
    assert [span.name for span in collector.spans] == ["POST /v1/codeq/tasks"]
