"""Metrics of tasks by command. Names and labels of further metrics are in `metrics.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from .command_series import CANCELLED, CLAIMED, COMPLETED, CREATED, DEAD, FAILED, LAPSED, CommandSeries
from .histograms import OF_TASKS, add_durations

_COUNTERS: Final = {
    "codeq_task_created": ("Tasks accepted since startup.", CREATED),
    "codeq_task_claimed": ("Deliveries to workers since startup.", CLAIMED),
    "codeq_lease_expired": ("Leases that expired since startup.", LAPSED),
}
_STATUSES: Final = {"COMPLETED": COMPLETED, "FAILED": FAILED, "DLQ": DEAD, "CANCELLED": CANCELLED}
"""Labels of the statuses in which tasks end."""


def command_families(series: CommandSeries) -> Iterator[Metric]:
    """Yields the families of a shard's commands, as of the last refresh."""
    labels = series.labels
    for name, (text, index) in _COUNTERS.items():
        counter = CounterMetricFamily(name, text, labels=labels)
        for values, each in series:
            counter.add_metric(values, each.counts[index])
        yield counter
    ended = CounterMetricFamily(
        "codeq_task_completed",
        "Tasks that ended since startup, by the status in which they ended.",
        labels=(*labels, "status"),
    )
    depth = GaugeMetricFamily(
        "codeq_queue_depth", "Tasks in queues: ready, delayed, in_progress or dlq.", labels=(*labels, "queue")
    )
    dlq = GaugeMetricFamily("codeq_dlq_depth", "Tasks in dead-letter queues.", labels=labels)
    oldest = GaugeMetricFamily("codeq_queue_oldest_age_seconds", "Age of the oldest task that is ready.", labels=labels)
    for values, each in series:
        for status, index in _STATUSES.items():
            ended.add_metric((*values, status), each.counts[index])
        depths = {"ready": each.ready, "delayed": each.delayed, "in_progress": each.in_progress, "dlq": each.dlq}
        for queue, count in depths.items():
            depth.add_metric((*values, queue), count)
        dlq.add_metric(values, each.dlq)
        oldest.add_metric(values, each.oldest_ms / 1000)
    yield from (ended, depth, dlq, oldest)
    yield from _times(series)
    yield GaugeMetricFamily("codeq_commands_folded", "Commands that share the label _other.", value=series.folded)


def _times(series: CommandSeries) -> Iterator[Metric]:
    waits = HistogramMetricFamily(
        "codeq_task_wait_seconds",
        "Time from a task's acceptance to its first delivery, without delayed tasks.",
        labels=series.labels,
    )
    latencies = HistogramMetricFamily(
        "codeq_task_processing_latency_seconds",
        "Time from a task's acceptance to its completion.",
        labels=(*series.labels, "status"),
    )
    for values, each in series:
        add_durations(waits, values, each.times.waits, OF_TASKS)
        add_durations(latencies, (*values, "COMPLETED"), each.times.latencies, OF_TASKS)
    yield from (waits, latencies)
