"""Counts and times of gRPC calls, kept as plain numbers and exported to Prometheus on demand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from codeq_server.core.durations import Durations

from .grpc_front import AccessLog
from .histograms import OF_CALLS, add_durations

OK: Final = "OK"
UNKNOWN_METHOD: Final = "unknown"
"""Method recorded for calls of methods that the server does not have, so that clients add no series."""


class GrpcMetrics(Collector):
    """Calls by method and code, and times of unary calls by method.

    Args:
        methods: Full names of the methods. Their calls that succeed are counted from 0 on.
    """

    def __init__(self, methods: Iterable[str]) -> None:
        self._calls = {(method, OK): 0 for method in sorted(methods)}
        self._methods = {method for method, _ in self._calls}
        self._times: dict[str, Durations] = {}

    def counting(self, log: AccessLog) -> AccessLog:
        """Returns an access log that also counts each unary call."""

        def logged(method: str, code: str, seconds: float, request_id: str, about: Mapping[str, str]) -> None:
            known = method if method in self._methods else UNKNOWN_METHOD
            self.ended(known, code)
            times = self._times.get(known)
            if times is None:
                times = self._times[known] = Durations()
            times.note(int(seconds * 1_000_000))
            log(method, code, seconds, request_id, about)

        return logged

    def ended(self, method: str, code: str) -> None:
        """Counts a call or stream that has ended; its method is one of the server's."""
        key = (method, code)
        self._calls[key] = self._calls.get(key, 0) + 1

    def collect(self) -> Iterator[Metric]:
        """Yields the counter and the histogram."""
        calls = CounterMetricFamily(
            "codeq_grpc_calls", "gRPC calls and streams that ended since startup.", labels=("method", "code")
        )
        for (method, code), count in sorted(self._calls.items()):
            calls.add_metric((method.removeprefix("/"), code), count)
        yield calls
        times = HistogramMetricFamily("codeq_grpc_call_seconds", "Time of a unary gRPC call.", labels=("method",))
        for method, durations in sorted(self._times.items()):
            add_durations(times, (method.removeprefix("/"),), durations, OF_CALLS)
        yield times
