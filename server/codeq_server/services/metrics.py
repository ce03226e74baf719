"""Prometheus metrics, read from the shard's own counters at scrape time, so counting adds no cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from codeq_server.engine.space import SpaceWatch
from codeq_server.webhooks.signals import KIND

from .command_metrics import command_families
from .command_series import SERIES_MAX, TENANT_SERIES_MAX, CommandSeries
from .former_metrics import former_families
from .histograms import OF_DISKS, histogram
from .serving import Serving

_TOTALS: Final = {
    "nacked": ("codeq_tasks_nacked", "Deliveries that ended in a nack"),
    "abandoned": ("codeq_tasks_abandoned", "Deliveries abandoned by workers"),
    "outdated": ("codeq_tasks_expired", "Tasks that ended because they waited too long"),
    "matured": ("codeq_tasks_matured", "Scheduled tasks that became due"),
    "removed": ("codeq_tasks_removed", "Ended tasks removed after their retention"),
    "redriven": ("codeq_tasks_redriven", "Ended tasks that were redriven"),
    "fired": ("codeq_schedule_fires", "Tasks created by schedules, also by triggers and backfills"),
    "overlapped": ("codeq_schedule_skipped", "Instants left out because a task of the schedule had not ended"),
    "missed": ("codeq_schedule_missed", "Missed instants that were left out"),
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
        by_tenant: Whether metrics of commands have the label `tenant`.
    """

    def __init__(self, serving: Callable[[], Serving | None], space: SpaceWatch, *, by_tenant: bool = False) -> None:
        self._serving = serving
        self._space = space
        self._by_tenant = by_tenant
        self._commands: CommandSeries | None = None
        self._commands_of: Serving | None = None

    async def refresh(self) -> None:
        """Reads the queues, without holding up other work."""
        serving = self._serving()
        if serving is not None:
            await self._series(serving).refresh()

    def _series(self, serving: Serving) -> CommandSeries:
        """Returns the series of the commands, which start at 0 with each Serving."""
        series = self._commands
        if series is None or self._commands_of is not serving:
            series = self._commands = CommandSeries(
                serving.runner,
                by_tenant=self._by_tenant,
                series_max=TENANT_SERIES_MAX if self._by_tenant else SERIES_MAX,
            )
            self._commands_of = serving
        return series

    def collect(self) -> Iterator[Metric]:
        """Yields every metric family."""
        serving = self._serving()
        if serving is not None:
            yield from command_families(self._series(serving))
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
    refusals = CounterMetricFamily(
        "codeq_policy_refusals", "New tasks refused by the policy of their command since startup.", labels=("field",)
    )
    for field, count in shard.policies.refusals.items():
        refusals.add_metric((field,), count)
    yield refusals
    yield GaugeMetricFamily("codeq_topics", "Policies of commands.", value=sum(shard.policies.counts.values()))
    yield histogram(
        "codeq_commit_seconds", "Time from the sealing of a batch until it was durable.", runner.commits, OF_DISKS
    )
    yield CounterMetricFamily(
        "codeq_schedule_late_seconds",
        "Time from the instants of schedules to their fires since startup.",
        value=shard.totals.late_ms / 1000,
    )
    yield GaugeMetricFamily("codeq_schedules", "Schedules.", value=shard.schedules.count)
    yield GaugeMetricFamily("codeq_streams_open", "Open producer and worker streams.", value=len(serving.streams))
    yield GaugeMetricFamily(
        "codeq_stream_credits",
        "Tasks that the streams of workers accept at the moment.",
        value=serving.streams.workers.credits(),
    )
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
    yield from former_families(serving)


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
    yield CounterMetricFamily(
        "codeq_webhook_hosts_disabled",
        "Hosts of tenants' URLs paused since startup because every callback failed for webhookDisableAfterSeconds.",
        value=courier.disabled,
    )
    yield GaugeMetricFamily(
        "codeq_webhook_circuits_open",
        "Hosts of tenants' URLs that are left alone because they keep failing.",
        value=courier.open_circuits,
    )
