"""The trace of a task through a whole node: from its REST request over its wait and run to its callback."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from callback_receiver import Receiver
from codeq_server.config import ConfigError, load
from codeq_server.log.setup import Logs
from codeq_server.node import summary
from codeq_server.node.app import Node, files_of
from codeq_server.node.event_loop import ServerLoop
from codeq_server.node.telemetry import spans_of, spans_with
from codeq_server.tracing import names
from codeq_server.tracing.tasks import EndedTask
from opentelemetry.trace import StatusCode
from recorded_spans import RecordedSpan, RecordingTracer, attributes_of, spans_of_tasks

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
ADDRESSES = {"PORT": "0", "HTTP_HOST": "127.0.0.1", "WORKER_STREAM_ADDR": "127.0.0.1:0"}
SETTINGS = {**ADDRESSES, "PRODUCER_STREAM_ADDR": "", "PERSISTENCE_PROVIDER": "memory", "SHUTDOWN_GRACE_SECONDS": "2"}
START_SECONDS = 30


@contextmanager
def traced_node(tracer: RecordingTracer, ended: list[EndedTask]) -> Iterator[httpx.Client]:
    """Runs a node with a tracer on a thread of its own; yields a client of its REST API.

    Args:
        tracer: Records the spans of calls and callbacks.
        ended: Collects the tasks that end.
    """
    ready: Future[summary.Ready] = Future()
    nodes: list[Node] = []
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        settings = load(None, SETTINGS, {}, dev=True)
        spans = spans_with(tracer, ended.append, lambda: None)
        nodes.append(Node(settings, files_of(settings, rest=True), Logs("error", "text"), spans=spans))
        loops.append(asyncio.get_running_loop())
        await nodes[0].run(ready.set_result)

    def serve() -> None:
        with asyncio.Runner(loop_factory=ServerLoop) as runner:
            runner.run(run())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        http = ready.result(START_SECONDS).http
        assert http is not None
        headers = {"Authorization": "Bearer dev-token"}
        with httpx.Client(base_url=f"http://127.0.0.1:{http.port}/v1/codeq", headers=headers, timeout=30) as client:
            yield client
    finally:
        loops[0].call_soon_threadsafe(nodes[0].stop)
        thread.join(START_SECONDS)
        assert not thread.is_alive()


def done(client: httpx.Client, method: str, path: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    answer = client.request(method, path, json=body, headers=headers)
    assert answer.status_code in {200, 202}, answer.text
    found: dict[str, Any] = answer.json()
    return found


def span(tracer: RecordingTracer, name: str) -> RecordedSpan:
    (found,) = [each for each in tracer.spans if each.name == name]
    assert found.ended
    return found


def test_trace_leads_from_the_request_through_wait_and_run_to_the_callback() -> None:
    tracer = RecordingTracer()
    ended: list[EndedTask] = []
    with Receiver() as receiver, traced_node(tracer, ended) as client:
        made = done(
            client,
            "POST",
            "/tasks",
            {"command": "a", "payload": 1, "webhook": f"{receiver.url}/hook"},
            traceparent=PARENT,
        )
        claimed = done(client, "POST", "/tasks/claim", {"commands": ["a"]})
        assert claimed["id"] == made["id"]
        done(client, "POST", f"/tasks/{made['id']}/result", {"status": "COMPLETED", "result": 2})
        (told,) = receiver.wait("/hook")
    request = span(tracer, "POST /v1/codeq/tasks")
    assert f"{request.parent.trace_id:032x}-{request.parent.span_id:016x}" == f"{TRACE}-{SPAN}"
    own = f"00-{TRACE}-{request.get_span_context().span_id:016x}-01"
    assert made["traceparent"] == claimed["traceparent"] == own
    assert told.headers["traceparent"] == f"00-{TRACE}-{span(tracer, 'POST').get_span_context().span_id:016x}-01"
    assert span(tracer, "POST").parent.span_id == request.get_span_context().span_id
    wait, run = spans_of_tasks(ended)
    assert (wait.name, run.name) == ("wait a", "run a")
    assert [int.from_bytes(each.parent_span_id) for each in (wait, run)] == [request.get_span_context().span_id] * 2
    assert attributes_of(run)[names.STATUS] == "COMPLETED"


def test_refused_request_says_why_and_does_not_fail_its_span() -> None:
    tracer = RecordingTracer()
    with traced_node(tracer, []) as client:
        assert client.get("/tasks/00000000-0000-4000-8000-000000000000").status_code == 404
    (refused,) = tracer.spans
    assert refused.status is StatusCode.UNSET
    assert refused.attributes[names.HTTP_STATUS] == 404
    assert refused.attributes[names.REASON] == "TASK_NOT_FOUND"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "x"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-5"),
    ],
)
def test_malformed_variable_of_opentelemetry_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as refused:
        spans_of(load(None, {"TRACING_ENABLED": "true"}, {}, dev=True))
    assert refused.value.key == "TRACING_ENABLED"
    assert "OTEL_" in refused.value.message


def test_server_without_the_packages_refuses_to_start_with_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    settings = load(None, {"TRACING_ENABLED": "true"}, {}, dev=True)
    with pytest.raises(ConfigError) as refused:
        spans_of(settings)
    assert refused.value.key == "TRACING_ENABLED"
    assert "opentelemetry-sdk" in refused.value.message
    assert spans_of(load(None, {}, {}, dev=True)) is None
