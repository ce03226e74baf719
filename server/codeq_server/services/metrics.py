"""Prometheus metrics, read from the shard's own counters at scrape time, so counting adds no cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from codeq_server.engine.space import SpaceWatch
from codeq_server.webhooks.signals import KIND

from .serving import Serving

QUEUES_MAX: Final = 1000
"""Maximum number of queues with series of their own, lowest numbers first; limited because clients choose the names."""

_TOTALS: Final = {
    "created": ("codeq_tasks_created", "Tasks accepted"),
    "claimed": ("codeq_tasks_claimed", "Deliveries to workers"),
    "completed": ("codeq_tasks_completed", "Tasks that ended as COMPLETED"),
    "failed": ("codeq_tasks_failed", "Tasks that ended as FAILED"),
    "nacked": ("codeq_tasks_nacked", "Deliveries that ended in a nack"),
    "abandoned": ("codeq_tasks_abandoned", "Deliveries abandoned by workers"),
    "dead": ("codeq_tasks_dead_lettered", "Tasks that went to the dead-letter queue"),
    "expired": ("codeq_leases_expired", "Leases that expired"),
    "outdated": ("codeq_tasks_expired", "Tasks that ended because they waited too long"),
    "matured": ("codeq_tasks_matured", "Scheduled tasks that became due"),
    "cancelled": ("codeq_tasks_cancelled", "Tasks cancelled"),
    "removed": ("codeq_tasks_removed", "Ended tasks removed after their retention"),
    "redriven": ("codeq_tasks_redriven", "Ended tasks that were redriven"),
    "rows": ("codeq_rows_written", "Rows put or deleted in the store"),
}

_OUTCOMES: Final = {"delivered": "success", "gave_up": "failure", "retried": "retry", "put_off": "put_off"}
"""Outcomes of callbacks, with their labels."""


class ShardCollector(Collector):
    """Exports the metrics of the current `Serving` of the shard, and of the store.

    Args:
        serving: Returns the current `Serving`; None: this node does not serve the shard, so its metrics are absent.
            Counters start at 0 with each new `Serving`.
        space: Watches the store's disk space.
    """

    def __init__(self, serving: Callable[[], Serving | None], space: SpaceWatch) -> None:
        self._serving = serving
        self._space = space

    def collect(self) -> Iterator[Metric]:
        """Yields every metric family."""
        serving = self._serving()
        if serving is not None:
            yield from _families(serving)
        yield GaugeMetricFamily(
            "codeq_storage_free_bytes", "Free space of the store's disk.", value=self._space.free_bytes
        )
        yield GaugeMetricFamily(
            "codeq_storage_full",
            "1 while new tasks are rejected because the disk is nearly full.",
            value=self._space.full,
        )


def _families(serving: Serving) -> Iterator[Metric]:
    runner = serving.runner
    shard = runner.shard
    for name, (metric, text) in _TOTALS.items():
        yield CounterMetricFamily(metric, text + " since startup.", value=getattr(shard.totals, name))
    quotas = CounterMetricFamily(
        "codeq_quota_refusals", "Calls, items and streams refused by a quota since startup.", labels=("quota",)
    )
    for quota, count in shard.tenants.quota_refusals.items():
        quotas.add_metric((quota,), count)
    yield quotas
    commits = runner.commits
    yield CounterMetricFamily("codeq_commits", "Batches made durable since startup.", value=commits.count)
    yield CounterMetricFamily(
        "codeq_commit_seconds", "Time spent making batches durable since startup.", value=commits.seconds
    )
    yield GaugeMetricFamily("codeq_streams_open", "Open producer and worker streams.", value=len(serving.streams))
    yield GaugeMetricFamily("codeq_workers_waiting", "Claims and streams waiting.", value=len(runner.waiting))
    yield GaugeMetricFamily(
        "codeq_admission_waiting",
        "Calls, frames and pushes waiting for their tenant's turn.",
        value=len(runner.admission),
    )
    yield GaugeMetricFamily("codeq_ends_watched", "Tasks whose end a call is waiting for.", value=len(shard.watched))
    yield GaugeMetricFamily("codeq_window_bytes", "Memory of loaded queue heads.", value=shard.windows_bytes)
    hits = CounterMetricFamily(
        "codeq_rate_limit_hits",
        "Calls refused by rate limits, and waits of streams for them, since startup.",
        labels=("scope", "operation"),
    )
    for limited, count in serving.rates.hits.items():
        hits.add_metric((limited.scope, limited.operation), count)
    yield hits
    yield from _webhooks(serving)
    depth = GaugeMetricFamily("codeq_queue_tasks", "Tasks in a queue.", labels=("tenant", "command", "state"))
    for number, queue in enumerate(shard.queues.values()):
        if number >= QUEUES_MAX:
            break
        for state in ("ready", "scheduled", "claimed", "dlq"):
            depth.add_metric((queue.tenant, queue.command, state), getattr(queue, state))
    yield depth


def _webhooks(serving: Serving) -> Iterator[Metric]:
    """Yields the families of requests to URLs of tenants."""
    yield GaugeMetricFamily(
        "codeq_subscriptions_active", "Subscriptions to signals.", value=serving.runner.shard.subscriptions.count
    )
    outboxes = [queue.outbox for queue in serving.runner.shard.queues.values() if queue.outbox is not None]
    yield GaugeMetricFamily(
        "codeq_callbacks_pending", "Callbacks to deliver.", value=sum(outbox.pending for outbox in outboxes)
    )
    yield GaugeMetricFamily(
        "codeq_callbacks_given_up",
        "Callbacks that will not be delivered unless they are retried.",
        value=sum(outbox.gave_up for outbox in outboxes),
    )
    courier, signals = serving.courier, serving.signals
    if courier is None or signals is None:
        return
    deliveries = CounterMetricFamily(
        "codeq_webhook_deliveries", "Requests to URLs of tenants since startup.", labels=("kind", "outcome")
    )
    for name, count in signals.outcomes.items():
        deliveries.add_metric((KIND, name), count)
    for outcome, name in _OUTCOMES.items():
        deliveries.add_metric(("task_result", name), courier.outcomes[outcome])
    yield deliveries
    yield GaugeMetricFamily(
        "codeq_webhook_circuits_open",
        "Hosts of tenants' URLs that are left alone because they keep failing.",
        value=courier.open_circuits,
    )
