"""Fires schedules: creates the tasks of instants that have come.

The task, its entry in the history and the move of the schedule past the instant are rows of one batch. So an instant
fires once, however often a server is killed or its clock is set back. The id of the task derives from tenant, schedule,
definition and instant, so that a backfill finds tasks that exist already.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from codeq_internal.v1 import rows_pb2

from . import ids, tenant_keys
from .at_limit import REPLACED_ERROR
from .clock import Now
from .errors import CorruptRows, Rejection
from .lookup import find_home
from .names import Created, create
from .new_task import Naming, NewTask
from .parsing import parsed
from .policy import STEPS_PER_TURN, fitted
from .schedules import HISTORY_MAX, Schedule
from .shard import Shard
from .withdrawal import cancel

SLICE: Final = 32
"""Cost of schedules processed per call, roughly, in fires."""
FIRE_COST: Final = 8
"""Cost of a fire in tasks: it reads and writes several rows, and other tenants' calls wait meanwhile."""
TURN_FIRES = 8
"""Maximum number of instants of a schedule processed in one turn."""
LOW = 3
"""Number of stored instants below which further ones are requested."""
GRACE_MS = 10_000
"""An instant that is later than this has been missed; until then it fires as usual, unless it came during a pause."""
RETRY_MS: Final = 5_000
"""Time until a fire is tried again that a quota, a full disk or the policy of the command refused."""
LOOK_MS: Final = 1_000
"""Interval at which a schedule looks whether the task has ended for which an instant waits."""
RUNNING_MAX = 100
"""Maximum number of running tasks that a schedule remembers; beyond it, the oldest is forgotten."""

INSTANTS_WRITTEN: Final = 64
"""Texts of instants that are kept, because schedules share instants."""

INSTANT: Final = 1
TRIGGER: Final = 2
BACKFILL: Final = 3
"""Kinds of fires, with the numbers of codeq.v1.ScheduleFireKind."""

ALLOW: Final = "allow"
SKIP: Final = "skip"
QUEUE_ONE: Final = "queueOne"
CANCEL_RUNNING: Final = "cancelRunning"
"""Overlap policies."""
ONE: Final = "one"
ALL: Final = "all"
"""Misfire policies besides "skip"."""

NAMESPACE: Final = uuid.UUID("52c0a4de-6f0b-5d0c-8a55-0e3a9d1c7b41").bytes
"""Namespace of the ids of scheduled tasks. Never changed."""
_PLACEHOLDER: Final = b"{{scheduledAt}}"


def fire_due(shard: Shard, now: Now) -> bool:
    """Fires schedules that are due, tenant by tenant; returns whether there are more to fire."""
    left, alarms, checker = SLICE, shard.schedules.alarms, shard.policies.checker
    until = checker.steps + STEPS_PER_TURN
    while left > 0 and checker.steps < until and (schedule := alarms.turn(now.wall_ms)) is not None:
        before = shard.totals.fired
        alarms.rest(schedule, _turn(shard, schedule, now), now.wall_ms)
        left -= 1 + shard.totals.fired - before
    return alarms.first_ms <= now.wall_ms


def row_of(shard: Shard, schedule: Schedule) -> rows_pb2.ScheduleRow:
    """Returns the row of a schedule.

    Raises:
        CorruptRows: There is no row.
    """
    return parsed(rows_pb2.ScheduleRow, schedule.key, _stored(shard, schedule))


def _stored(shard: Shard, schedule: Schedule) -> bytes:
    value = shard.get(schedule.key)
    if value is None:
        raise CorruptRows(schedule.key, "the row of a schedule is missing")
    return value


def put_row(shard: Shard, schedule: Schedule, row: rows_pb2.ScheduleRow) -> None:
    """Adds the row of a schedule to the batch."""
    _put(shard, schedule, row.SerializeToString())


def _put(shard: Shard, schedule: Schedule, value: bytes) -> None:
    shard.batch.rows[schedule.key] = value
    shard.batch.size += len(value)


def next_look(row: rows_pb2.ScheduleRow) -> int | None:
    """Returns when a schedule has to be looked at for its next instant; None: not before its row changes."""
    if row.paused or not row.next_ms:
        return None
    return _due_ms(row, 0)


def ask(shard: Shard, schedule: Schedule) -> None:
    """Requests further instants of a schedule, unless they have been requested already."""
    if not schedule.asked:
        schedule.asked = True
        shard.affect().unscheduled.append(schedule)


# -- turns ---------------------------------------------------------------------------------------------------------


