"""What tenants use and have used, and their rows: limits of their own, and the totals of their removed queues."""

from __future__ import annotations

from heapq import nsmallest
from typing import NamedTuple

from codeq_internal.v1 import rows_pb2

from . import keys, tenant_keys
from .limits import NO_LIMITS, Overrides, Rate
from .model import Queue
from .parsing import parsed
from .shard import Shard
from .tenants import DEFAULT

PAGE_QUEUES_MAX = 10_000
"""Queues of the tenants of a page after which it ends."""


class Usage(NamedTuple):
    """What a tenant uses now, and has used so far; the fields are those of codeq.v1.TenantUsage."""

    waiting_tasks: int
    leases: int
    stored_bytes: int
    queues: int
    created_total: int
    delivered_total: int
    completed_total: int
    failed_total: int
    accepted_bytes_total: int
    rate_limited_total: int
    quota_refused_total: int


def tenant_row(shard: Shard, name: str) -> rows_pb2.TenantRow:
    """Returns the row of a tenant, or of the stored defaults; empty if there is none."""
    key = tenant_keys.tenant_key(name)
    value = shard.get(key)
    return rows_pb2.TenantRow() if value is None else parsed(rows_pb2.TenantRow, key, value)


def overrides_of(row: rows_pb2.LimitsRow) -> Overrides:
    """Returns the limits of a row."""
    found: list[Rate | int | None] = []
    for name in NO_LIMITS._fields:
        value: object = getattr(row, name) if row.HasField(name) else None
        if isinstance(value, rows_pb2.RateRow):
            value = Rate(value.requests_per_minute, value.burst_size)
        assert value is None or isinstance(value, Rate | int)
        found.append(value)
    return tuple(found)


def set_limits(shard: Shard, name: str, limits: rows_pb2.LimitsRow) -> None:
    """Sets the limits of a tenant's own, or those of all tenants without.

    Args:
        shard: The shard.
        name: Name of the tenant, or DEFAULT.
        limits: The limits.

    Raises:
        Rejection: LIMIT_REACHED.
    """
    row = tenant_row(shard, name)
    if limits.ByteSize():
        shard.tenants.check_room(name)
        row.limits.CopyFrom(limits)
    else:
        row.ClearField("limits")
    shard.batch.rows[tenant_keys.tenant_key(name)] = row.SerializeToString() or None
    shard.tenants.put(name, overrides_of(limits))
    for tenant in list(shard.starved):
        shard.feed(tenant)


def adopt(shard: Shard, key: bytes, value: bytes) -> None:
    """Takes over the limits in a stored row."""
    row = parsed(rows_pb2.TenantRow, key, value)
    if row.HasField("limits"):
        shard.tenants.put(tenant_keys.tenant_of(key), overrides_of(row.limits))


def fold(shard: Shard, queue: Queue) -> None:
    """Adds the totals of a queue that is being removed to its tenant's row."""
    if not queue.created_total:
        return
    row = tenant_row(shard, queue.tenant)
    row.created_total += queue.created_total
    row.delivered_total += queue.delivered_total
    row.completed_total += queue.completed_total
    row.failed_total += queue.failed_total
    row.accepted_bytes_total += queue.accepted_bytes
    shard.batch.rows[tenant_keys.tenant_key(queue.tenant)] = row.SerializeToString()


def forgive(shard: Shard, queue: Queue) -> None:
    """Takes a FAILED task that is being redriven out of its queue's total, and leaves it in its tenant's."""
    queue.failed_total -= 1
    queue.meter.forgiven += 1
    row = tenant_row(shard, queue.tenant)
    row.failed_total += 1
    shard.batch.rows[tenant_keys.tenant_key(queue.tenant)] = row.SerializeToString()


def usage_of(shard: Shard, tenant: str) -> Usage:
    """Returns what a tenant uses, and has used so far."""
    used, row, refused = shard.used_by(tenant), tenant_row(shard, tenant), shard.tenants.refused(tenant)
    created, delivered, completed = row.created_total, row.delivered_total, row.completed_total
    failed, accepted = row.failed_total, row.accepted_bytes_total
    for number in used.numbers:
        queue = shard.queues[number]
        created += queue.created_total
        delivered += queue.delivered_total
        completed += queue.completed_total
        failed += queue.failed_total
        accepted += queue.accepted_bytes
    return Usage(
        waiting_tasks=used.waiting,
        leases=used.leases,
        stored_bytes=used.stored_bytes,
        queues=len(used.numbers),
        created_total=created,
        delivered_total=delivered,
        completed_total=completed,
        failed_total=failed,
        accepted_bytes_total=accepted,
        rate_limited_total=refused.by_rate,
        quota_refused_total=refused.by_quota,
    )


def list_tenants(shard: Shard, after: str, count: int) -> tuple[list[str], str]:
    """Returns up to `count` tenants with queues or a row, in the order of names, and the name after which to go on.

    Args:
        shard: The shard.
        after: The first tenant is the next one after this name.
        count: Maximum number of tenants; the page also ends with the tenant that completes PAGE_QUEUES_MAX queues.

    Returns:
        The tenants, and the name after which the next page begins; empty: there are no more.
    """
    tenants = shard.directory.tenants
    names = set(nsmallest(count + 1, [name for name in tenants if name > after]))
    start, end = tenant_keys.tenant_key(after) + b"\0", keys.table_rows(keys.TENANTS)[1]
    stored = [tenant_keys.tenant_of(key) for key, _ in shard.stored.scan(start, end, count + 2)]
    names.update(stored)
    for batch in (*shard.in_flight, shard.batch):
        names.update([tenant_keys.tenant_of(key) for key in batch.rows if start <= key < end])
    last = stored[-1] if len(stored) == count + 2 else ""
    found: list[str] = []
    queues = 0
    for name in sorted(names):
        if last and name > last:  # further rows may come before it
            return found, last
        there = tenants.get(name)
        if there is None and (name == DEFAULT or shard.get(tenant_keys.tenant_key(name)) is None):
            continue
        if len(found) == count or queues >= PAGE_QUEUES_MAX:
            return found, found[-1]
        found.append(name)
        queues += len(there.numbers) if there is not None else 0
    return found, last
