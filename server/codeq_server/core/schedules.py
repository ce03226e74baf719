"""The schedules of a shard: their definitions, and when each of them has to be looked at next.

A schedule's row holds its next instants. They are computed outside the core, which knows no calendar, and become part
of the row before they are needed. In memory there is only what finds the row: a row may hold a payload of 64 KiB.
"""

from __future__ import annotations

from typing import Final

from codeq_internal.v1 import rows_pb2

from . import tenant_keys
from .alarms import Alarms
from .errors import Reason, Rejection
from .parsing import parsed, unpacked

TENANT_SCHEDULES_MAX = 10_000
"""Maximum number of schedules of a tenant."""
SCHEDULES_MAX = 100_000
"""Maximum number of schedules of all tenants together."""
HISTORY_MAX = 100
"""Number of fires of a schedule that are kept."""

DEFINITION: Final = (
    "cron",
    "every",
    "at_ms",
    "time_zone",
    "command",
    "payload",
    "priority",
    "max_attempts",
    "delay_ms",
    "expire_ms",
    "overlap",
    "misfire",
    "misfire_max",
    "jitter_ms",
    "start_ms",
    "end_ms",
)
"""Fields of a row that make up the definition; `paused` is not one of them."""
STATE: Final = ("created_ms", "after_ms", "running", "queued_ms", "fired_total", "skipped_total", "missed_total")
"""Fields of a row that outlive a change of the definition."""


class Schedule:
    """A schedule in memory.

    Attributes:
        tenant: Tenant.
        name: Name.
        key: Key of its row.
        asked: Whether further instants are being computed.
    """

    __slots__ = ("asked", "key", "name", "tenant")

    def __init__(self, tenant: str, name: str, key: bytes) -> None:
        self.tenant = tenant
        self.name = name
        self.key = key
        self.asked = False


class Schedules:
    """All schedules.

    Attributes:
        alarms: When each schedule has to be looked at, in Unix milliseconds.
        count: Number of schedules.
    """

    def __init__(self) -> None:
        self.alarms: Alarms[Schedule] = Alarms()
        self.count = 0
        self._by_tenant: dict[str, dict[str, Schedule]] = {}

    def find(self, tenant: str, name: str) -> Schedule | None:
        """Returns a schedule; None: there is none of this name."""
        return self._by_tenant.get(tenant, {}).get(name)

    def names(self, tenant: str) -> list[str]:
        """Returns the names of a tenant's schedules, in order."""
        return sorted(self._by_tenant.get(tenant, ()))

    def check_room(self, tenant: str) -> None:
        """Checks that a tenant may have one more schedule.

        Raises:
            Rejection: LIMIT_REACHED.
        """
        if len(self._by_tenant.get(tenant, ())) >= TENANT_SCHEDULES_MAX:
            raise Rejection(Reason.LIMIT_REACHED, f"the tenant has {TENANT_SCHEDULES_MAX} schedules, its limit")
        if self.count >= SCHEDULES_MAX:
            raise Rejection(Reason.LIMIT_REACHED, f"the server has {SCHEDULES_MAX} schedules, its limit")

    def add(self, tenant: str, name: str) -> Schedule:
        """Adds a schedule and returns it."""
        schedule = Schedule(tenant, name, tenant_keys.schedule_key(tenant, name))
        self._by_tenant.setdefault(tenant, {})[name] = schedule
        self.count += 1
        return schedule

    def remove(self, schedule: Schedule) -> None:
        """Removes a schedule."""
        there = self._by_tenant[schedule.tenant]
        del there[schedule.name]
        if not there:
            del self._by_tenant[schedule.tenant]
        self.count -= 1
        self.alarms.drop(schedule)


def adopt(schedules: Schedules, key: bytes, value: bytes) -> None:
    """Adds a stored schedule; its first turn comes at once, because it may have missed instants.

    Raises:
        CorruptRows: The row is malformed.
    """
    tenant, name = unpacked(tenant_keys.split_schedule_key, key, key)
    row = parsed(rows_pb2.ScheduleRow, key, value)
    schedule = schedules.add(tenant, name)
    if not row.paused:
        schedules.alarms.set(schedule, 0)
