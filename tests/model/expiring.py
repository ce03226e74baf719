"""Tasks that wait too long, in the core beside the reference model.

Whether a task that runs when its time comes still runs when the timers get to it, or has just lost its lease, is left
to the core; all else follows from the model.
"""

from __future__ import annotations

from dataclasses import dataclass

from codeq_server.core import keys
from codeq_server.core.clock import Now
from codeq_server.core.outcomes import Status
from codeq_server.core.shard import Shard
from homes import Home, Homes
from reference import Model, Task

ENDED = frozenset({"COMPLETED", "FAILED", "DLQ", "CANCELLED"})


@dataclass
class ExpiringTask(Task):
    expire: int = 0
    """When it ends if it waits then; 0: never, or no more."""


def expiring(model: Model) -> list[ExpiringTask]:
    """Returns tasks that can expire, ended ones among them: they might be redriven."""
    return [task for task in model.tasks.values() if isinstance(task, ExpiringTask) and task.expire]


class Expiries(Homes):
    """A part of the machine that drives core and model."""

    def expire(self, now: Now, *, more: bool) -> None:
        """Carries out in the model what a call of the timers did to tasks whose time has come."""
        for task in expiring(self.model):
            home = self.homes[task.tenant, task.task_id]
            if task.expire > now.wall_ms:
                continue
            if _in_index(self.shard, home, task):
                assert more, f"{task.task_id} is past its time"
            elif not _has_expired(self.shard, home):
                assert task.lease or task.status in ENDED, f"{task.task_id} waited and was let go"
                task.expire = 0
            elif task.status not in ENDED:
                if task.lease:
                    assert task.lease.until <= now.mono_ms, f"{task.task_id} ran and expired"
                    self.model.move([task], now.wall_ms)
                assert task.status in {"PENDING", "SCHEDULED"}
                task.status, task.due, task.error, task.expire, task.kept_until = "FAILED", 0, "EXPIRED", 0, 0


def _in_index(shard: Shard, home: Home, task: ExpiringTask) -> bool:
    """Tells whether the core has not yet looked at a task that expires."""
    queue, lane, position = home
    return shard.get(keys.time_key(keys.EXPIRY, queue, task.expire, lane, position)) is not None


def _has_expired(shard: Shard, home: Home) -> bool:
    """Tells whether the core ended a task because it waited too long."""
    number, lane, position = home
    queue = shard.queues.get(number)
    state = shard.state(queue.lane(lane), position) if queue is not None else None
    return state is not None and (state.status, state.error) == (Status.FAILED, "EXPIRED")
