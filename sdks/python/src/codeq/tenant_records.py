"""Public values: tenants, their limits and what they use."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple, Self

from codeq.v1 import tenant_service_pb2


class RateLimit(NamedTuple):
    """A token bucket; it limits nothing unless both numbers are positive.

    Attributes:
        requests_per_minute: Cost that flows back per minute.
        burst_size: Cost that the bucket holds.
    """

    requests_per_minute: int
    burst_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantLimits:
    """Limits of a tenant; None: not set, so inherited. 0: not limited.

    Attributes:
        producer: Creates and cancels of all producers of the tenant together.
        worker: Claims of all its workers together.
        admin: Administrative calls of all its administrators and viewers together.
        producer_token: As `producer`, for each token.
        worker_token: As `worker`, for each token.
        admin_token: As `admin`, for each token.
        waiting_tasks_max: Tasks that wait, PENDING or SCHEDULED.
        stored_bytes_max: Bytes of payloads and results that are stored.
        leases_max: Tasks that are leased.
        queues_max: Queues; 0: only the server's limits apply.
        streams_max: Open streams.
        new_queues_per_minute: Queues that may be created per minute.
    """

    producer: RateLimit | None = None
    worker: RateLimit | None = None
    admin: RateLimit | None = None
    producer_token: RateLimit | None = None
    worker_token: RateLimit | None = None
    admin_token: RateLimit | None = None
    waiting_tasks_max: int | None = None
    stored_bytes_max: int | None = None
    leases_max: int | None = None
    queues_max: int | None = None
    streams_max: int | None = None
    new_queues_per_minute: int | None = None

    @classmethod
    def from_message(cls, message: tenant_service_pb2.TenantLimits) -> Self:
        """Returns the limits in a message."""
        found = {field.name: value for field, value in message.ListFields()}
        rates = {
            name: RateLimit(value.requests_per_minute, value.burst_size)
            for name, value in found.items()
            if isinstance(value, tenant_service_pb2.RateLimit)
        }
        return cls(**found | rates)

    def to_message(self) -> tenant_service_pb2.TenantLimits:
        """Returns the message with the limits that are set."""
        message = tenant_service_pb2.TenantLimits()
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, RateLimit):
                rate = tenant_service_pb2.RateLimit(**value._asdict())
                getattr(message, field.name).CopyFrom(rate)
            elif value is not None:
                setattr(message, field.name, value)
        return message


@dataclass(frozen=True, slots=True)
class TenantUsage:
    """What a tenant uses now, and has used since its first task.

    Attributes:
        waiting_tasks: Tasks that wait, PENDING or SCHEDULED.
        leases: Tasks that are leased.
        stored_bytes: Bytes of payloads and results that are stored; an estimate if tasks of a queue differ in size.
        queues: Queues.
        streams: Open streams on the queried server.
        created_total: Tasks created.
        delivered_total: Deliveries of tasks to workers.
        completed_total: Tasks completed.
        failed_total: Tasks that ended as FAILED.
        accepted_bytes_total: Bytes of payloads and results accepted.
        rate_limited_total: Calls and frames refused or delayed by a rate limit since the server started.
        quota_refused_total: Calls and items refused by a quota since the server started.
    """

    waiting_tasks: int
    leases: int
    stored_bytes: int
    queues: int
    streams: int
    created_total: int
    delivered_total: int
    completed_total: int
    failed_total: int
    accepted_bytes_total: int
    rate_limited_total: int
    quota_refused_total: int

    @classmethod
    def from_message(cls, message: tenant_service_pb2.TenantUsage) -> Self:
        """Returns the usage in a message."""
        return cls(**{field.name: getattr(message, field.name) for field in fields(cls)})


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant.

    Attributes:
        name: Name; "_default" for the limits of all tenants without limits of their own.
        limits: Limits of its own.
        effective: Limits in force.
        usage: What it uses; None for "_default".
    """

    name: str
    limits: TenantLimits
    effective: TenantLimits
    usage: TenantUsage | None

    @classmethod
    def from_message(cls, message: tenant_service_pb2.Tenant) -> Self:
        """Returns the tenant in a message."""
        return cls(
            message.name,
            TenantLimits.from_message(message.limits),
            TenantLimits.from_message(message.effective),
            TenantUsage.from_message(message.usage) if message.HasField("usage") else None,
        )
