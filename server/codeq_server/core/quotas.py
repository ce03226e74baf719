"""Quotas on what a tenant stores and uses, checked before a decision; exact, because decisions run one at a time.

What is there already when a limit is lowered stays. Tasks that the server puts back are never refused: returned,
matured and redriven ones.
"""

from __future__ import annotations

from .shard import Shard
from .tenants import LEASES, STORED_BYTES, WAITING_TASKS


def check_create(shard: Shard, tenant: str, tasks: int, size: int) -> None:
    """Checks that a tenant may create this many tasks.

    Args:
        shard: The shard.
        tenant: The tenant.
        tasks: Number of tasks.
        size: Bytes that they store.

    Raises:
        Rejection: QUOTA_EXCEEDED.
    """
    limits = shard.tenants.limits_of(tenant)
    if not limits.waiting_tasks_max and not limits.stored_bytes_max:
        return
    used = shard.used_by(tenant)
    most = limits.waiting_tasks_max
    if most and used.waiting + tasks > most:
        text = f"the tenant's quota of waiting tasks is {most} ({WAITING_TASKS}): with {used.waiting} waiting"
        raise shard.tenants.refuse(tenant, WAITING_TASKS, most, f"{text} there is no room for {tasks} more")
    most = limits.stored_bytes_max
    if most and used.stored_bytes + size > most:
        text = f"the tenant's quota of stored bytes is {most} ({STORED_BYTES}): with {used.stored_bytes} stored"
        raise shard.tenants.refuse(tenant, STORED_BYTES, most, f"{text} there is no room for {size} more")


def may_refuse(shard: Shard, tenant: str, tasks: int, size: int) -> bool:
    """Returns whether a quota may refuse some of these tasks, at most `size` bytes; if not, none needs `check_create`.

    Args:
        shard: The shard.
        tenant: The tenant.
        tasks: Number of tasks.
        size: Maximum number of bytes that they store.
    """
    limits = shard.tenants.limits_of(tenant)
    if not limits.waiting_tasks_max and not limits.stored_bytes_max:
        return False
    used = shard.used_by(tenant)
    return (0 < limits.waiting_tasks_max < used.waiting + tasks) or (
        0 < limits.stored_bytes_max < used.stored_bytes + size
    )


def lease_room(shard: Shard, tenant: str, wanted: int) -> int:
    """Returns how many of the wanted tasks a tenant may lease now; a tenant that gets none is starved from now on."""
    most = shard.tenants.limits_of(tenant).leases_max
    if not most:
        return wanted
    room = min(wanted, max(0, most - shard.used_by(tenant).leases))
    if not room:
        shard.starved.add(tenant)
    return room


def check_claim(shard: Shard, tenant: str) -> None:
    """Checks that a tenant may lease a task.

    Raises:
        Rejection: QUOTA_EXCEEDED.
    """
    if not lease_room(shard, tenant, 1):
        most = shard.tenants.limits_of(tenant).leases_max
        text = f"the tenant's quota of leases is {most} ({LEASES}), all in use; try again when a lease has ended"
        raise shard.tenants.refuse(tenant, LEASES, most, text)
