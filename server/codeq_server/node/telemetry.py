"""The spans of a node, if tracing is enabled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from codeq_server.config import ConfigError, Settings, telemetry_off_by
from codeq_server.services.handshake import SERVER_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Tracer

    from codeq_server.tracing.callbacks import CallbackSpans
    from codeq_server.tracing.calls import GrpcSpans, RequestSpans
    from codeq_server.tracing.tasks import EndedTask, TaskSpans

STOP_SECONDS: Final = 1.5
"""Longest time to export the last spans."""


@dataclass(frozen=True, slots=True)
class Spans:
    """What makes the spans of a node.

    Attributes:
        grpc: Makes those of unary gRPC calls.
        requests: Makes those of REST requests.
        tasks: Makes those of tasks that have ended.
        callbacks: Makes those of attempts of callbacks.
    """

    grpc: GrpcSpans
    requests: RequestSpans
    tasks: TaskSpans
    callbacks: CallbackSpans
    _stop: Callable[[], None]

    async def stop(self) -> None:
        """Exports the last spans, as far as the collector takes them in time."""
        loop, has_stopped = asyncio.get_running_loop(), asyncio.Event()

        def run() -> None:
            self._stop()
            with contextlib.suppress(RuntimeError):  # the time is over, and the loop closed
                loop.call_soon_threadsafe(has_stopped.set)

        # No thread of an executor, for whose end the process would wait.
        threading.Thread(target=run, name="last-spans", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await has_stopped.wait()


def spans_of(settings: Settings) -> Spans | None:
    """Returns what makes the spans of a server; None: tracing is not enabled, or OpenTelemetry is switched off.

    Raises:
        ConfigError: The packages that tracing needs are not installed, or variables of OpenTelemetry are malformed.
    """
    if not settings.tracing_enabled or telemetry_off_by(os.environ):
        return None
    try:
        # Imported only here: a server without tracing runs without OpenTelemetry.
        from codeq_server.tracing.export import Export, ExportError, start  # noqa: PLC0415
    except ImportError as missing:
        raise ConfigError("TRACING_ENABLED", f"needs the package opentelemetry-api: {missing}") from None
    export = Export(
        endpoint=settings.tracing_otlp_endpoint,
        insecure=settings.tracing_otlp_insecure,
        sample_ratio=settings.tracing_sample_ratio,
        service_name=settings.tracing_service_name,
        version=SERVER_VERSION,
    )
    try:
        tracing = start(export, os.environ.get("OTEL_SERVICE_NAME", ""))
    except ExportError as problem:
        raise ConfigError("TRACING_ENABLED", str(problem)) from None
    return spans_with(tracing.tracer, tracing.put, tracing.stop)


def spans_with(tracer: Tracer, put: Callable[[EndedTask], None], stop: Callable[[], None]) -> Spans:
    """Returns what makes the spans of a server with a tracer.

    Args:
        tracer: Makes spans.
        put: Takes a task that ended, and does not wait.
        stop: Exports the last spans.
    """
    from codeq_server.tracing.callbacks import CallbackSpans  # noqa: PLC0415 - see above
    from codeq_server.tracing.calls import GrpcSpans, RequestSpans  # noqa: PLC0415 - see above
    from codeq_server.tracing.tasks import TaskSpans  # noqa: PLC0415 - see above

    return Spans(GrpcSpans(tracer), RequestSpans(tracer), TaskSpans(put), CallbackSpans(tracer), stop)
