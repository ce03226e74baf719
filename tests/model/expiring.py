"""Expiry of tasks in the core and in the reference model.

A task may be running at its expiry time. Whether it is still running when the timers reach it, or has just lost its
lease, is up to the core. Everything else follows from the model.
"""

from __future__ import annotations

from dataclasses import dataclass

from codeq_server.core import keys
from codeq_server.core.clock import Now
from codeq_server.core.shard import Shard
from codeq_server.core.status import Status
from homes import Home, Homes
from reference import Model, Task

ENDED = frozenset({"COMPLETED", "FAILED", "DLQ", "CANCELLED"})


@dataclass
class ExpiringTask(Task):
    expire: int = 0
    """Time at which the task expires if it is waiting; 0: never."""


def expiring(model: Model) -> list[ExpiringTask]:
    """Returns tasks that can expire, including ended ones, which might be redriven."""
    return [task for task in model.tasks.values() if isinstance(task, ExpiringTask) and task.expire]


class Expiries(Homes):
    """Part of the state machine that drives core and model: expiry."""

    def expire(self, now: Now, *, more: bool) -> None:
        """Applies to the model the effects of a timer call on tasks past their expiry time."""
        for task in expiring(self.model):
            home = self.homes[task.tenant, task.task_id]
            if task.expire > now.wall_ms:
                continue
            if _in_index(self.shard, home, task):
                assert more, f"{task.task_id} is past its time"
            elif not _has_expired(self.shard, home):
                assert task.lease or task.status in ENDED, f"{task.task_id} waited past its time"
                task.expire = 0
            elif task.status not in ENDED:
                if task.lease:
                    assert task.lease.until <= now.mono_ms, f"{task.task_id} expired while running"
                    self.model.move([task], now.wall_ms)
                assert task.status in {"PENDING", "SCHEDULED"}
                task.status, task.due, task.error, task.expire, task.kept_until = "FAILED", 0, "EXPIRED", 0, 0


def _in_index(shard: Shard, home: Home, task: ExpiringTask) -> bool:
    """Returns whether the core has not yet processed the expiry of a task."""
    queue, lane, position = home
    return shard.get(keys.time_key(keys.EXPIRY, queue, task.expire, lane, position)) is not None


def _has_expired(shard: Shard, home: Home) -> bool:
    """Returns whether the core has expired a task."""
    number, lane, position = home
    queue = shard.queues.get(number)
    state = shard.state(queue.lane(lane), position) if queue is not None else None
    return state is not None and (state.status, state.error) == (Status.FAILED, "EXPIRED")
