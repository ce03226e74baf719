"""An exporter over OTLP (gRPC) of spans, and of tasks that ended; imported only when tracing is enabled."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from . import names
from .task_encoding import spans_of
from .tasks import EndedTask


class Exporter(OTLPSpanExporter):
    """Exports spans and tasks.

    Args:
        resource: The resource of all spans.
        version: Version of the server.
        endpoint: URL of the collector; None: the variables of OpenTelemetry, or its default, apply.
        insecure: Whether the connection has no TLS; None: the scheme of the URL decides.
    """

    def __init__(self, resource: Resource, version: str, *, endpoint: str | None, insecure: bool | None) -> None:
        super().__init__(endpoint=endpoint, insecure=insecure)
        scope = InstrumentationScope(names.SCOPE, version)
        some = ReadableSpan("", context=EndedTask.context, resource=resource, instrumentation_scope=scope)
        self._frame = encode_spans([some]).resource_spans[0]
        del self._frame.scope_spans[0].spans[:]

    def _translate_data(self, data: Sequence[ReadableSpan | EndedTask]) -> ExportTraceServiceRequest:
        """Returns the request of an export; overrides the hook with which the SDK's exporters do this."""
        request = encode_spans([each for each in data if not isinstance(each, EndedTask)])
        tasks = [each for each in data if isinstance(each, EndedTask)]
        if tasks:
            framed = request.resource_spans.add()
            framed.CopyFrom(self._frame)
            framed.scope_spans[0].MergeFromString(b"".join(map(spans_of, tasks)))
        return request
