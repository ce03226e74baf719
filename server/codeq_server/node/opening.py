"""Checks a store's rows, opens the shard, and creates the shard's Serving."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from codeq_server.config import Settings
from codeq_server.core.backoff import BackoffPolicy
from codeq_server.core.ids import Route
from codeq_server.core.limits import Limits
from codeq_server.core.parsing import RowReader
from codeq_server.core.recovery import open_shard
from codeq_server.core.shard import Shard, ShardSettings
from codeq_server.engine.runner import Clock, ShardRunner, system_clock
from codeq_server.log.task_events import TaskEvents
from codeq_server.replication.log import Log
from codeq_server.services.artifacts import Keeper
from codeq_server.services.serving import Serving
from codeq_server.storage.check import check_open
from codeq_server.storage.errors import StoreDamaged
from codeq_server.webhooks.outgoing import Outgoing


def verify(rows: RowReader) -> None:
    """Checks every row.

    Raises:
        StoreDamaged: Rows contradict each other.
    """
    with _no_collection():
        differences, _ = check_open(rows)
    if differences:
        raise StoreDamaged(
            f"the store's rows contradict each other in at least {len(differences)} places; the first: "
            f"{differences[0]}. `codeq store check` lists them; restore a backup"
        )


def load_shard(
    settings: Settings, rows: RowReader, epoch: int, clock: Clock = system_clock, *, shard: int = 0
) -> Shard:
    """Loads the shard from the store; may run on any thread as long as no other one writes its rows.

    Args:
        settings: Settings of the server.
        rows: The rows of the store.
        epoch: Epoch of this opening, greater than all earlier ones.
        clock: Clock of the shard.
        shard: Index of the shard among those of the settings.

    Raises:
        CorruptRows: The rows contradict each other.
    """
    with _no_collection():
        return open_shard(rows, _shard_settings(settings, shard), epoch, *clock())


def make_serving(
    settings: Settings,
    shard: Shard,
    log: Log,
    keeper: Keeper | None,
    on_fatal: Callable[[BaseException], None],
    *,
    outgoing: Outgoing | None = None,
    keeps_time: bool = True,
    clock: Clock = system_clock,
) -> Serving:
    """Returns the Serving of a shard. Must be called within the event loop that serves it.

    Args:
        settings: Settings of the server.
        shard: The shard; from now on only the Serving writes its rows.
        log: Makes batches durable; the Serving closes it.
        keeper: Stores artifact contents; None: they are rejected.
        on_fatal: Called once when a commit has failed: nothing more is decided, and the process must end.
        outgoing: Makes requests to URLs of tenants; None: none are made, as for a shard that is only read.
        keeps_time: Whether timers run: expiring leases and due tasks are processed.
        clock: Clock of the shard, the same as in `load_shard`.
    """
    runner = ShardRunner(shard, log, clock, random.SystemRandom().random, on_fatal, keeps_time=keeps_time)
    runner.on_notable = TaskEvents().take
    runner.changed()  # starts the timers of existing leases and due times
    return Serving(
        runner,
        keeper,
        lease_seconds=settings.default_lease_seconds,
        artifact_bytes_max=settings.artifact_bytes_max,
        outgoing=outgoing,
    )


@contextmanager
def _no_collection() -> Iterator[None]:
    """Suspends garbage collection, which finds nothing but takes four fifths of the time to open many queues."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _shard_settings(settings: Settings, shard: int) -> ShardSettings:
    count = settings.num_shards
    return ShardSettings(
        route=None if count == 1 else Route(shard, count),
        max_attempts=settings.max_attempts_default,
        backoff_policy=BackoffPolicy(settings.backoff_policy),
        backoff_base_seconds=settings.backoff_base_seconds,
        backoff_max_seconds=settings.backoff_max_seconds,
        retention_ms=settings.retention_seconds * 1000,
        dlq_retention_ms=settings.dlq_retention_seconds * 1000,
        limits=_limits(settings),
        queue_idle_ms=settings.queue_idle_seconds * 1000,
        audit_retention_ms=settings.audit_retention_seconds * 1000,
    )


def _limits(settings: Settings) -> Limits:
    """Returns the limits of tenants for which nothing else is set."""
    quotas, rates = settings.quotas, settings.rate_limit
    return Limits(
        producer_token=rates.producer.rate,
        worker_token=rates.worker.rate,
        admin_token=rates.admin.rate,
        waiting_tasks_max=quotas.waiting_tasks_max,
        stored_bytes_max=quotas.stored_bytes_max,
        leases_max=quotas.leases_max,
        queues_max=settings.queues_per_tenant_max,
        streams_max=quotas.streams_max,
        new_queues_per_minute=quotas.new_queues_per_minute,
    )