def _turn(shard: Shard, schedule: Schedule, now: Now) -> int | None:
    """Processes what is due of a schedule; returns when it has to be looked at again."""
    if shard.schedules.find(schedule.tenant, schedule.name) is not schedule:
        return None
    stored = _stored(shard, schedule)
    row = parsed(rows_pb2.ScheduleRow, schedule.key, stored)
    if row.paused:
        return None
    until_ms = missed_until(row, now.wall_ms)
    if not row.complete and (not row.next_ms or row.next_ms[-1] < until_ms):
        ask(shard, schedule)  # whether the last listed instant is the last that was missed is not known yet
        return _look_again(row, None, now)
    _leave_out_missed(shard, row, until_ms)
    at_ms = _fire_waiting(shard, schedule, row, now)
    if at_ms is None:
        at_ms = _fire_instants(shard, schedule, row, now)
    if len(row.next_ms) < LOW and not row.complete:
        ask(shard, schedule)
    value = row.SerializeToString()
    if value != stored:
        _put(shard, schedule, value)
    return _look_again(row, at_ms, now)


def _look_again(row: rows_pb2.ScheduleRow, at_ms: int | None, now: Now) -> int | None:
    """Returns the next look at a schedule, which also watches for the end of the task that an instant waits for."""
    if not row.queued_ms:
        return at_ms
    return now.wall_ms + LOOK_MS if at_ms is None else min(at_ms, now.wall_ms + LOOK_MS)


def missed_until(row: rows_pb2.ScheduleRow, now_ms: int) -> int:
    """Returns the time before which instants of a schedule have been missed."""
    resumed_ms: int = row.resumed_ms
    return max(now_ms - GRACE_MS, resumed_ms + 1)


def _leave_out_missed(shard: Shard, row: rows_pb2.ScheduleRow, until_ms: int) -> None:
    """Leaves out missed instants that the misfire policy does not fire."""
    missed = 0
    while missed < len(row.next_ms) and _due_ms(row, missed) < until_ms:
        missed += 1
    surplus = missed - kept_misfires(row)
    if surplus > 0:
        row.after_ms = row.next_ms[surplus - 1]
        del row.next_ms[:surplus]
        row.missed_total += surplus
        shard.totals.missed += surplus


def kept_misfires(row: rows_pb2.ScheduleRow) -> int:
    """Returns how many of its missed instants a schedule fires: the latest ones."""
    if row.misfire == ALL:
        return row.misfire_max
    return 1 if row.misfire == ONE else 0


def _fire_waiting(shard: Shard, schedule: Schedule, row: rows_pb2.ScheduleRow, now: Now) -> int | None:
    """Fires the instant that waits for the end of a task, if it has ended.

    Returns:
        When to look again because the fire was refused; None: it was not.
    """
    if not row.queued_ms or _running(shard, schedule, row):
        return None
    if _fire(shard, schedule, row, row.queued_ms, INSTANT, now) is None:
        return now.wall_ms + RETRY_MS
    row.queued_ms = 0
    return None


def _fire_instants(shard: Shard, schedule: Schedule, row: rows_pb2.ScheduleRow, now: Now) -> int | None:
    """Fires instants that have come, or leaves them out; returns when the next one comes."""
    done, refused = 0, False
    while done < min(len(row.next_ms), TURN_FIRES) and (late_ms := now.wall_ms - _due_ms(row, done)) >= 0:
        instant = row.next_ms[done]
        busy = row.overlap in (SKIP, QUEUE_ONE) and (bool(row.queued_ms) or _running(shard, schedule, row))
        if not busy:
            if _fire(shard, schedule, row, instant, INSTANT, now) is None:
                refused = True
                break
            shard.totals.late_ms += late_ms
        elif row.overlap == QUEUE_ONE and not row.queued_ms:
            row.queued_ms = instant
        else:
            row.skipped_total += 1
            shard.totals.overlapped += 1
        row.after_ms = instant
        done += 1
    del row.next_ms[:done]
    return now.wall_ms + RETRY_MS if refused else next_look(row)


def _due_ms(row: rows_pb2.ScheduleRow, index: int) -> int:
    """Returns when an instant of a schedule fires: at once, or later by its jitter but not past the next instant."""
    instant: int = row.next_ms[index]
    if not row.jitter_ms:
        return instant
    seed = f"{row.generation} {instant}".encode()
    late = int.from_bytes(blake2b(seed, digest_size=8).digest(), "big") % (row.jitter_ms + 1)
    if index + 1 < len(row.next_ms):
        late = min(late, row.next_ms[index + 1] - instant)
    return instant + late


# -- one fire ------------------------------------------------------------------------------------------------------


def _fire(
    shard: Shard, schedule: Schedule, row: rows_pb2.ScheduleRow, instant: int, kind: int, now: Now
) -> rows_pb2.FireRow | None:
    """Creates the task of an instant; returns None, and changes nothing, if a limit or the policy refuses it."""
    try:
        return fire(shard, schedule, row, instant, kind, now)
    except Rejection:
        return None


