"""Spans of calls, requests and tasks: their parents, names and statuses, and that nothing else pays for them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from codeq.v1 import task_pb2
from codeq_gateway.heads import Head
from codeq_server.core import names as core_names
from codeq_server.core.callbacks import Call, Callback
from codeq_server.core.model import Queue
from codeq_server.core.new_task import Naming, NewTask
from codeq_server.core.status import Outcome, Status
from codeq_server.core.traces import TRACED_MAX, TracedTask, Traces, is_sampled
from codeq_server.core.withdrawal import cancel
from codeq_server.services.creating import task_of
from codeq_server.tracing import names
from codeq_server.tracing.callbacks import CallbackSpans
from codeq_server.tracing.calls import GrpcSpans, RequestSpans
from codeq_server.tracing.context import parent_of, traceparent_of
from codeq_server.tracing.task_encoding import KEPT_MAX
from codeq_server.tracing.tasks import EndedTask, TaskSpans
from driven_shard import START_MS, TENANT, DrivenShard
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.trace import SpanKind, StatusCode, get_current_span
from recorded_spans import RecordingTracer, attributes_of, spans_of_tasks

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-2] + "00"
TRACE_ID, SPAN_ID = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
METHOD = "/codeq.v1.TaskService/GetTask"


# -- context -------------------------------------------------------------------------------------------------------


def test_parent_of_a_well_formed_header_is_its_span() -> None:
    context = parent_of(PARENT, "vendor=1")
    assert context is not None
    span = get_current_span(context)
    of = span.get_span_context()
    assert (of.trace_id, of.span_id, of.trace_flags, of.is_remote) == (TRACE_ID, SPAN_ID, 1, True)
    assert of.trace_state.get("vendor") == "1"
    assert traceparent_of(span) == PARENT


@pytest.mark.parametrize(
    "header",
    [
        "",
        "garbage",
        PARENT.upper(),
        PARENT + "-more",
        "ff" + PARENT[2:],
        "00-" + "0" * 32 + PARENT[35:],
        PARENT[:36] + "0" * 16 + "-01",
        "01" + PARENT[2:] + "-" + "x" * 100,
    ],
)
def test_malformed_header_names_no_parent(header: str) -> None:
    assert parent_of(header) is None


def test_header_of_a_later_version_may_be_longer() -> None:
    assert parent_of("01" + PARENT[2:] + "-more") is not None


# -- calls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("OK", StatusCode.UNSET),
        ("NOT_FOUND", StatusCode.UNSET),
        ("CANCELLED", StatusCode.UNSET),
        ("INTERNAL", StatusCode.ERROR),
        ("UNAVAILABLE", StatusCode.ERROR),
    ],
)
def test_span_of_a_call_says_its_code_and_fails_only_by_a_fault_of_the_server(code: str, status: StatusCode) -> None:
    tracer = RecordingTracer()
    spans = GrpcSpans(tracer)
    span = spans.begin(METHOD, {"traceparent": PARENT})
    spans.end(span, code, {} if code == "OK" else {"reason": "TASK_NOT_FOUND", "task_id": "t", "tenant": ""})
    (made,) = tracer.spans
    assert (made.name, made.kind, made.ended) == ("codeq.v1.TaskService/GetTask", SpanKind.SERVER, True)
    assert (made.parent.trace_id, made.parent.span_id) == (TRACE_ID, SPAN_ID)
    assert made.attributes[names.RPC_STATUS] == code
    assert made.attributes.get(names.ERROR_TYPE) == (code if status is StatusCode.ERROR else None)
    assert made.attributes.get(names.REASON) == (None if code == "OK" else "TASK_NOT_FOUND")
    assert names.TENANT not in made.attributes
    assert made.status is status


def test_call_without_a_parent_begins_a_trace() -> None:
    tracer = RecordingTracer()
    GrpcSpans(tracer).begin(METHOD, {"traceparent": b"\xff", "x": "y"})
    assert not tracer.spans[0].parent.is_valid


def head(method: str, headers: Mapping[bytes, bytes]) -> Head:
    return Head(method, b"/v1/codeq/tasks", b"key=secret", b"h", headers, True, 0, False)


def test_request_span_is_the_parent_of_what_the_request_creates() -> None:
    tracer = RecordingTracer()
    spans = RequestSpans(tracer)
    given = {b"traceparent": PARENT.encode(), b"tracestate": b"vendor=1", b"host": b"h"}
    span, headers = spans.begin(head("POST", given), "/v1/codeq/tasks", is_tls=True)
    assert headers == {**given, b"traceparent": traceparent_of(span).encode()}
    spans.end(span, 503, "id-1", {"reason": "NOT_LEADER"})
    (made,) = tracer.spans
    assert made.name == "POST /v1/codeq/tasks"
    assert made.get_span_context().trace_id == TRACE_ID
    assert made.attributes[names.HTTP_STATUS] == 503
    assert made.attributes[names.REQUEST_ID] == "id-1"
    assert (made.attributes[names.URL_SCHEME], made.attributes[names.URL_PATH]) == ("https", "/v1/codeq/tasks")
    assert made.status is StatusCode.ERROR


def test_request_without_a_parent_gets_one_if_its_trace_is_recorded() -> None:
    given = {b"tracestate": b"vendor=1"}
    span, headers = RequestSpans(RecordingTracer()).begin(head("GET", given), "/r", is_tls=False)
    assert headers == {b"traceparent": traceparent_of(span).encode()}
    _, headers = RequestSpans(RecordingTracer(is_sampling=False)).begin(head("GET", given), "/r", is_tls=False)
    assert headers is given


def test_refused_request_does_not_fail_its_span() -> None:
    tracer = RecordingTracer()
    spans = RequestSpans(tracer)
    span, _ = spans.begin(head("GET", {}), "/r", is_tls=False)
    spans.end(span, 404, "", {})
    assert tracer.spans[0].status is StatusCode.UNSET


# -- callbacks -----------------------------------------------------------------------------------------------------


def callback(traceparent: str = PARENT, attempt: int = 1, url: str = "https://hooks.example/secret?key=1") -> Callback:
    queue = Queue(1, TENANT, "a")
    return Callback(queue, 1, "d-1", url, "t-1", Status.COMPLETED, None, "", (), 0, attempt, traceparent, "vendor=1")


@pytest.mark.parametrize(
    ("call", "status", "error"),
    [
        (Call(0, 200, 1), StatusCode.UNSET, None),
        (Call(0, 302, 1), StatusCode.UNSET, None),
        (Call(0, 404, 1), StatusCode.ERROR, "404"),
        (Call(0, 503, 1), StatusCode.ERROR, "503"),
        (Call(0, 0, 1, "timeout"), StatusCode.ERROR, "timeout"),
        (Call(0, 0, 1, "connection refused"), StatusCode.ERROR, "no_answer"),
    ],
)
def test_span_of_a_callback_is_a_clients_in_the_trace_of_the_task(
    call: Call, status: StatusCode, error: str | None
) -> None:
    tracer = RecordingTracer()
    spans = CallbackSpans(tracer)
    headers = {"traceparent": PARENT, "tracestate": "vendor=1", "x": "y"}
    span = spans.begin(callback(), headers)
    assert span is not None
    spans.end(span, call)
    (made,) = tracer.spans
    assert (made.name, made.kind, made.ended, made.status) == ("POST", SpanKind.CLIENT, True, status)
    assert (made.parent.trace_id, made.parent.span_id) == (TRACE_ID, SPAN_ID)
    assert headers == {"traceparent": traceparent_of(made), "tracestate": "vendor=1", "x": "y"}
    assert made.attributes == {
        names.HTTP_METHOD: "POST",
        names.SERVER_ADDRESS: "hooks.example",
        names.SERVER_PORT: 443,
        names.MESSAGING_MESSAGE_ID: "t-1",
        names.TENANT: TENANT,
        names.DELIVERY_ID: "d-1",
        **({names.HTTP_STATUS: call.status} if call.status else {}),
        **({names.ERROR_TYPE: error} if error else {}),
    }


def test_later_attempts_of_a_callback_are_counted() -> None:
    tracer = RecordingTracer()
    CallbackSpans(tracer).begin(callback(attempt=3, url="http://hooks.example:8080/"), {})
    assert tracer.spans[0].attributes[names.HTTP_RESEND_COUNT] == 2
    assert tracer.spans[0].attributes[names.SERVER_PORT] == 8080


@pytest.mark.parametrize("traceparent", ["", UNSAMPLED])
def test_callback_has_no_span_unless_its_trace_is_sampled(traceparent: str) -> None:
    tracer, headers = RecordingTracer(), {"traceparent": traceparent}
    assert CallbackSpans(tracer).begin(callback(traceparent), headers) is None
    assert (tracer.spans, headers) == ([], {"traceparent": traceparent})


# -- tasks ---------------------------------------------------------------------------------------------------------


class Traced:
    """A shard whose tasks are traced."""

    def __init__(self) -> None:
        self.driven = DrivenShard()
        self.driven.shard.traces = Traces()
        self.ended: list[EndedTask] = []
        self.spans = TaskSpans(self.ended.append)

    def create(self, traceparent: str = PARENT, **fields: str) -> str:
        spec = task_pb2.TaskSpec(command="a", payload=b"1", traceparent=traceparent, **fields)
        task = task_of(self.driven.shard, TENANT, spec, self.driven.now)
        made = core_names.create(self.driven.shard, TENANT, task, self.driven.now)
        assert isinstance(made, core_names.Created)
        return made.task_id

    def record(self) -> list[Span]:
        """Returns the spans of the tasks that the open batch ends."""
        self.spans.take(self.driven.shard.batch.traced)
        self.driven.write()
        return spans_of_tasks(self.ended)


def test_completed_task_has_a_span_for_its_wait_and_one_for_its_run() -> None:
    traced = Traced()
    task_id = traced.create()
    traced.driven.wall += 1_000
    traced.driven.claim(1)
    traced.driven.wall += 2_000
    traced.driven.settle(task_id)
    wait, run = traced.record()
    assert (wait.name, run.name) == ("wait a", "run a")
    for span in (wait, run):
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (PARENT[3:35], PARENT[36:52])
    assert len({wait.span_id, run.span_id, bytes(8)}) == 3
    milliseconds = [
        at // 1_000_000 - START_MS
        for each in (wait, run)
        for at in (each.start_time_unix_nano, each.end_time_unix_nano)
    ]
    assert milliseconds == [0, 1_000, 1_000, 3_000]
    assert [(link.trace_id, link.span_id) for link in run.links] == [(wait.trace_id, wait.span_id)]
    assert attributes_of(run) == {
        names.MESSAGING_SYSTEM: "codeq",
        names.MESSAGING_OPERATION: "run",
        names.MESSAGING_DESTINATION: "a",
        names.MESSAGING_MESSAGE_ID: task_id,
        names.TENANT: TENANT,
        names.WORKER: "w",
        names.DELIVERIES: 1,
        names.STATUS: "COMPLETED",
    }
    assert run.status.code == run.status.STATUS_CODE_UNSET
    assert not traced.driven.shard.traces.tasks  # type: ignore[union-attr]


def test_run_of_a_retried_task_is_its_last_delivery() -> None:
    traced = Traced()
    task_id = traced.create(task_id="mine")
    traced.driven.claim(1)
    traced.driven.wall += 500
    traced.driven.nack(task_id)
    traced.driven.wall += 500
    traced.driven.claim(1)
    traced.driven.settle(task_id, Outcome.FAILED)
    wait, run = traced.record()
    assert wait.end_time_unix_nano == START_MS * 1_000_000
    assert run.start_time_unix_nano == (START_MS + 1_000) * 1_000_000
    attributes = attributes_of(run)
    assert (attributes[names.DELIVERIES], attributes[names.STATUS]) == (2, "FAILED")
    assert attributes[names.ERROR_TYPE] == "FAILED"
    assert run.status.code == run.status.STATUS_CODE_ERROR


def test_task_that_was_not_delivered_only_waited() -> None:
    traced = Traced()
    task_id = traced.create()
    traced.driven.wall += 100
    cancel(traced.driven.shard, TENANT, task_id, "", traced.driven.now)
    (wait,) = traced.record()
    assert wait.end_time_unix_nano == (START_MS + 100) * 1_000_000


def test_task_whose_trace_is_not_sampled_has_no_spans() -> None:
    traced = Traced()
    for traceparent in (UNSAMPLED, ""):
        task_id = traced.create(traceparent)
        traced.driven.claim(1)
        traced.driven.settle(task_id)
    assert traced.driven.shard.batch.traced == []
    assert is_sampled(PARENT)
    assert not is_sampled(UNSAMPLED)


def test_shard_without_traces_records_nothing() -> None:
    driven = DrivenShard()
    spec = task_pb2.TaskSpec(command="a", payload=b"1", traceparent=PARENT)
    task = task_of(driven.shard, TENANT, spec, driven.now)
    assert task.traceparent == ""
    assert task.kept == task_pb2.Task(traceparent=PARENT).SerializeToString()


def test_tasks_beyond_the_limit_are_not_traced() -> None:
    traces = Traces()
    for number in range(TRACED_MAX + 1):
        traces.begin(f"t{number}", TENANT, "a", PARENT, 0)
    assert len(traces.tasks) == TRACED_MAX
    assert f"t{TRACED_MAX}" not in traces.tasks


class Failing(RecordingTracer):
    def start_span(self, *_: object, **__: object) -> object:  # type: ignore[override]
        raise ValueError("broken")


def test_failing_tracer_costs_only_spans() -> None:
    headers = {"traceparent": PARENT}
    assert CallbackSpans(Failing()).begin(callback(), headers) is None
    assert headers == {"traceparent": PARENT}


def test_failing_exporter_costs_only_spans() -> None:
    def fail(_: EndedTask) -> None:
        raise ValueError("broken")

    traced = Traced()
    traced.spans = TaskSpans(fail)
    task_id = traced.create()
    traced.driven.claim(1)
    traced.driven.settle(task_id)
    traced.record()
    assert traced.driven.status(task_id) == "COMPLETED"


def test_spans_of_many_commands_keep_their_own_names() -> None:
    tasks = [TracedTask(TENANT, f"c{number}", "id", PARENT, 1) for number in range(KEPT_MAX // 2 + 10)]
    spans = spans_of_tasks([EndedTask(task) for task in (*tasks, tasks[0])])
    assert [span.name for span in spans] == [f"wait {task.command}" for task in (*tasks, tasks[0])]


def test_duplicate_of_a_traced_task_is_not_traced_twice() -> None:
    traced = Traced()
    task = NewTask("a", b"1", naming=Naming("k", b"d", b"m"), traceparent=PARENT)
    for _ in range(2):
        core_names.create(traced.driven.shard, TENANT, task, traced.driven.now)
    assert len(traced.driven.shard.traces.tasks) == 1  # type: ignore[union-attr]
