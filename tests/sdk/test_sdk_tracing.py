"""Trace context travels from the producer's span to the handler's, if the program uses OpenTelemetry."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import codeq
import pytest
from opentelemetry import trace
from recorded_spans import RecordedSpan, RecordingTracer
from server_process import DEV_TOKEN, ServerProcess
from waiting import eventually
from worker_runs import running

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_trace_context_of_a_create_reaches_the_handler(shared_server: ServerProcess) -> None:
    worker = codeq.AsyncWorker(shared_server.worker_addr, token=DEV_TOKEN)
    async with (
        running(worker, lambda task: [task.traceparent, task.tracestate], "traced"),
        codeq.AsyncProducer(shared_server.producer_addr, token=DEV_TOKEN) as producer,
    ):
        given = await producer.create_and_wait("traced", traceparent=TRACEPARENT, tracestate="a=1")
        none = await producer.create_and_wait("traced")
    assert (given.result, none.result) == ([TRACEPARENT, "a=1"], [None, None])


def test_sdk_does_not_import_opentelemetry() -> None:
    code = "import sys, codeq; codeq.Worker().task('X')(lambda task: 1); assert 'opentelemetry' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_child_span_of_a_handler_is_in_the_trace_of_the_producer(shared_server: ServerProcess) -> None:
    def handler(task: codeq.Task) -> object:
        context = trace.get_current_span().get_span_context()
        return [f"{context.trace_id:032x}", task.traceparent]

    worker = codeq.AsyncWorker(shared_server.worker_addr, token=DEV_TOKEN, span_relation="child")
    parent = trace.NonRecordingSpan(trace.SpanContext(0x11, 0x22, is_remote=False, trace_flags=trace.TraceFlags(1)))
    async with (
        running(worker, handler, "spans"),
        codeq.AsyncProducer(shared_server.producer_addr, token=DEV_TOKEN) as producer,
    ):
        with trace.use_span(parent):
            done = await producer.create_and_wait("spans")
    assert done.result == [f"{0x11:032x}", f"00-{0x11:032x}-{0x22:016x}-01"]


def test_unknown_relation_of_spans_is_rejected() -> None:
    with pytest.raises(ValueError, match="span_relation must be 'link' or 'child'"):
        codeq.Worker(span_relation="parent")  # type: ignore[arg-type]


def raising(outcome: BaseException) -> Callable[[codeq.Task], object]:
    def handler(task: codeq.Task) -> object:
        raise outcome

    return handler


def coroutine(handler: Callable[[codeq.Task], object]) -> Callable[[codeq.Task], Awaitable[object]]:
    async def run(task: codeq.Task) -> object:
        return handler(task)

    return run


class LeavingError(Exception):
    """An error whose own code ends the thread that asks for its text."""

    def __str__(self) -> str:
        raise SystemExit(3)


OUTCOMES = {
    "value": (lambda _: 1, None),
    "completed": (lambda _: codeq.Completed(1), None),
    "returned-failed": (lambda _: codeq.Failed("no"), "Failed"),
    "raised-failed": (raising(codeq.NonRetryable("no")), "NonRetryable"),
    "nack": (lambda _: codeq.Nack("no"), "Nack"),
    "retry-after": (raising(codeq.RetryAfter(60)), "RetryAfter"),
    "snooze": (raising(codeq.Snooze(60)), None),
    "abandon": (lambda _: codeq.Snooze(60), None),
    "bug": (raising(ZeroDivisionError("no")), "ZeroDivisionError"),
    "leaving": (raising(LeavingError()), "LeavingError"),
}


@pytest.mark.parametrize("is_async", [False, True])
async def test_span_of_a_handler_is_linked_to_the_create_and_fails_as_the_task_does(
    is_async: bool, shared_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        RecordedSpan, "record_exception", lambda self, error: self.attributes.update(recorded=str(error))
    )
    tracer = RecordingTracer()
    monkeypatch.setattr(trace, "get_tracer", lambda *_: tracer)
    told: set[str] = set()
    worker = codeq.AsyncWorker(shared_server.worker_addr, token=DEV_TOKEN)

    def handler(task: codeq.Task) -> object:
        told.add(task.payload)
        return OUTCOMES[task.payload][0](task)

    command = f"linked-{is_async}"
    async with (
        running(worker, coroutine(handler) if is_async else handler, command),
        codeq.AsyncProducer(shared_server.producer_addr, token=DEV_TOKEN) as producer,
    ):
        for name in OUTCOMES:
            await producer.create(command, name, traceparent=TRACEPARENT)
        await eventually(lambda: len(told) == len(OUTCOMES) and all(span.ended for span in tracer.spans))
    spans = {span.attributes["messaging.message.id"]: span for span in tracer.spans}
    assert len(spans) == len(OUTCOMES)
    assert {span.name for span in spans.values()} == {f"process {command}"}
    assert not any(span.parent.is_valid for span in spans.values())
    (creator,) = {link.context.span_id for span in spans.values() for link in span.links}
    assert f"{creator:016x}" == TRACEPARENT.split("-")[2]
    errors = Counter(span.attributes.get("error.type") for span in spans.values())
    assert errors == Counter(error for _, error in OUTCOMES.values())
    assert all((span.status is trace.StatusCode.ERROR) == ("error.type" in span.attributes) for span in spans.values())
    assert [span.attributes["recorded"] for span in spans.values() if "recorded" in span.attributes] == ["no"]


class Broken(RecordingTracer):
    """A tracer whose spans fail when they start, or when they end."""

    def __init__(self, fails_at: str) -> None:
        super().__init__()
        self._fails_at = fails_at

    def start_span(self, *args: Any, **given: Any) -> RecordedSpan:
        if self._fails_at == "start":
            raise LookupError("no exporter")
        span = super().start_span(*args, **given)
        span.end = self._end  # type: ignore[method-assign]
        return span

    def _end(self) -> None:
        raise LookupError("no exporter")


@pytest.mark.parametrize("fails_at", ["start", "end"])
@pytest.mark.parametrize("is_async", [False, True])
async def test_broken_tracing_costs_no_outcome(
    fails_at: str, is_async: bool, shared_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "get_tracer", lambda *_: Broken(fails_at))

    def handler(task: codeq.Task) -> object:
        calls.append(task.attempts)
        return codeq.Failed("broken") if task.payload else "done"

    calls: list[int] = []
    worker = codeq.AsyncWorker(shared_server.worker_addr, token=DEV_TOKEN)
    command = f"broken-spans-{fails_at}-{is_async}"
    async with (
        running(worker, coroutine(handler) if is_async else handler, command),
        codeq.AsyncProducer(shared_server.producer_addr, token=DEV_TOKEN) as producer,
    ):
        for payload, status in ((None, "COMPLETED"), (1, "FAILED")):
            done = await producer.create_and_wait(command, payload)
            assert done.status == status
    assert calls == [1, 1]
