"""Public values: schedules, their definitions and their fires."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, Self

from codeq import payloads
from codeq.outcomes import whole_seconds
from codeq.records import to_datetime
from codeq.v1 import schedule_service_pb2 as pb

Overlap = Literal["allow", "skip", "queueOne", "cancelRunning"]
"""What happens at an instant while a task of the schedule has not ended."""
Misfire = Literal["one", "skip", "all"]
"""Which missed instants are fired: the latest one, none, or the latest `misfire_max`."""

_DURATIONS: Final = ("delay", "expire", "jitter")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSpec:
    """Definition of a schedule; exactly one of `cron`, `every` and `at` says when it fires.

    Fractions of seconds are rounded up.

    Attributes:
        command: Command of the tasks.
        cron: Cron expression of 5 or 6 fields, or @hourly, @daily, "@every 1h", …
        every: Interval: seconds, a timedelta, or a text such as "1h30m", which it is when the server returns it.
        at: The only instant.
        time_zone: IANA name of the time zone of `cron`; "": UTC.
        payload: Payload of the tasks; in its strings, "{{scheduledAt}}" is replaced by the instant.
        priority: 0 to 9.
        max_attempts: Deliveries of a task; None: the server's default.
        delay: Delay of the tasks: seconds, or a timedelta.
        expire: Time after which a task that still waits ends: seconds, or a timedelta; None: never.
        overlap: What happens while a task of the schedule has not ended.
        misfire: Which missed instants are fired.
        misfire_max: Maximum number of instants that "all" fires; 0: 100.
        jitter: Longest delay of a fire: seconds, or a timedelta.
        start_at: No instants before this time.
        end_at: No instants after this time.
        paused: Whether the schedule is paused.
    """

    command: str
    cron: str | None = None
    every: str | float | timedelta | None = None
    at: datetime | None = None
    time_zone: str = ""
    payload: object = None
    priority: int = 0
    max_attempts: int | None = None
    delay: float | timedelta = 0
    expire: float | timedelta | None = None
    overlap: Overlap = "allow"
    misfire: Misfire = "one"
    misfire_max: int = 0
    jitter: float | timedelta = 0
    start_at: datetime | None = None
    end_at: datetime | None = None
    paused: bool = False

    def fields(self) -> dict[str, object]:
        """Returns the definition as fields of a message.

        Raises:
            InvalidField, TooLarge: The payload cannot be sent, or a duration is out of range.
        """
        found: dict[str, object] = {name: getattr(self, name) for name in self.__slots__ if name not in _DURATIONS}
        found |= {f"{name}_seconds": whole_seconds(getattr(self, name), name) for name in _DURATIONS}
        if self.every is not None and not isinstance(self.every, str):
            found["every"] = f"{whole_seconds(self.every, 'every', field='every')}s"
        return found | {"payload": payloads.encode(self.payload, "payload")}

    @classmethod
    def from_message(cls, message: pb.ScheduleSpec) -> Self:
        """Returns the definition in a message."""
        times: dict[str, Any] = {name: _time(message, name) for name in ("at", "start_at", "end_at")}
        given: dict[str, Any] = {
            name: getattr(message, name) if message.HasField(name) else None
            for name in ("cron", "every", "max_attempts")
        }
        expire = message.expire_seconds if message.HasField("expire_seconds") else None
        durations: dict[str, Any] = {
            "delay": message.delay_seconds,
            "expire": expire,
            "jitter": message.jitter_seconds,
        }
        plain: dict[str, Any] = {
            name: getattr(message, name)
            for name in cls.__slots__
            if name not in times and name not in given and name not in durations and name != "payload"
        }
        payload = payloads.decode(message.payload, "payload") if message.payload else None
        return cls(**times, **given, **durations, **plain, payload=payload)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule.

    Attributes:
        name: Name, unique within the tenant.
        spec: Definition.
        next: The next instants, at most ten, with the offset of the time zone; empty in lists.
        finished: Whether no instants follow.
        tzdata_version: Version of the time zone data with which the stored instants were computed.
        created_at: Time of creation.
        updated_at: Time of the last change of the definition.
        fired_total: Tasks created.
        skipped_total: Instants left out because of `overlap`.
        missed_total: Instants left out because of `misfire`.
        running: Ids of tasks that may not have ended; empty if `overlap` is "allow".
        queued_at: Instant that waits until a task has ended; None: none does.
    """

    name: str
    spec: ScheduleSpec
    next: tuple[datetime, ...]
    finished: bool
    tzdata_version: str
    created_at: datetime
    updated_at: datetime
    fired_total: int
    skipped_total: int
    missed_total: int
    running: tuple[str, ...]
    queued_at: datetime | None

    @classmethod
    def from_message(cls, message: pb.Schedule) -> Self:
        """Returns the schedule in a message."""
        return cls(
            message.name,
            ScheduleSpec.from_message(message.spec),
            tuple(datetime.fromisoformat(each) for each in message.next),
            message.finished,
            message.tzdata_version,
            to_datetime(message.created_at),
            to_datetime(message.updated_at),
            message.fired_total,
            message.skipped_total,
            message.missed_total,
            tuple(message.running),
            to_datetime(message.queued_at) if message.HasField("queued_at") else None,
        )


@dataclass(frozen=True, slots=True)
class ScheduleFire:
    """A task that a schedule created.

    Attributes:
        scheduled_at: Instant for which the task was created.
        fired_at: Time at which it was created.
        kind: "INSTANT", "TRIGGER" or "BACKFILL".
        task_id: Id of the task.
    """

    scheduled_at: datetime
    fired_at: datetime
    kind: str
    task_id: str

    @classmethod
    def from_message(cls, message: pb.ScheduleFire) -> Self:
        """Returns the fire in a message."""
        kind = pb.ScheduleFireKind.Name(message.kind).removeprefix("SCHEDULE_FIRE_KIND_")
        return cls(to_datetime(message.scheduled_at), to_datetime(message.fired_at), kind, message.task_id)


def _time(message: pb.ScheduleSpec, name: str) -> datetime | None:
    return to_datetime(getattr(message, name)) if message.HasField(name) else None
