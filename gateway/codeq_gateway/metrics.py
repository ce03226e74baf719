"""Counts and durations of HTTP requests, kept as plain numbers and exported to Prometheus on demand."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from codeq_gateway.tls import Handshakes

SECONDS_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histogram's buckets in seconds; long polls take up to 60."""

UNKNOWN_ROUTE: Final = "unknown"
"""Route recorded for requests that match no template, so that arbitrary paths add no series."""


class HttpMetrics(Collector):
    """Requests by method, route and status, and their durations by route.

    The number of series is bounded: routes are templates, and methods come from a short list.

    Attributes:
        handshakes: TLS handshakes to count, too.
    """

    def __init__(self) -> None:
        self.handshakes: Handshakes | None = None
        self._requests: dict[tuple[str, str, int], int] = {}
        self._buckets: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts one request that was answered or abandoned; `method` comes from a short list."""
        key = (method, route, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        buckets = self._buckets.get(route)
        if buckets is None:
            buckets = self._buckets[route] = [0] * (len(SECONDS_BOUNDS) + 1)
            self._seconds[route] = 0.0
        buckets[bisect_left(SECONDS_BOUNDS, seconds)] += 1
        self._seconds[route] += seconds

    def collect(self) -> Iterator[Metric]:
        """Yields the counter and the histogram."""
        requests = CounterMetricFamily(
            "codeq_http_requests", "HTTP requests answered or abandoned.", labels=("method", "route", "status")
        )
        for (method, route, status), count in sorted(self._requests.items()):
            requests.add_metric((method, route, str(status)), count)
        yield requests
        durations = HistogramMetricFamily(
            "codeq_http_request_seconds", "Time from an HTTP request's head to its reply.", labels=("route",)
        )
        for route, buckets in sorted(self._buckets.items()):
            total = 0
            cumulative = []
            for bound, count in zip((*map(str, SECONDS_BOUNDS), "+Inf"), buckets, strict=True):
                total += count
                cumulative.append((bound, float(total)))
            durations.add_metric((route,), cumulative, self._seconds[route])
        yield durations
        if self.handshakes is not None:
            yield from _of_handshakes(self.handshakes)


def _of_handshakes(handshakes: Handshakes) -> Iterator[Metric]:
    counts = CounterMetricFamily(
        "codeq_http_tls_handshakes", "TLS handshakes of HTTP connections, by outcome.", labels=("outcome",)
    )
    counts.add_metric(("completed",), handshakes.completed)
    for reason, count in sorted(handshakes.failures.items()):
        counts.add_metric((reason,), count)
    yield counts
    yield GaugeMetricFamily("codeq_http_tls_handshakes_open", "TLS handshakes in flight.", value=len(handshakes))
