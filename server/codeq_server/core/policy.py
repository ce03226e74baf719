"""The policy of a queue, and whether a new task fits it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

from codeq_internal.v1 import rows_pb2

from . import keys
from .backoff import BackoffPolicy
from .clock import Now
from .errors import Reason, Rejection
from .key_rings import NO_KEY_POLICY, AtLimit, KeyPolicy
from .new_task import NewTask

MAX_CONSUMERS: Final = "maxConsumers"
"""Name of the limit on leased tasks."""


CHECKED_FIELDS: Final = ("priority", "max_attempts", "payload")
"""Fields of a new task that a policy may refuse."""


class Policy(NamedTuple):
    """How a queue treats its tasks; the fields are those of codeq.v1.QueuePolicy. 0 and empty: the server's default.

    Attributes:
        tiers: Priorities that tasks may have.
        default_priority: Priority that replaces 0.
        max_attempts: Maximum deliveries of a task, and the default of tasks that name none.
        max_consumers: Most tasks that may be leased at a time.
        expire_ms: Time to expire of tasks that name none.
        payload_bytes_max: Largest payload.
        completed_ms: Retention of COMPLETED tasks.
        failed_ms: Retention of FAILED and CANCELLED tasks.
        dlq_ms: Retention of DLQ tasks.
        backoff: How the delay after a nack grows; None: as configured.
        backoff_base_seconds: First delay.
        backoff_max_seconds: Largest delay.
        dead_letters: Command that gets a task for each dead letter.
        of_keys: Limits of tasks with keys, and of the queue's rate; None: it has none.
    """

    tiers: tuple[int, ...] = ()
    default_priority: int = 0
    max_attempts: int = 0
    max_consumers: int = 0
    expire_ms: int = 0
    payload_bytes_max: int = 0
    completed_ms: int = 0
    failed_ms: int = 0
    dlq_ms: int = 0
    backoff: BackoffPolicy | None = None
    backoff_base_seconds: int = 0
    backoff_max_seconds: int = 0
    dead_letters: str = ""
    of_keys: KeyPolicy | None = None

    @property
    def retains(self) -> bool:
        """Whether some tasks are kept for another time than the server's."""
        return bool(self.completed_ms or self.failed_ms or self.dlq_ms)

    def retention_ms(self, kind: int) -> int:
        """Returns the retention of tasks that ended in a way: 0, or ENDED_COMPLETED or ENDED_DEAD of `keys`."""
        if kind == keys.ENDED_COMPLETED:
            return self.completed_ms
        return self.dlq_ms if kind == keys.ENDED_DEAD else self.failed_ms


NO_POLICY: Final = Policy()


def policy_of(row: rows_pb2.PolicyRow) -> Policy:
    """Returns the policy of a row.

    Raises:
        ValueError: The row names an unknown backoff, or an unknown answer to a full key.
    """
    retention, backoff = row.retention_seconds, row.backoff
    of_keys = KeyPolicy(
        row.concurrency_per_key,
        row.rate_per_second,
        row.rate_burst,
        row.rate_per_key_per_second,
        AtLimit(row.at_key_limit) if row.HasField("at_key_limit") else AtLimit.WAIT,
    )
    return Policy(
        tiers=tuple(row.priority_tiers),
        default_priority=row.default_priority,
        max_attempts=row.max_attempts,
        max_consumers=row.max_consumers,
        expire_ms=row.default_expire_seconds * 1000,
        payload_bytes_max=row.payload_bytes_max,
        completed_ms=(row.completed_retention_seconds or retention) * 1000,
        failed_ms=(row.failed_retention_seconds or retention) * 1000,
        dlq_ms=(row.dlq_retention_seconds or retention) * 1000,
        backoff=BackoffPolicy(backoff.policy) if backoff.HasField("policy") else None,
        backoff_base_seconds=backoff.base_seconds,
        backoff_max_seconds=backoff.max_seconds,
        dead_letters=row.dead_letter_topic_ref,
        of_keys=of_keys if of_keys != NO_KEY_POLICY else None,
    )


def fitted(policy: Policy, task: NewTask, now: Now, path: str = "") -> NewTask:
    """Returns a task with the defaults of its command's policy; `path` is the task's path in the request.

    A task that does not fit has its rejection as `misfit`.
    """
    priority = task.priority or policy.default_priority
    return replace(
        task,
        priority=priority,
        max_attempts=task.max_attempts or policy.max_attempts,
        expire_ms=task.expire_ms or (now.wall_ms + policy.expire_ms if policy.expire_ms else 0),
        misfit=_misfit(policy, task, priority, path),
    )


def _misfit(policy: Policy, task: NewTask, priority: int, path: str) -> Rejection | None:
    if policy.tiers and priority not in policy.tiers:
        tiers = ", ".join(map(str, policy.tiers))
        return _violation(f"{path}priority", f"is {priority}, which is not among the queue's priorityTiers: {tiers}")
    if policy.max_attempts and task.max_attempts > policy.max_attempts:
        text = f"is {task.max_attempts}, which is more than the queue's maxAttempts, {policy.max_attempts}"
        return _violation(f"{path}max_attempts", text)
    if policy.payload_bytes_max and len(task.payload) > policy.payload_bytes_max:
        text = f"has {len(task.payload)} bytes, which is more than the queue's payloadBytesMax, "
        return _violation(f"{path}payload", f"{text}{policy.payload_bytes_max}")
    return None


def _violation(field: str, text: str) -> Rejection:
    return Rejection(Reason.POLICY_VIOLATION, f"{field}: {text}", ((field, text),))
