"""Limits of a tenant: rates of calls, and quotas on what it stores and uses."""

from __future__ import annotations

from typing import Final, NamedTuple


class Rate(NamedTuple):
    """A token bucket; it limits nothing unless both numbers are positive.

    Attributes:
        per_minute: Cost that flows back per minute.
        burst: Cost that the bucket holds.
    """

    per_minute: int = 0
    burst: int = 0

    @property
    def limits(self) -> bool:
        """Whether the rate limits anything."""
        return self.per_minute > 0 and self.burst > 0


UNLIMITED: Final = Rate()


class Limits(NamedTuple):
    """The limits in force for a tenant; the fields are those of codeq.v1.TenantLimits. 0: not limited.

    Attributes:
        producer: Creates and cancels of all producers of the tenant together.
        worker: Claims of all its workers together.
        admin: Administrative calls of all its administrators and viewers together.
        producer_token: As `producer`, for each token.
        worker_token: As `worker`, for each token.
        admin_token: As `admin`, for each token.
        waiting_tasks_max: Tasks that wait.
        stored_bytes_max: Bytes of payloads and results that are stored.
        leases_max: Tasks that are leased.
        queues_max: Queues.
        streams_max: Open streams.
        new_queues_per_minute: Queues that may be created per minute.
    """

    producer: Rate = UNLIMITED
    worker: Rate = UNLIMITED
    admin: Rate = UNLIMITED
    producer_token: Rate = UNLIMITED
    worker_token: Rate = UNLIMITED
    admin_token: Rate = UNLIMITED
    waiting_tasks_max: int = 0
    stored_bytes_max: int = 0
    leases_max: int = 0
    queues_max: int = 0
    streams_max: int = 0
    new_queues_per_minute: int = 0


NO_LIMITS: Final = Limits()

Overrides = tuple[Rate | int | None, ...]
"""Limits of a tenant's own, in the order of the fields of `Limits`; None: inherited."""

INHERITED: Final[Overrides] = (None,) * len(NO_LIMITS)


def in_force(own: Overrides, inherited: Limits) -> Limits:
    """Returns the limits in force: a tenant's own where it has them, and the inherited ones otherwise."""
    return Limits._make([base if mine is None else mine for mine, base in zip(own, inherited, strict=True)])


def share_of(limits: Limits, shards: int) -> Limits:
    """Returns what each of several shards enforces of the limits of a tenant.

    What flows back to a bucket, and quotas on tasks, leases and streams, are divided evenly and rounded up, so all
    shards together allow up to one more per shard. A bucket holds as much as it would in a single shard, since a batch
    is charged as a whole. Every shard may have each queue.

    Args:
        limits: The limits of the tenant.
        shards: Number of shards.
    """
    if shards == 1:
        return limits
    return limits._replace(
        producer=_rate(limits.producer, shards),
        worker=_rate(limits.worker, shards),
        admin=_rate(limits.admin, shards),
        producer_token=_rate(limits.producer_token, shards),
        worker_token=_rate(limits.worker_token, shards),
        admin_token=_rate(limits.admin_token, shards),
        waiting_tasks_max=_part(limits.waiting_tasks_max, shards),
        stored_bytes_max=_part(limits.stored_bytes_max, shards),
        leases_max=_part(limits.leases_max, shards),
        streams_max=_part(limits.streams_max, shards),
    )


def _rate(whole: Rate, shards: int) -> Rate:
    return Rate(_part(whole.per_minute, shards), whole.burst)


def _part(whole: int, shards: int) -> int:
    return -(-whole // shards)