def fire(
    shard: Shard, schedule: Schedule, row: rows_pb2.ScheduleRow, instant: int, kind: int, now: Now
) -> rows_pb2.FireRow:
    """Creates the task of an instant, unless it exists, and adds it to the history; the caller writes the row.

    Args:
        shard: Shard.
        schedule: Schedule.
        row: Its row, which is changed.
        instant: The instant in Unix milliseconds.
        kind: INSTANT, TRIGGER or BACKFILL.
        now: Time of the fire.

    Returns:
        The fire; with number 0 as its time if the task existed already.

    Raises:
        Rejection: TOO_MANY_QUEUES, QUOTA_EXCEEDED, STORAGE_FULL, POLICY_VIOLATION, IDEMPOTENCY_CONFLICT (a producer
            chose the id for a task of its own). Nothing was changed.
    """
    running = _running_ids(shard, schedule, row) if row.overlap != ALLOW and kind != BACKFILL else []
    naming = None if kind == TRIGGER else _naming(shard, schedule, row.generation, instant)
    made = create(shard, schedule.tenant, task_of(shard, schedule.tenant, row, instant, naming, now), now)
    found = rows_pb2.FireRow(instant_ms=instant, fired_ms=now.wall_ms, kind=kind, task_id=made.task_id)
    if row.overlap == CANCEL_RUNNING and kind == INSTANT:
        for task_id in running:
            if task_id != made.task_id:
                cancel(shard, schedule.tenant, task_id, REPLACED_ERROR, now)
        running = []
    if row.overlap != ALLOW and kind != BACKFILL:
        row.running[:] = [*[i for i in running if i != made.task_id], made.task_id][-RUNNING_MAX:]
    if isinstance(made, Created):
        _note(shard, schedule, row, found)
    else:
        found.fired_ms = 0
    return found


def task_of(
    shard: Shard, tenant: str, row: rows_pb2.ScheduleRow, instant: int, naming: Naming | None, now: Now
) -> NewTask:
    """Returns the task of an instant, with the defaults of its command's policy, which may also refuse it."""
    task = NewTask(
        row.command,
        row.payload.replace(_PLACEHOLDER, written(instant).encode()),
        row.priority,
        row.max_attempts,
        now.wall_ms + row.delay_ms if row.delay_ms else 0,
        naming,
        now.wall_ms + row.expire_ms if row.expire_ms else 0,
    )
    policy = shard.policies.of(tenant, row.command)
    return task if policy is None else fitted(policy, task, now, check=shard.policies.checker.misfit)


def _note(shard: Shard, schedule: Schedule, row: rows_pb2.ScheduleRow, found: rows_pb2.FireRow) -> None:
    """Adds a fire to the history, and removes the fire that is too old to be kept."""
    row.fired_total += 1
    shard.totals.fired += 1
    rows = shard.batch.rows
    rows[tenant_keys.fire_key(schedule.key, row.fired_total)] = found.SerializeToString()
    if row.fired_total > HISTORY_MAX:
        rows[tenant_keys.fire_key(schedule.key, row.fired_total - HISTORY_MAX)] = None


def _naming(shard: Shard, schedule: Schedule, generation: int, instant: int) -> Naming:
    """Returns the id of the task of an instant, with a digest that marks it as the schedule's."""
    derived = ids.derived(NAMESPACE, f"{schedule.tenant}\n{schedule.name}\n{generation}\n{instant}")
    task_id, route = ids.uuid_text(derived), shard.settings.route
    return Naming(task_id if route is None else route.lead(task_id), derived)


def _running(shard: Shard, schedule: Schedule, row: rows_pb2.ScheduleRow) -> bool:
    """Returns whether a task of a schedule has not ended; forgets those that have."""
    if row.running:
        row.running[:] = _running_ids(shard, schedule, row)
    return bool(row.running)


def _running_ids(shard: Shard, schedule: Schedule, row: rows_pb2.ScheduleRow) -> list[str]:
    """Returns the tasks of a schedule that have not ended."""
    return [task_id for task_id in row.running if not _has_ended(shard, schedule.tenant, task_id)]


def _has_ended(shard: Shard, tenant: str, task_id: str) -> bool:
    """Returns whether a task has ended, or was removed since."""
    try:
        home, position = find_home(shard, tenant, task_id)
    except Rejection:
        return True
    state = shard.state(home, position)
    return state is not None and state.ended_lsn > 0


@lru_cache(maxsize=INSTANTS_WRITTEN)
def written(instant: int) -> str:
    """Returns an instant in RFC 3339, in UTC; milliseconds only if there are any."""
    seconds, millis = divmod(instant, 1000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{millis:03}Z" if millis else f"{text}Z"
