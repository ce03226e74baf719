"""Tasks whose traces are recorded, from their acceptance to their end; kept in memory only.

A shard without traces, and a task whose trace is not sampled, pay a comparison.
"""

from __future__ import annotations

from typing import Final

from .deliveries import Claim
from .model import TaskKey, id_of
from .status import Status

TRACED_MAX: Final = 10_000
"""Maximum number of tasks whose traces are recorded at a time; further tasks are not traced."""


class TracedTask:
    """A task whose trace is recorded. Times are in Unix milliseconds.

    Attributes:
        tenant: Tenant.
        command: Command.
        task_id: Id.
        traceparent: The span in which it was created, as W3C writes it.
        accepted_ms: Time of its acceptance.
        delivered_ms: Time of its last delivery; 0: it was not delivered.
        first_ms: Time of its first delivery; 0: it was not delivered.
        deliveries: Number of its deliveries.
        worker: Worker of the last delivery; empty: it was not delivered.
        ended_ms: Time of its end; 0: it has not ended.
        status: Status in which it ended.
    """

    __slots__ = (
        "accepted_ms",
        "command",
        "delivered_ms",
        "deliveries",
        "ended_ms",
        "first_ms",
        "status",
        "task_id",
        "tenant",
        "traceparent",
        "worker",
    )

    def __init__(self, tenant: str, command: str, task_id: str, traceparent: str, accepted_ms: int) -> None:
        self.tenant, self.command, self.task_id = tenant, command, task_id
        self.traceparent = traceparent
        self.accepted_ms = accepted_ms
        self.delivered_ms = self.first_ms = self.deliveries = self.ended_ms = 0
        self.worker = ""
        self.status = Status.PENDING


class Traces:
    """The tasks of a shard whose traces are recorded."""

    def __init__(self) -> None:
        self.tasks: dict[TaskKey, TracedTask] = {}

    def begin(self, key: TaskKey, tenant: str, command: str, traceparent: str, now_ms: int) -> None:
        """Begins to record a task that was just accepted, if its trace is sampled and there is room."""
        if is_sampled(traceparent) and len(self.tasks) < TRACED_MAX:
            self.tasks[key] = TracedTask(tenant, command, id_of(key), traceparent, now_ms)

    def delivered(self, claim: Claim, now_ms: int) -> None:
        """Records the deliveries of a claim."""
        tasks = self.tasks
        for key in tasks.keys() & claim.task_ids:
            task = tasks[key]
            task.delivered_ms = now_ms
            task.first_ms = task.first_ms or now_ms
            task.deliveries += 1
            task.worker = claim.worker

    def end(self, key: TaskKey, status: Status, now_ms: int) -> TracedTask:
        """Stops to record a task that is recorded, and returns it."""
        task = self.tasks.pop(key)
        task.ended_ms, task.status = now_ms, status
        return task


def is_sampled(traceparent: str) -> bool:
    """Returns whether a well-formed traceparent says that its trace is recorded."""
    return bool(int(traceparent[53:55], 16) & 1)
