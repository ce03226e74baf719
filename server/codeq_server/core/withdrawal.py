"""Removes waiting tasks from their places, and ends tasks that have left their places."""

from __future__ import annotations

from typing import Final

from codeq_internal.v1 import rows_pb2

from . import gates, keys
from .clock import Now
from .ending import end_with_state
from .errors import CorruptRows, Reason, Rejection
from .history import End, note
from .lookup import find_home, find_live, key_of
from .model import Lane, TaskKey
from .outcomes import leave_claim
from .parsing import unpacked
from .shard import Shard
from .status import Outcome, Status
from .windows import leave_lane

CANCELLED_ERROR: Final = "CANCELLED"
"""Error of a task cancelled without a reason."""


def cancel(shard: Shard, tenant: str, task_id: str, reason: str, now: Now) -> None:
    """Cancels a task that has not ended; a task that is already CANCELLED stays as it is.

    Args:
        shard: Shard that owns the task.
        tenant: Tenant of the producer.
        task_id: Task.
        reason: Stored as the task's error; empty: CANCELLED_ERROR.
        now: Time of the cancellation.

    Raises:
        Rejection: TASK_NOT_FOUND, TASK_ENDED.
        CorruptRows: The task's rows contradict each other.
    """
    home, position = find_home(shard, tenant, task_id)
    state = shard.state(home, position) or rows_pb2.StateRow()
    if state.ended_lsn:
        if state.status == Status.CANCELLED:
            return
        raise Rejection(Reason.TASK_ENDED, f"the task has ended: it is {Status(state.status).name}")
    key, delivery = find_live(shard, tenant, task_id)
    if delivery is None:
        withdraw(shard, home, position, state)
    else:
        claim = delivery.claim
        del shard.deliveries[key]
        state.ended_token, state.outcome, state.delay_ms = claim.token, Outcome.BY_SERVER, 0
        state.worker, state.subject = claim.worker, "" if claim.subject == claim.worker else claim.subject
        state.attempts = delivery.attempts + 1
        note(state, claim, End.CANCELLED, "", now)
        leave_claim(shard, delivery)
        if claim.holder is not None:
            shard.affect().cancelled.append((claim.holder, task_id, claim.token))
    end_cancelled(shard, home, position, key_of(shard, home, position), state, reason, now)


def end_cancelled(
    shard: Shard, home: Lane, position: int, task_id: TaskKey, state: rows_pb2.StateRow, reason: str, now: Now
) -> None:
    """Ends a task that has left its place as CANCELLED."""
    state.error = reason or CANCELLED_ERROR
    end_with_state(shard, home, position, task_id, Status.CANCELLED, state, now)


def withdraw(shard: Shard, home: Lane, position: int, state: rows_pb2.StateRow) -> None:
    """Removes a waiting task from its place and from the counters; the caller writes its state row.

    Args:
        shard: Shard that owns the task.
        home: Lane of its home.
        position: Position of its home.
        state: State row of the task; an empty row if it has none.

    Raises:
        CorruptRows: The task is not waiting anywhere.
    """
    rows, queue = shard.batch.rows, home.queue
    key = keys.place_key(home.task_prefix, position)
    value = shard.get(key)
    if value is None:
        raise CorruptRows(key, "the home of a waiting task is missing")
    if state.place == rows_pb2.PLACE_KIND_QUEUED:
        lane = queue.lane(state.place_lane)
        rows[keys.place_key(lane.task_prefix, state.place_at)] = None
        leave_lane(shard, lane, state.place_at)
    elif state.place == rows_pb2.PLACE_KIND_RETURNED:
        lane = queue.lane(state.place_lane)
        rows[keys.returned_key(lane.task_prefix, state.place_at)] = None
        leave_lane(shard, lane, state.place_at)
        if queue.ring is not None:
            gates.drop_reservations(shard, queue, queue.ring, keys.pack_home(home.index, position))
    elif state.place == rows_pb2.PLACE_KIND_BLOCKED:
        gates.withdraw_blocked(shard, home, position, state)
    elif state.place == rows_pb2.PLACE_KIND_DUE:
        shard.due.remove(queue, state.place_at, home.index, position)
    elif value[:1] == keys.PARKED:
        shard.due.remove(queue, unpacked(keys.split_parked, key, value)[0], home.index, position)
    elif value[:1] == keys.HOME and position > home.mark:
        rows[key] = keys.DEAD + value[1:]
        leave_lane(shard, home, position)
    else:
        raise CorruptRows(key, "a task is neither waiting, nor running, nor ended")
    shard.touch(queue)
