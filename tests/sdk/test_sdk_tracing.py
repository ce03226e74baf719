"""Trace context travels from the producer's span to the handler's, if the program uses OpenTelemetry."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import codeq
import pytest
from server_process import DEV_TOKEN, ServerProcess
from worker_runs import running

ROOT = Path(__file__).resolve().parents[2]
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


if "opentelemetry-api==" in (ROOT / "requirements-dev.txt").read_text():
    from opentelemetry import trace

    async def test_handler_runs_in_a_span_below_that_of_the_producer(shared_server: ServerProcess) -> None:
        def handler(task: codeq.Task) -> object:
            context = trace.get_current_span().get_span_context()
            return [f"{context.trace_id:032x}", task.traceparent]

        worker = codeq.AsyncWorker(shared_server.worker_addr, token=DEV_TOKEN)
        parent = trace.NonRecordingSpan(trace.SpanContext(0x11, 0x22, is_remote=False, trace_flags=trace.TraceFlags(1)))
        async with (
            running(worker, handler, "spans"),
            codeq.AsyncProducer(shared_server.producer_addr, token=DEV_TOKEN) as producer,
        ):
            with trace.use_span(parent):
                done = await producer.create_and_wait("spans")
        assert done.result == [f"{0x11:032x}", f"00-{0x11:032x}-{0x22:016x}-01"]

    class Broken(trace.NoOpTracer):
        """A tracer whose spans fail when they start, or when they end."""

        def __init__(self, fails_at: str) -> None:
            self._fails_at = fails_at

        @contextlib.contextmanager
        def start_as_current_span(self, *_: object, **__: object) -> Iterator[trace.Span]:
            if self._fails_at == "start":
                raise LookupError("no exporter")
            try:
                yield trace.INVALID_SPAN
            finally:
                if self._fails_at == "end":
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

        async def async_handler(task: codeq.Task) -> object:
            return handler(task)

        calls: list[int] = []
        worker = codeq.AsyncWorker(shared_server.worker_addr, token=DEV_TOKEN)
        async with (
            running(worker, async_handler if is_async else handler, f"broken-spans-{fails_at}-{is_async}"),
            codeq.AsyncProducer(shared_server.producer_addr, token=DEV_TOKEN) as producer,
        ):
            for payload, status in ((None, "COMPLETED"), (1, "FAILED")):
                done = await producer.create_and_wait(f"broken-spans-{fails_at}-{is_async}", payload)
                assert done.status == status
        assert calls == [1, 1]
