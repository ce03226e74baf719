"""Changes schedules at the request of administrators, and takes over computed instants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from codeq_internal.v1 import rows_pb2

from . import tenant_keys
from .clock import Now
from .errors import Reason, Rejection
from .firing import ALLOW, BACKFILL, QUEUE_ONE, TRIGGER, fire, next_look, put_row, row_of
from .parsing import parsed
from .schedules import DEFINITION, HISTORY_MAX, STATE, Schedule
from .shard import Shard


class Instants(NamedTuple):
    """Computed instants of a schedule.

    Attributes:
        ms: The instants in Unix milliseconds, ascending.
        complete: Whether no instants follow.
        tzdata: Version of the time zone data with which they were computed.
        missed: Number of further instants that were missed and left out.
    """

    ms: Sequence[int]
    complete: bool
    tzdata: str
    missed: int = 0


def find(shard: Shard, tenant: str, name: str) -> Schedule:
    """Returns a schedule.

    Raises:
        Rejection: SCHEDULE_NOT_FOUND.
    """
    schedule = shard.schedules.find(tenant, name)
    if schedule is None:
        raise not_found(name)
    return schedule


def not_found(name: str) -> Rejection:
    """Returns the rejection of a call that names no schedule which the caller may see."""
    return Rejection(Reason.SCHEDULE_NOT_FOUND, f"there is no schedule {name[:128]!r}")


def is_same(row: rows_pb2.ScheduleRow, definition: rows_pb2.ScheduleRow) -> bool:
    """Returns whether a row has this definition."""
    return all(getattr(row, name) == getattr(definition, name) for name in DEFINITION)


def put(
    shard: Shard, tenant: str, name: str, definition: rows_pb2.ScheduleRow, instants: Instants | None, now: Now
) -> None:
    """Creates a schedule, or replaces its definition.

    Args:
        shard: Shard.
        tenant: Tenant.
        name: Name of the schedule.
        definition: The definition, and whether the schedule is paused.
        instants: Its first instants after `now`; None: the schedule exists with this definition.
        now: Time of the change.

    Raises:
        Rejection: LIMIT_REACHED.
    """
    schedule = shard.schedules.find(tenant, name)
    if schedule is None:
        shard.schedules.check_room(tenant)
        schedule = shard.schedules.add(tenant, name)
        row = rows_pb2.ScheduleRow(created_ms=now.wall_ms)
    else:
        row = row_of(shard, schedule)
    if instants is not None:
        changed = rows_pb2.ScheduleRow()
        changed.CopyFrom(definition)
        for field in STATE:
            value = getattr(row, field)
            if field == "running":
                changed.running.extend(value)
            else:
                setattr(changed, field, value)
        row = changed
        row.generation, row.updated_ms, row.after_ms = shard.next_token(), now.wall_ms, now.wall_ms
        _take(row, instants)
        _adapt(shard, row)
        schedule.asked = False
    _set_paused(row, now, paused=definition.paused)
    _store(shard, schedule, row, now)


def set_paused(shard: Shard, schedule: Schedule, now: Now, *, paused: bool) -> None:
    """Pauses or resumes a schedule."""
    row = row_of(shard, schedule)
    if row.paused != paused:
        _set_paused(row, now, paused=paused)
        _store(shard, schedule, row, now)


def _set_paused(row: rows_pb2.ScheduleRow, now: Now, *, paused: bool) -> None:
    if row.paused and not paused:
        row.resumed_ms = now.wall_ms
    row.paused = paused


def remove(shard: Shard, schedule: Schedule) -> None:
    """Removes a schedule with its history."""
    row, rows = row_of(shard, schedule), shard.batch.rows
    for number in range(max(1, row.fired_total - HISTORY_MAX + 1), row.fired_total + 1):
        rows[tenant_keys.fire_key(schedule.key, number)] = None
    rows[schedule.key] = None
    shard.schedules.remove(schedule)


def extend(shard: Shard, schedule: Schedule, generation: int, after_ms: int, instants: Instants, now: Now) -> None:
    """Adds computed instants to a schedule, unless it has changed since they were requested.

    Args:
        shard: Shard.
        schedule: Schedule.
        generation: Number of the definition for which the instants were computed.
        after_ms: Instant after which they were computed; see `last_known`.
        instants: The instants.
        now: Time of the decision.
    """
    if shard.schedules.find(schedule.tenant, schedule.name) is not schedule:
        return
    row = row_of(shard, schedule)
    if row.generation != generation or last_known(row) != after_ms:
        return
    schedule.asked = False
    row.next_ms.extend(instants.ms)
    if not row.next_ms:
        row.after_ms = now.wall_ms
    row.complete, row.tzdata = instants.complete, instants.tzdata
    row.missed_total += instants.missed
    shard.totals.missed += instants.missed
    _store(shard, schedule, row, now)


def recompute(shard: Shard, schedule: Schedule, generation: int, after_ms: int, instants: Instants, now: Now) -> bool:
    """Replaces the stored instants of a schedule; returns False if it has changed since they were requested."""
    row = row_of(shard, schedule)
    if row.generation != generation or row.after_ms != after_ms:
        return False
    schedule.asked = False
    _take(row, instants)
    row.missed_total += instants.missed
    _store(shard, schedule, row, now)
    return True


def last_known(row: rows_pb2.ScheduleRow) -> int:
    """Returns the instant after which further instants of a schedule have to be computed."""
    return row.next_ms[-1] if row.next_ms else row.after_ms


def trigger(shard: Shard, schedule: Schedule, now: Now) -> rows_pb2.FireRow:
    """Creates a task now, and returns the fire.

    Raises:
        Rejection: TOO_MANY_QUEUES, QUOTA_EXCEEDED, STORAGE_FULL.
    """
    row = row_of(shard, schedule)
    made = fire(shard, schedule, row, now.wall_ms, TRIGGER, now)
    put_row(shard, schedule, row)
    return made


def backfill(shard: Shard, schedule: Schedule, instants: Sequence[int], now: Now) -> list[rows_pb2.FireRow]:
    """Creates the tasks of past instants, and returns the fires; their time is 0 if the task existed already.

    A refused instant ends the list; only if it is the first one, the call fails.

    Raises:
        Rejection: TOO_MANY_QUEUES, QUOTA_EXCEEDED, STORAGE_FULL.
    """
    row = row_of(shard, schedule)
    fires: list[rows_pb2.FireRow] = []
    for instant in instants:
        try:
            fires.append(fire(shard, schedule, row, instant, BACKFILL, now))
        except Rejection:
            if not fires:
                raise
            break
    put_row(shard, schedule, row)
    return fires


def history(shard: Shard, schedule: Schedule) -> list[rows_pb2.FireRow]:
    """Returns the last fires of a schedule, the latest first."""
    last = row_of(shard, schedule).fired_total
    found: list[rows_pb2.FireRow] = []
    for number in range(last, max(0, last - HISTORY_MAX), -1):
        key = tenant_keys.fire_key(schedule.key, number)
        value = shard.get(key)
        if value is not None:
            found.append(parsed(rows_pb2.FireRow, key, value))
    return found


def _take(row: rows_pb2.ScheduleRow, instants: Instants) -> None:
    row.next_ms[:] = instants.ms
    row.complete, row.tzdata = instants.complete, instants.tzdata


def _adapt(shard: Shard, row: rows_pb2.ScheduleRow) -> None:
    """Drops the state that only an earlier overlap policy needed."""
    if row.queued_ms and row.overlap != QUEUE_ONE:
        row.queued_ms = 0
        row.skipped_total += 1
        shard.totals.overlapped += 1
    if row.overlap == ALLOW:
        del row.running[:]


def _store(shard: Shard, schedule: Schedule, row: rows_pb2.ScheduleRow, now: Now) -> None:
    """Writes a row, and has the schedule looked at in time."""
    put_row(shard, schedule, row)
    at_ms = next_look(row)
    if row.queued_ms and not row.paused:
        at_ms = now.wall_ms
    elif at_ms is None and not row.paused and not row.complete:
        at_ms = now.wall_ms  # the turn requests instants
    if at_ms is not None:
        shard.schedules.alarms.set(schedule, at_ms)
