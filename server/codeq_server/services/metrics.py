"""Prometheus metrics, read from the shard's own counters when they are asked for: counting costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from codeq_server.engine.space import SpaceWatch

from .serving import Serving

QUEUES_MAX: Final = 1000
"""Queues that have series of their own: the first by number; names come from clients, so they are bounded."""

_TOTALS: Final = {
    "created": ("codeq_tasks_created", "Tasks accepted"),
    "claimed": ("codeq_tasks_claimed", "Deliveries to workers"),
    "completed": ("codeq_tasks_completed", "Tasks that ended as COMPLETED"),
    "failed": ("codeq_tasks_failed", "Tasks that ended as FAILED"),
    "nacked": ("codeq_tasks_nacked", "Deliveries that ended in a nack"),
    "abandoned": ("codeq_tasks_abandoned", "Deliveries given back by workers"),
    "dead": ("codeq_tasks_dead_lettered", "Tasks that went to the dead-letter queue"),
    "expired": ("codeq_leases_expired", "Leases that ran out"),
    "outdated": ("codeq_tasks_expired", "Tasks that ended because they waited too long"),
    "matured": ("codeq_tasks_matured", "Scheduled tasks that fell due"),
    "cancelled": ("codeq_tasks_cancelled", "Tasks cancelled"),
    "removed": ("codeq_tasks_removed", "Ended tasks removed after their retention"),
    "redriven": ("codeq_tasks_redriven", "Ended tasks that were given another life"),
    "rows": ("codeq_rows_written", "Rows put or deleted in the store"),
}


class ShardCollector(Collector):
    """Tells the metrics of whatever serves the shard at the moment, and of the store.

    Args:
        serving: Returns what serves the shard; None: nothing does here, and there is nothing to tell of it. Counters
            begin at 0 with each that does.
        space: Watches the space of the store.
    """

    def __init__(self, serving: Callable[[], Serving | None], space: SpaceWatch) -> None:
        self._serving = serving
        self._space = space

    def collect(self) -> Iterator[Metric]:
        """Yields every family."""
        serving = self._serving()
        if serving is not None:
            yield from _families(serving)
        yield GaugeMetricFamily(
            "codeq_storage_free_bytes", "Free space of the store's disk.", value=self._space.free_bytes
        )
        yield GaugeMetricFamily(
            "codeq_storage_full",
            "1 while new tasks are refused because the disk is nearly full.",
            value=self._space.full,
        )


def _families(serving: Serving) -> Iterator[Metric]:
    runner = serving.runner
    shard = runner.shard
    for name, (metric, text) in _TOTALS.items():
        yield CounterMetricFamily(metric, text + " since the start.", value=getattr(shard.totals, name))
    commits = runner.commits
    yield CounterMetricFamily("codeq_commits", "Batches made durable since the start.", value=commits.count)
    yield CounterMetricFamily(
        "codeq_commit_seconds", "Time spent making batches durable since the start.", value=commits.seconds
    )
    yield GaugeMetricFamily("codeq_streams_open", "Open producer and worker streams.", value=len(serving.streams))
    yield GaugeMetricFamily("codeq_workers_waiting", "Claims and streams waiting.", value=len(runner.waiting))
    yield GaugeMetricFamily(
        "codeq_admission_waiting",
        "Calls, frames and pushes that wait for their tenant's turn.",
        value=len(runner.admission),
    )
    yield GaugeMetricFamily("codeq_ends_watched", "Tasks whose end somebody waits for.", value=len(shard.watched))
    yield GaugeMetricFamily("codeq_window_bytes", "Memory of loaded queue heads.", value=shard.windows_bytes)
    depth = GaugeMetricFamily("codeq_queue_tasks", "Tasks in a queue.", labels=("tenant", "command", "state"))
    for number, queue in enumerate(shard.queues.values()):
        if number >= QUEUES_MAX:
            break
        for state in ("ready", "scheduled", "claimed", "dlq"):
            depth.add_metric((queue.tenant, queue.command, state), getattr(queue, state))
    yield depth
