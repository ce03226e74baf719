"""A collector of OpenTelemetry on loopback, which keeps its spans: OTLP over gRPC, or as JSON over HTTP."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Self

import grpc
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.trace.v1 import trace_pb2
from server_process import reserved_port

WAIT_SECONDS_MAX: Final = 30
_PATH: Final = "/v1/traces"
_IDS: Final = frozenset({"traceId", "spanId", "parentSpanId"})
_Request = trace_service_pb2.ExportTraceServiceRequest
_Response = trace_service_pb2.ExportTraceServiceResponse


@dataclass(frozen=True, slots=True)
class Received:
    """A span; ids are in hexadecimal.

    Attributes:
        service: `service.name` of its resource.
        name: Name.
        kind: Such as "SERVER".
        trace_id: Trace.
        span_id: Its own id.
        parent_id: Its parent; empty: it begins the trace.
        links: Traces and ids of the spans that it is linked to.
        attributes: Attributes.
        status: "UNSET", "OK" or "ERROR".
        events: Names of its events.
        nanoseconds: Start and end.
    """

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[tuple[str, str], ...]
    attributes: dict[str, Any]
    status: str
    events: tuple[str, ...]
    nanoseconds: tuple[int, int]

    @property
    def place(self) -> tuple[str, str]:
        """Its trace and id, as links name them."""
        return self.trace_id, self.span_id


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Two servers in threads.

    Attributes:
        spans: Spans so far.
        code: Code with which exports are answered.
        exports: Number of exports over gRPC so far.
    """

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.code = grpc.StatusCode.OK
        self.exports = 0
        self._changed = threading.Condition()
        self._reserved = reserved_port()
        self._port: int = self._reserved.getsockname()[1]
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == _PATH
                outer._take(_of_json(body))
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._http.shutdown()
        self._http.server_close()
        self._reserved.close()

    @property
    def grpc_url(self) -> str:
        """Endpoint for OTLP over gRPC."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def http_url(self) -> str:
        """Endpoint for OTLP as JSON over HTTP, with its path."""
        return f"http://127.0.0.1:{self._http.server_address[1]}{_PATH}"

    def start(self) -> None:
        """Starts to take spans over gRPC, on the same port as before."""
        self._grpc = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._grpc)
        assert self._grpc.add_insecure_port(f"127.0.0.1:{self._port}") == self._port
        self._grpc.start()

    def stop(self) -> None:
        """Stops to take spans over gRPC, at once."""
        self._grpc.stop(None).wait()

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - of the protocol
        """Takes spans."""
        with self._changed:
            self.exports += 1
            self._changed.notify_all()
        if self.code is not grpc.StatusCode.OK:
            context.abort(self.code, "as the test wants")
        self._take(request)
        return _Response()

    def wait(self, is_enough: Callable[[], object]) -> None:
        """Waits until the spans, or the number of exports, are enough."""
        with self._changed:
            assert self._changed.wait_for(is_enough, WAIT_SECONDS_MAX), [
                (span.service, span.name) for span in self.spans
            ]

    def named(self, name: str) -> list[Received]:
        """Returns the spans of a name."""
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Received:
        """Returns the only span of a name."""
        (found,) = self.named(name)
        return found

    def _take(self, request: Any) -> None:
        taken = [
            _received(of.resource, span)
            for of in request.resource_spans
            for scope in of.scope_spans
            for span in scope.spans
        ]
        with self._changed:
            self.spans += taken
            self._changed.notify_all()


def _received(resource: Any, span: Any) -> Received:
    return Received(
        _values(resource.attributes)["service.name"],
        span.name,
        trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        _values(span.attributes),
        trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        tuple(event.name for event in span.events),
        (span.start_time_unix_nano, span.end_time_unix_nano),
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: common_pb2.AnyValue) -> Any:
    kind = value.WhichOneof("value")
    assert kind in {"string_value", "bool_value", "int_value", "double_value", "array_value"}, kind
    return [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, str(kind))


def _of_json(body: bytes) -> Any:
    """Reads OTLP as JSON, in which ids are hexadecimal, other than in the JSON form of its messages."""
    return json_format.ParseDict(json.loads(body, object_hook=_with_bytes), _Request())


def _with_bytes(read: dict[str, Any]) -> dict[str, Any]:
    return {name: _base64(value) if name in _IDS else value for name, value in read.items()}


def _base64(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()
