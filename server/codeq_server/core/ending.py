"""The end of a task: every task that becomes COMPLETED, FAILED, DLQ or CANCELLED does so in `end_task`.

Whatever has to happen when a task ends belongs there, and nowhere else.
"""

from __future__ import annotations

from typing import Final

from codeq_internal.v1 import rows_pb2

from . import gates, keys, ordering
from .callbacks import add_callback
from .clock import Now
from .model import Lane, TaskKey
from .shard import Shard
from .status import Status

# Looking up an enum member by name costs as much as a function call, and `end_task` runs once for each task.
_COMPLETED: Final = Status.COMPLETED
_FAILED: Final = Status.FAILED
_CANCELLED: Final = Status.CANCELLED
_DLQ: Final = Status.DLQ


def end_task(shard: Shard, home: Lane, position: int, task_id: TaskKey, status: Status, row: bytes, now: Now) -> None:
    """Ends a task: writes and lists its end, counts it, and notifies callers waiting for it.

    The task has left its place or is leaving its claim; either way its queue is already marked as changed.

    Args:
        shard: Shard that owns the task.
        home: Lane of the task's home.
        position: Position of its home.
        task_id: Key of the task; any value will do while no task is watched or traced.
        status: COMPLETED, FAILED, DLQ or CANCELLED.
        row: State row of the task, made by `ended_row`; longer parts may be appended.
        now: Time of the end.
    """
    batch, queue, totals = shard.batch, home.queue, shard.totals
    if queue.hooked:
        row += add_callback(shard, home, position, status, now)
    if queue.ring is not None and queue.ring.ordered:
        following = ordering.leave(shard, home, position)
        if following is not None and queue.purge is None:
            gates.return_blocked(shard, queue, following)
    batch.rows[home.state_prefix + position.to_bytes(6, "big")] = row
    if status is _COMPLETED:
        batch.completed.append((queue.number, home.index << 48 | position))
        queue.completed_total += 1
        totals.completed += 1
    else:
        batch.ended.append((queue.number, home.index << 48 | position, status is _DLQ))
    if status is _FAILED:
        queue.failed_total += 1
        totals.failed += 1
    elif status is _CANCELLED:
        totals.cancelled += 1
        queue.meter.cancelled += 1
    elif status is _DLQ:
        batch.rows[keys.dead_key(queue.number, now.wall_ms, home.index, position)] = b""
        queue.dlq += 1
        totals.dead += 1
        queue.meter.dead += 1
    if shard.watched and task_id in shard.watched:
        shard.affect().ended.append(task_id)
    if shard.traces is not None and task_id in shard.traces.tasks:
        batch.traced.append(shard.traces.end(task_id, status, now.wall_ms))


def ended_row(shard: Shard, state: rows_pb2.StateRow, status: Status, now: Now) -> bytes:
    """Returns the state row of a task that ends now; `state` holds the rest of the row."""
    state.status = status
    state.place, state.place_lane, state.place_at = rows_pb2.PLACE_KIND_UNSPECIFIED, 0, 0
    state.changed_ms, state.ended_lsn = now.wall_ms, shard.batch.lsn
    return state.SerializeToString()


def end_with_state(
    shard: Shard, home: Lane, position: int, task_id: TaskKey, status: Status, state: rows_pb2.StateRow, now: Now
) -> None:
    """Ends a task like `end_task`, with a state row that may hold progress or a history."""
    row = ended_row(shard, state, status, now)
    shard.batch.size += len(row)
    end_task(shard, home, position, task_id, status, row, now)
