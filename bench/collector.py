"""A collector of OpenTelemetry for measurements: it accepts all spans at once, and keeps none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

import grpc

_SERVICE: Final = "opentelemetry.proto.collector.trace.v1.TraceService"


class Collector:
    """Counts the exports that it accepts.

    Attributes:
        url: Where it listens.
        exports: Number of exports so far, each with many spans.
    """

    def __init__(self, url: str) -> None:
        self.url: Final = url
        self.exports = 0
        self._lock = threading.Lock()

    def accept(self, request: bytes, context: grpc.ServicerContext) -> bytes:  # noqa: ARG002
        """Accepts an export."""
        with self._lock:
            self.exports += 1
        return b""


@contextmanager
def collecting() -> Iterator[Collector]:
    """Yields a collector on a free port of the loopback interface."""
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        collector = Collector(f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        export: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(collector.accept)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, {"Export": export})])
        server.start()
        try:
            yield collector
        finally:
            server.stop(None)
