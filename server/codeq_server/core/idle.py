"""Removes unused queues from memory and the store, some time after their last task was removed.

A queue's number is never reused, so a reference to an old task never matches a new task.
"""

from __future__ import annotations

from .alarms import NEVER
from .clock import Now
from .model import Queue
from .shard import Shard
from .usage import fold

SLICE = 256
"""Queues examined per call."""


def retire(shard: Shard, now: Now) -> bool:
    """Drops queues that have been unused for long enough; returns whether more queues may be due."""
    idle = shard.directory.idle
    if idle.first_ms > now.mono_ms:
        return False
    for _ in range(SLICE):
        queue = next(iter(idle.since), None)
        idle.first_ms = NEVER if queue is None else idle.since[queue] + shard.settings.queue_idle_ms
        if queue is None or idle.first_ms > now.mono_ms:
            return False
        del idle.since[queue]
        if queue.unused:
            _drop(shard, queue)
    return True


def _drop(shard: Shard, queue: Queue) -> None:
    """Forgets a queue and deletes its row; its totals go to its tenant's row."""
    fold(shard, queue)
    directory, tenant = shard.directory, queue.tenant
    del shard.queues[queue.number], shard.by_name[tenant, queue.command]
    directory.tenants[tenant].remove(queue)
    if not directory.tenants[tenant].numbers:
        del directory.tenants[tenant], shard.ready[tenant]
        shard.starved.discard(tenant)
    if shard.effects is not None:
        shard.effects.woken.pop(queue, None)
    shard.policies.detach(queue)
    shard.due.forget(queue)
    shard.expiry.forget(queue)
    shard.retries.forget(queue)
    if queue.outbox is not None:
        shard.outboxes.drop(queue.outbox)
    if queue.ring is not None:
        shard.gates_due.drop(queue.ring)
    if queue.touched:
        shard.batch.touched.remove(queue)
    shard.batch.counted.pop(queue, None)
    shard.batch.rows[queue.key] = None
