"""Health, readiness, metrics and the access log."""

from __future__ import annotations

from codeq_gateway.metrics import SECONDS_BOUNDS, HttpMetrics
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from served_gateway import Served


async def test_health_needs_no_token(served: Served) -> None:
    answer = await served.http.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_readiness_follows_its_probe(served: Served) -> None:
    ready = await served.http.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "fsync": True})
    served.is_ready[0] = False
    unready = await served.http.get("/readyz")
    assert (unready.status_code, unready.json()) == (503, {"ready": False, "fsync": True})


async def test_startup_follows_its_probe_and_says_why(served: Served) -> None:
    started = await served.http.get("/startupz")
    assert (started.status_code, started.json()) == (200, {"started": True})
    served.is_ready[0] = False
    starting = await served.http.get("/startupz")
    assert (starting.status_code, starting.json()) == (503, {"started": False, "reason": "no vote yet"})


async def test_metrics_count_requests_by_template(served: Served) -> None:
    for task_id in ("a", "b", "c"):
        await served.http.get(f"/v1/codeq/tasks/{task_id}")
    await served.http.get("/v1/codeq/nowhere/7")
    await served.http.request("PROPFIND", "/healthz")
    answer = await served.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    task = ("route", "/v1/codeq/tasks/{task_id}")
    assert samples["codeq_http_requests_total", ("method", "GET"), task, ("status", "404")] == 3
    assert samples["codeq_http_requests_total", ("method", "GET"), ("route", "unknown"), ("status", "404")] == 1
    assert samples["codeq_http_requests_total", ("method", "OTHER"), ("route", "unknown"), ("status", "501")] == 1
    assert samples["codeq_http_request_seconds_count", task] == 3
    assert samples["codeq_http_request_seconds_bucket", ("le", "+Inf"), task] == 3
    assert samples["codeq_http_request_seconds_sum", task] > 0


def test_durations_are_counted_in_their_buckets() -> None:
    metrics = HttpMetrics()
    for seconds in (0.0, 0.001, 0.0011, 61.0):
        metrics.observe("GET", "/r", 200, seconds)
    registry = CollectorRegistry()
    registry.register(metrics)
    buckets = [
        registry.get_sample_value("codeq_http_request_seconds_bucket", {"route": "/r", "le": str(b)})
        for b in SECONDS_BOUNDS
    ]
    assert buckets == [2.0, *[3.0] * (len(SECONDS_BOUNDS) - 1)]
    assert registry.get_sample_value("codeq_http_request_seconds_count", {"route": "/r"}) == 4


async def test_each_request_is_logged_in_one_access_line(served: Served) -> None:
    await served.http.get("/v1/codeq/tasks/a", headers={"X-Request-Id": "r1"})
    await served.http.get("/healthz", headers={"X-Request-Id": "r2"})
    await served.http.get("/nowhere", headers={"X-Request-Id": "r3"})
    assert served.lines == [
        ("GET", "/v1/codeq/tasks/{task_id}", 404, "r1"),
        ("GET", "/healthz", 200, "r2"),
        ("GET", "unknown", 404, "r3"),
    ]
