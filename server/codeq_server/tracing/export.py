"""Exports spans to a collector over OTLP, with the SDK of OpenTelemetry.

The SDK is imported only when tracing is enabled: servers without tracing need not have it.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from opentelemetry.trace import Tracer

from . import names
from .faults import Faults
from .tasks import EndedTask

QUEUE_SPANS_MAX: Final = 2048
"""Spans that wait for export; further spans are dropped, so a slow collector delays nothing."""
BATCH_SPANS_MAX: Final = 512
LOG_SECONDS: Final = 300.0
"""Shortest time between two lines about a collector that takes no spans."""

_log = structlog.get_logger()

_PACKAGES: Final = "opentelemetry-sdk and opentelemetry-exporter-otlp-proto-grpc"


class ExportError(Exception):
    """Spans cannot be exported; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """How spans are exported.

    Attributes:
        endpoint: URL of the collector; empty: the variables of OpenTelemetry, or its default, apply.
        insecure: Whether the connection has no TLS; None: the scheme of the URL decides.
        sample_ratio: Part of the traces that begin here which are recorded. Traces that callers begin are recorded if
            the callers say so.
        service_name: Name of this service; empty: OTEL_SERVICE_NAME, or codeq.
        version: Version of the server.
    """

    endpoint: str
    insecure: bool | None
    sample_ratio: float
    service_name: str
    version: str


@dataclass(frozen=True, slots=True)
class Tracing:
    """Makes spans, and exports them from a thread of its own.

    Attributes:
        tracer: Makes spans.
        put: Takes a task that ended, and does not wait.
        stop: Exports the last spans and stops the thread; takes long if the collector does not answer.
    """

    tracer: Tracer
    put: Callable[[EndedTask], None]
    stop: Callable[[], None]


def start(export: Export, environment_name: str) -> Tracing:
    """Starts to export spans.

    Args:
        export: How.
        environment_name: Value of OTEL_SERVICE_NAME; empty: it is not set.

    Raises:
        ExportError: The SDK is not installed, or a variable of OpenTelemetry is malformed.
    """
    try:
        sdk: Any = importlib.import_module("opentelemetry.sdk.trace")
        exporting: Any = importlib.import_module("opentelemetry.sdk.trace.export")
        sampling: Any = importlib.import_module("opentelemetry.sdk.trace.sampling")
        resources: Any = importlib.import_module("opentelemetry.sdk.resources")
        otlp: Any = importlib.import_module("codeq_server.tracing.otlp")
    except ImportError as missing:
        raise ExportError(f"needs the packages {_PACKAGES}: {missing}") from None
    # The SDK logs every failure, and every span that finds no room; `_Watched` logs outages instead.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    try:
        return _started(export, environment_name, sdk, exporting, sampling, resources, otlp)
    except Exception as problem:  # noqa: BLE001 - the SDK reads its variables, and raises what it likes
        raise ExportError(f"the variables of OpenTelemetry (OTEL_...) cannot be used: {problem}") from None


def _started(
    export: Export, environment_name: str, sdk: Any, exporting: Any, sampling: Any, resources: Any, otlp: Any
) -> Tracing:
    """Starts to export spans with the modules of the SDK."""
    service = export.service_name or environment_name or names.CODEQ
    resource = resources.Resource.create({"service.name": service, "service.version": export.version})
    provider = sdk.TracerProvider(
        sampler=sampling.ParentBased(sampling.TraceIdRatioBased(export.sample_ratio)),
        resource=resource,
        shutdown_on_exit=False,
    )
    exporter = _Watched(
        otlp.Exporter(resource, export.version, endpoint=export.endpoint or None, insecure=export.insecure)
    )
    processor = exporting.BatchSpanProcessor(
        exporter, max_queue_size=QUEUE_SPANS_MAX, max_export_batch_size=BATCH_SPANS_MAX
    )
    provider.add_span_processor(processor)
    return Tracing(provider.get_tracer(names.SCOPE, export.version), processor.on_end, provider.shutdown)


class _Watched:
    """An exporter that logs when the collector takes no spans, and when it does again."""

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter
        self._is_failing = False
        self._logged: float | None = None
        self._faults = Faults()

    def export(self, spans: Sequence[Any]) -> Any:
        """Exports spans; see SpanExporter of the SDK."""
        try:
            result: Any = self._exporter.export(spans)
        except Exception as problem:
            self._faults.log(problem)
            raise
        has_failed = result.name != "SUCCESS"
        if has_failed and self._may_log():
            self._is_failing = True
            _log.warning("spans_not_exported", hint="see TRACING_OTLP_ENDPOINT and TRACING_OTLP_INSECURE")
        elif not has_failed and self._is_failing:
            self._is_failing = False
            _log.info("spans_exported_again")
        return result

    def shutdown(self) -> None:
        """Closes the connection; see SpanExporter of the SDK."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 0) -> bool:
        """Does nothing; see SpanExporter of the SDK."""
        return bool(self._exporter.force_flush(timeout_millis))

    def _may_log(self) -> bool:
        now = time.monotonic()
        if self._logged is not None and now - self._logged < LOG_SECONDS:
            return False
        self._logged = now
        return True
