"""Events that operators may ask about later: leases that expired, and tasks that went to the dead-letter queue.

A batch collects them, and the shard's runner logs them once the batch is durable.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from .deliveries import Delivery
    from .model import TaskKey

LEASE_EXPIRED: Final = "lease_expired"
DEAD_LETTERED: Final = "task_dead_lettered"

LISTED_MAX: Final = 100
"""Maximum number of events that a batch lists; further events are only counted."""

_CAUSES: Final = {0: "LEASE_EXPIRED", 3: "NACK", 4: "ABANDON"}
"""Causes of dead letters, by the outcome of the last delivery."""


class Notable(NamedTuple):
    """One event.

    Attributes:
        event: LEASE_EXPIRED or DEAD_LETTERED.
        tenant: Tenant of the task.
        command: Command of the task.
        task_id: Id of the task.
        worker: Worker whose delivery ended.
        attempts: Deliveries so far, including that one.
        cause: How that delivery ended.
    """

    event: str
    tenant: str
    command: str
    task_id: str
    worker: str
    attempts: int
    cause: str


class Notables:
    """Events of a batch.

    Attributes:
        listed: The first events.
        more: Number of further events, by name; None: no further events.
    """

    __slots__ = ("listed", "more")

    def __init__(self) -> None:
        self.listed: list[Notable] = []
        self.more: Counter[str] | None = None

    def note(self, event: str, delivery: Delivery, task_id: TaskKey, outcome: int) -> None:
        """Notes an event caused by the end of a delivery; `outcome` is how it ended."""
        if len(self.listed) >= LISTED_MAX:
            self.more = self.more or Counter()
            self.more[event] += 1
            return
        queue, named = delivery.home.queue, task_id if isinstance(task_id, str) else task_id.task_id
        worker, attempts = delivery.claim.worker, delivery.attempts + 1
        self.listed.append(Notable(event, queue.tenant, queue.command, named, worker, attempts, _CAUSES[outcome]))
