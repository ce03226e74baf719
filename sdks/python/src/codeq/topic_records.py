"""Public values: policies of commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Self

from codeq import payloads
from codeq.records import to_datetime
from codeq.v1 import topic_service_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Delay after a nack that names none; None: as the server is configured.

    Attributes:
        policy: How the delay grows: fixed, linear, exponential, exp_equal_jitter or exp_full_jitter.
        base_seconds: First delay.
        max_seconds: Largest delay.
    """

    policy: str | None = None
    base_seconds: int | None = None
    max_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePolicy:
    """How a queue treats its tasks; None: the server's default.

    Attributes:
        priority_tiers: Priorities that tasks may have; empty: all.
        default_priority: Priority that replaces 0.
        max_attempts: Maximum deliveries of a task, and the default of tasks that name none.
        dead_letter_topic_ref: Command that gets a new task for each dead letter.
        retention_seconds: How long ended tasks are kept.
        completed_retention_seconds: The same for COMPLETED tasks.
        failed_retention_seconds: The same for FAILED and CANCELLED tasks.
        dlq_retention_seconds: The same for tasks in the dead-letter queue.
        max_consumers: Most tasks that may be leased at a time.
        default_lease_seconds: Length of the leases of claims and streams that name none.
        default_expire_seconds: Seconds after which tasks that name no expiry expire.
        backoff: Delay after a nack that names none.
        webhook: URL to which the ends of tasks that name no webhook are reported. Viewers do not see it.
        payload_bytes_max: Largest payload in bytes.
        payload_schema: JSON Schema (2020-12) that payloads must fit: a dictionary.
        concurrency_per_key: Most tasks with the same concurrency key that may be leased at a time.
        rate_per_second: Deliveries per second on average.
        rate_burst: Deliveries at once after a pause, of the queue and of a rate key; None: as many as in a second.
        rate_per_key_per_second: Deliveries of tasks with the same rate key per second on average.
        at_key_limit: What happens to a task whose concurrency key is at the limit: wait, cancel_running (the task that
            was leased first is cancelled) or drop_newest (the task ends as CANCELLED); None: wait.
        concurrency_key_path: Concurrency key of tasks that name none: a JSON pointer into the payload.
        rate_key_path: The same for the rate key.
        ordering_key_path: The same for the ordering key.
    """

    priority_tiers: Sequence[int] = ()
    default_priority: int | None = None
    max_attempts: int | None = None
    dead_letter_topic_ref: str | None = None
    retention_seconds: int | None = None
    completed_retention_seconds: int | None = None
    failed_retention_seconds: int | None = None
    dlq_retention_seconds: int | None = None
    max_consumers: int | None = None
    default_lease_seconds: int | None = None
    default_expire_seconds: int | None = None
    backoff: Backoff | None = None
    webhook: str | None = None
    payload_bytes_max: int | None = None
    payload_schema: Mapping[str, Any] | None = None
    concurrency_per_key: int | None = None
    rate_per_second: float | None = None
    rate_burst: int | None = None
    rate_per_key_per_second: float | None = None
    at_key_limit: str | None = None
    concurrency_key_path: str | None = None
    rate_key_path: str | None = None
    ordering_key_path: str | None = None

    @classmethod
    def from_message(cls, message: pb.QueuePolicy) -> Self:
        """Returns the policy in a message."""
        found = {field.name: getattr(message, field.name) for field, _ in message.ListFields()}
        known = {field.name: found[field.name] for field in fields(cls) if field.name in found}
        if "priority_tiers" in known:
            known["priority_tiers"] = tuple(known["priority_tiers"])
        if "payload_schema" in known:
            known["payload_schema"] = payloads.decode(message.payload_schema, "payload_schema")
        if "backoff" in known:
            known["backoff"] = Backoff(**{field.name: value for field, value in message.backoff.ListFields()})
        return cls(**known)

    def to_message(self) -> pb.QueuePolicy:
        """Returns the message with the fields that are set."""
        message = pb.QueuePolicy()
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Backoff):
                given = {each.name: getattr(value, each.name) for each in fields(value)}
                message.backoff.MergeFrom(pb.Backoff(**given))
            elif field.name == "priority_tiers":
                message.priority_tiers.extend(value)
            elif value is not None and field.name == "payload_schema":
                message.payload_schema = payloads.encode(value, "payload_schema")
            elif value is not None:
                setattr(message, field.name, value)
        return message


@dataclass(frozen=True, slots=True)
class Topic:
    """The policy of a command.

    Attributes:
        command: Command.
        tenant_id: Tenant.
        policy: The policy.
        version: Number of the policy: 1 for the first one, one more with each change.
        created_at: Time at which the topic was created.
        updated_at: Time of the last change.
        created: Whether the call created the topic.
    """

    command: str
    tenant_id: str
    policy: QueuePolicy
    version: int
    created_at: datetime
    updated_at: datetime
    created: bool = False

    @classmethod
    def from_message(cls, message: pb.Topic) -> Self:
        """Returns the topic in a message."""
        return cls(
            message.topic_name,
            message.tenant_id,
            QueuePolicy.from_message(message.policy),
            message.version,
            to_datetime(message.created_at),
            to_datetime(message.updated_at),
            message.created,
        )
