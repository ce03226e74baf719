"""Converts the definitions of schedules between requests and rows."""

from __future__ import annotations

from typing import Final

from codeq.v1 import schedule_service_pb2 as pb
from codeq_internal.v1 import rows_pb2

from codeq_server.core.errors import invalid_field
from codeq_server.core.firing import ALLOW, ONE
from codeq_server.engine.calendars import INSTANT_MAX_MS

from .convert import timestamp, unix_ms
from .fingerprint import NULL
from .validation import check_json

MISFIRE_MAX: Final = 100
"""Missed instants that "all" fires if the definition says nothing else."""
UTC: Final = "UTC"
_PATH: Final = "spec."


def definition_of(spec: pb.ScheduleSpec) -> rows_pb2.ScheduleRow:
    """Returns the definition in a request that already passed the rules of its proto.

    Raises:
        Rejection: INVALID_FIELD.
    """
    kinds = [name for name in ("cron", "every", "at") if spec.HasField(name)]
    if len(kinds) != 1:
        raise invalid_field(_PATH + (kinds[1] if kinds else "cron"), "exactly one of cron, every and at must be set")
    if kinds != ["cron"] and spec.time_zone not in ("", UTC):
        raise invalid_field(f"{_PATH}time_zone", f"is allowed only with cron: `{kinds[0]}` has no use for it")
    payload = spec.payload or NULL
    check_json(payload, f"{_PATH}payload")
    row = rows_pb2.ScheduleRow(
        cron=" ".join(spec.cron.split()),
        every=spec.every,
        at_ms=_time(spec, "at"),
        time_zone=spec.time_zone or UTC,
        command=spec.command,
        payload=payload,
        priority=spec.priority,
        max_attempts=spec.max_attempts,
        delay_ms=spec.delay_seconds * 1000,
        expire_ms=spec.expire_seconds * 1000,
        overlap=spec.overlap or ALLOW,
        misfire=spec.misfire or ONE,
        misfire_max=spec.misfire_max or MISFIRE_MAX,
        jitter_ms=spec.jitter_seconds * 1000,
        start_ms=_time(spec, "start_at"),
        end_ms=_time(spec, "end_at"),
        paused=spec.paused,
    )
    if row.end_ms and row.end_ms < row.start_ms:
        raise invalid_field(f"{_PATH}end_at", "must not be before start_at")
    return row


def spec_of(row: rows_pb2.ScheduleRow) -> pb.ScheduleSpec:
    """Returns the definition in a row."""
    return pb.ScheduleSpec(
        cron=row.cron or None,
        every=row.every or None,
        at=timestamp(row.at_ms) if row.at_ms else None,
        time_zone=row.time_zone,
        command=row.command,
        payload=row.payload,
        priority=row.priority,
        max_attempts=row.max_attempts or None,
        delay_seconds=row.delay_ms // 1000,
        expire_seconds=row.expire_ms // 1000 or None,
        overlap=row.overlap,
        misfire=row.misfire,
        misfire_max=row.misfire_max,
        jitter_seconds=row.jitter_ms // 1000,
        start_at=timestamp(row.start_ms) if row.start_ms else None,
        end_at=timestamp(row.end_ms) if row.end_ms else None,
        paused=row.paused,
    )


def _time(spec: pb.ScheduleSpec, name: str) -> int:
    """Returns a time of a definition in Unix milliseconds; 0: it is absent."""
    if not spec.HasField(name):
        return 0
    value = getattr(spec, name)
    at_ms = unix_ms(value)
    if not 0 < at_ms <= INSTANT_MAX_MS or not 0 <= value.nanos < 1_000_000_000:
        raise invalid_field(_PATH + name, "must be a valid time after 1970 and before 9999-12-31")
    return at_ms
