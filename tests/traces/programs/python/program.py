"""Creates tasks in spans, or works on them, as its first argument says; the others are commands.

The span of a create is called "order COMMAND". A handler fails if its payload says so. Spans go to the collector that
OTEL_EXPORTER_OTLP_ENDPOINT names; they have all arrived when the program ends.
"""

from __future__ import annotations

import sys

import codeq
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def create(commands: list[str]) -> None:
    """Creates a task of each command, and waits for its end."""
    tracer = trace.get_tracer("program")
    with codeq.Producer() as producer:
        for command in commands:
            with tracer.start_as_current_span(f"order {command}"):
                print(producer.create_and_wait(command, "work").status, flush=True)


def work(commands: list[str]) -> None:
    """Works on tasks until SIGTERM."""

    def handle(task: codeq.Task) -> str:
        if task.payload == "fail":
            raise codeq.NonRetryable("as the test wants")
        return "done"

    codeq.Worker(name="python").run(handle, commands=commands)


provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
{"create": create, "work": work}[sys.argv[1]](sys.argv[2:])
provider.shutdown()
