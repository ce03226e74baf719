"""Former names of metrics, which are exported beside the present names until the next minor version.

The next minor version removes this module and its few uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from .serving import Serving

FORMER_NAMES: Final = {
    "codeq_tasks_created_total": "codeq_task_created_total",
    "codeq_tasks_claimed_total": "codeq_task_claimed_total",
    "codeq_tasks_completed_total": "codeq_task_completed_total",
    "codeq_tasks_failed_total": "codeq_task_completed_total",
    "codeq_tasks_cancelled_total": "codeq_task_completed_total",
    "codeq_tasks_dead_lettered_total": "codeq_task_completed_total",
    "codeq_leases_expired_total": "codeq_lease_expired_total",
    "codeq_queue_tasks": "codeq_queue_depth",
    "codeq_commits_total": "codeq_commit_seconds_count",
    "codeq_raft_syncs_total": "codeq_sync_seconds_count",
    "codeq_raft_sync_seconds_total": "codeq_sync_seconds_sum",
}
"""Former names, each with the one that replaces it."""

QUEUES_MAX: Final = 1000
"""Maximum number of queues in codeq_queue_tasks, lowest numbers first; limited because clients choose the names."""

_TOTALS: Final = {
    "codeq_tasks_created_total": "created",
    "codeq_tasks_claimed_total": "claimed",
    "codeq_tasks_completed_total": "completed",
    "codeq_tasks_failed_total": "failed",
    "codeq_tasks_cancelled_total": "cancelled",
    "codeq_tasks_dead_lettered_total": "dead",
    "codeq_leases_expired_total": "expired",
}
"""Counters of the shard under former names."""


def former_counter(name: str, value: float) -> CounterMetricFamily:
    """Returns a counter under its former name."""
    return CounterMetricFamily(name, _text(name), value=value)


def former_families(serving: Serving) -> Iterator[Metric]:
    """Yields the families of a shard under former names."""
    runner = serving.runner
    for name, total in _TOTALS.items():
        yield former_counter(name, getattr(runner.shard.totals, total))
    yield former_counter("codeq_commits_total", runner.commits.count)
    name = "codeq_queue_tasks"
    depth = GaugeMetricFamily(name, _text(name), labels=("tenant", "command", "state"))
    for number, queue in enumerate(runner.shard.queues.values()):
        if number >= QUEUES_MAX:
            break
        for state in ("ready", "scheduled", "claimed", "dlq"):
            depth.add_metric((queue.tenant, queue.command, state), getattr(queue, state))
    yield depth


def _text(name: str) -> str:
    return f"Former name of {FORMER_NAMES[name]}."
