"""Rendering of metrics: complete, refreshed before, and in slices."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

from codeq_gateway.exposition import Exposition
from codeq_server.core.durations import Durations
from codeq_server.services.grpc_metrics import GrpcMetrics
from codeq_server.services.histograms import OF_CALLS, OF_DISKS, OF_TASKS, SyncTimes, histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


class Numbers(Collector):
    """Families with the number of refreshes as their value."""

    def __init__(self, count: int) -> None:
        self.count, self.value = count, 0

    async def refresh(self) -> None:
        self.value += 1

    def collect(self) -> Iterator[Metric]:
        for number in range(self.count):
            yield GaugeMetricFamily(f"number_{number}", "A number.", value=self.value)


async def test_all_families_are_rendered_after_their_refresh() -> None:
    exposition, numbers = Exposition(), Numbers(3)
    exposition.add(numbers, numbers.refresh)
    assert b"number_2 1.0\n" in await exposition.text()
    assert b"number_2 2.0\n" in await exposition.text()


async def test_rendering_gives_way_to_other_work() -> None:
    exposition, steps = Exposition(slice_seconds=0), 0
    exposition.add(Numbers(10))

    async def count() -> None:
        nonlocal steps
        while True:
            steps += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await exposition.text()
    counting.cancel()
    assert steps >= 9


def test_buckets_are_cumulative_and_end_with_all() -> None:
    durations = Durations()
    for micros in (0, 200, 5_000, 100_000_000_000):
        durations.note(micros)
    for scale in (OF_CALLS, OF_DISKS):
        family = histogram("x_seconds", "X.", durations, scale)
        counts = [sample.value for sample in family.samples if sample.name == "x_seconds_bucket"]
        assert counts == sorted(counts)
        assert counts[-1] == 4
        bounds = [float(sample.labels["le"]) for sample in family.samples if "le" in sample.labels]
        assert bounds == sorted(bounds)
        within = dict(zip(bounds, counts, strict=True))
        assert within[256 / 1_000_000] == 2
        assert within[16_384 / 1_000_000] == 3
    assert next(SyncTimes(durations).collect()).name == "codeq_sync_seconds"
    assert (1 << OF_TASKS.bits[0]) / OF_TASKS.per_second == 0.004


def test_calls_are_counted_by_method_and_code_from_zero_on() -> None:
    lines: list[str] = []
    metrics = GrpcMetrics(["/codeq.v1.TaskService/GetTask", "/codeq.v1.WorkerService/Work"])
    log = metrics.counting(lambda method, code, *_: lines.append(f"{method} {code}"))
    log("/codeq.v1.TaskService/GetTask", "NOT_FOUND", 0.5, "id", {})
    log("/evil/Method", "UNIMPLEMENTED", 0.5, "id", {})
    metrics.ended("/codeq.v1.WorkerService/Work", "UNAVAILABLE")
    calls, times = metrics.collect()
    assert isinstance(calls, CounterMetricFamily)
    shown = {(sample.labels["method"], sample.labels["code"]): sample.value for sample in calls.samples}
    assert shown == {
        ("codeq.v1.TaskService/GetTask", "OK"): 0,
        ("codeq.v1.TaskService/GetTask", "NOT_FOUND"): 1,
        ("codeq.v1.WorkerService/Work", "OK"): 0,
        ("codeq.v1.WorkerService/Work", "UNAVAILABLE"): 1,
        ("unknown", "UNIMPLEMENTED"): 1,
    }
    assert lines == ["/codeq.v1.TaskService/GetTask NOT_FOUND", "/evil/Method UNIMPLEMENTED"]
    assert {sample.labels["method"] for sample in times.samples} == {"codeq.v1.TaskService/GetTask", "unknown"}


async def test_text_is_valid_for_prometheus() -> None:
    exposition = Exposition()
    exposition.add(GrpcMetrics(["/a/B"]))
    exposition.add(SyncTimes(Durations()))
    text = (await exposition.text()).decode()
    assert [family.name for family in text_string_to_metric_families(text)] == [
        "codeq_grpc_calls",
        "codeq_grpc_call_seconds",
        "codeq_sync_seconds",
    ]
    assert len(re.findall("^# TYPE ", text, re.MULTILINE)) == 3
