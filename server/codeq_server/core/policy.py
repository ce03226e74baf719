"""The policy of a queue, and whether a new task fits it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from codeq_internal.v1 import rows_pb2

from . import keys
from .backoff import BackoffPolicy
from .clock import Now
from .errors import Reason, Rejection
from .key_rings import NO_KEY_POLICY, AtLimit, KeyPolicy
from .new_task import NewTask, TaskKeys
from .payload_keys import NO_KEY_PATHS, KeyPaths, found_keys
from .task_bytes import webhook
from .task_fields import key_fields

STEPS_PER_TURN: Final = 250_000
"""Steps of checks of payloads after which other callers go on: about 50 ms."""
STEPS_PER_COST: Final = 40
"""Steps in the time of deciding a task."""
MAX_CONSUMERS: Final = "maxConsumers"
"""Name of the limit on leased tasks."""
RATE_PER_SECOND: Final = "ratePerSecond"
"""Name of the limit on deliveries."""

CHECKED_FIELDS: Final = ("priority", "max_attempts", "payload")
"""Fields of a new task that a policy may refuse."""


class Policy(NamedTuple):
    """How a queue treats its tasks; the fields are those of codeq.v1.QueuePolicy. 0 and empty: the server's default.

    Attributes:
        tiers: Priorities that tasks may have.
        default_priority: Priority that replaces 0.
        max_attempts: Maximum deliveries of a task, and the default of tasks that name none.
        max_consumers: Most tasks that may be leased at a time.
        lease_ms: Length of leases of claims that name none.
        expire_ms: Time to expire of tasks that name none.
        payload_bytes_max: Largest payload.
        payload_schema: JSON Schema of payloads.
        completed_ms: Retention of COMPLETED tasks.
        failed_ms: Retention of FAILED and CANCELLED tasks.
        dlq_ms: Retention of DLQ tasks.
        backoff: How the delay after a nack grows; None: as configured.
        backoff_base_seconds: First delay.
        backoff_max_seconds: Largest delay.
        dead_letters: Command that gets a task for each dead letter.
        webhook: URL to which the ends of tasks that name no webhook are reported.
        of_keys: Limits of tasks with keys, and of the queue's rate; None: it has none.
        key_paths: Where the keys of tasks are that name none; None: nowhere.
    """

    tiers: tuple[int, ...] = ()
    default_priority: int = 0
    max_attempts: int = 0
    max_consumers: int = 0
    lease_ms: int = 0
    expire_ms: int = 0
    payload_bytes_max: int = 0
    payload_schema: bytes = b""
    completed_ms: int = 0
    failed_ms: int = 0
    dlq_ms: int = 0
    backoff: BackoffPolicy | None = None
    backoff_base_seconds: int = 0
    backoff_max_seconds: int = 0
    dead_letters: str = ""
    webhook: str = ""
    of_keys: KeyPolicy | None = None
    key_paths: KeyPaths | None = None

    @property
    def limits_queue(self) -> bool:
        """Whether it limits or orders tasks that name no keys themselves."""
        if self.max_consumers or self.key_paths is not None:
            return True
        return self.of_keys is not None and self.of_keys.rate_per_second > 0

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
    key_paths = KeyPaths(row.concurrency_key_path, row.rate_key_path, row.ordering_key_path)
    return Policy(
        tiers=tuple(row.priority_tiers),
        default_priority=row.default_priority,
        max_attempts=row.max_attempts,
        max_consumers=row.max_consumers,
        lease_ms=row.default_lease_seconds * 1000,
        expire_ms=row.default_expire_seconds * 1000,
        payload_bytes_max=row.payload_bytes_max,
        payload_schema=row.payload_schema,
        completed_ms=(row.completed_retention_seconds or retention) * 1000,
        failed_ms=(row.failed_retention_seconds or retention) * 1000,
        dlq_ms=(row.dlq_retention_seconds or retention) * 1000,
        backoff=BackoffPolicy(backoff.policy) if backoff.HasField("policy") else None,
        backoff_base_seconds=backoff.base_seconds,
        backoff_max_seconds=backoff.max_seconds,
        dead_letters=row.dead_letter_topic_ref,
        webhook=row.webhook,
        of_keys=of_keys if of_keys != NO_KEY_POLICY else None,
        key_paths=key_paths if key_paths != NO_KEY_PATHS else None,
    )


class PayloadChecker(Protocol):
    """Checks payloads.

    Attributes:
        steps: Steps of all checks so far. Whoever creates several tasks lets other callers go on after STEPS_PER_TURN.
    """

    steps: int

    def misfit(self, schema: bytes, payload: bytes) -> str:
        """Returns why a payload does not fit a schema; empty: it fits."""
        ...


class NoChecker:
    """Checks no payload: for a core that nobody gave a checker of schemas."""

    def __init__(self) -> None:
        self.steps = 0

    def misfit(self, schema: bytes, payload: bytes) -> str:  # noqa: ARG002
        """Returns that a payload fits."""
        return ""


_NO_CHECKER: Final = NoChecker()


def fitted(
    policy: Policy,
    task: NewTask,
    now: Now,
    path: str = "",
    check: Callable[[bytes, bytes], str] = _NO_CHECKER.misfit,
) -> NewTask:
    """Returns a task with the defaults of its command's policy; one that does not fit has its rejection as `misfit`.

    Args:
        policy: The policy.
        task: The task as asked for.
        now: Time of the request.
        path: Path of the task in the request.
        check: Returns why a payload does not fit a schema; empty: it fits.
    """
    priority = task.priority or policy.default_priority
    fit = replace(
        task,
        priority=priority,
        max_attempts=task.max_attempts or policy.max_attempts,
        expire_ms=task.expire_ms or (now.wall_ms + policy.expire_ms if policy.expire_ms else 0),
        kept=task.kept if task.hooked else task.kept + webhook(policy.webhook),
        misfit=_misfit(policy, task, priority, path, check),
        hooked=task.hooked or bool(policy.webhook),
    )
    return fit if policy.key_paths is None or fit.misfit is not None else _keyed(policy.key_paths, fit, path)


def _keyed(paths: KeyPaths, task: NewTask, path: str) -> NewTask:
    """Returns a task with the keys that its payload holds, unless it names them itself."""
    own = task.keys or TaskKeys()
    try:
        found = found_keys(paths, own, task.payload)
    except ValueError as problem:
        return replace(task, misfit=_violation(f"{path}payload", str(problem)))
    if not any(found):
        return task
    of = TaskKeys(own.concurrency or found.concurrency, own.rate or found.rate, own.ordering or found.ordering)
    return replace(task, keys=of, kept=task.kept + key_fields(found))


def _misfit(
    policy: Policy, task: NewTask, priority: int, path: str, check: Callable[[bytes, bytes], str]
) -> Rejection | None:
    if policy.tiers and priority not in policy.tiers:
        tiers = ", ".join(map(str, policy.tiers))
        return _violation(f"{path}priority", f"is {priority}, which is not among the queue's priorityTiers: {tiers}")
    if policy.max_attempts and task.max_attempts > policy.max_attempts:
        text = f"is {task.max_attempts}, which is more than the queue's maxAttempts, {policy.max_attempts}"
        return _violation(f"{path}max_attempts", text)
    if policy.payload_bytes_max and len(task.payload) > policy.payload_bytes_max:
        text = f"has {len(task.payload)} bytes, which is more than the queue's payloadBytesMax, "
        return _violation(f"{path}payload", f"{text}{policy.payload_bytes_max}")
    if policy.payload_schema and (text := check(policy.payload_schema, task.payload)):
        return _violation(f"{path}payload", text)
    return None


def _violation(field: str, text: str) -> Rejection:
    return Rejection(Reason.POLICY_VIOLATION, f"{field}: {text}", ((field, text),))
