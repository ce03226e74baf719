"""Redrives tasks that ended without success, and removes ended tasks early."""

from __future__ import annotations

from typing import Final, NamedTuple

from codeq_internal.v1 import rows_pb2

from . import history, keys, ordering
from .artifacts import let_go
from .callbacks import carry_into_next_life, is_pending
from .clock import Now
from .errors import CorruptRows, Reason, Rejection
from .lookup import find_home
from .model import Lane
from .outcomes import enqueue
from .parsing import listed, parsed, unpacked
from .shard import Shard
from .status import Status
from .sweep import list_of, remove_ended
from .task_bytes import keys_of
from .usage import forgive

REDRIVABLE: Final = frozenset({Status.DLQ, Status.FAILED, Status.CANCELLED})
CLEANUP_SLICE = 64
"""Tasks examined per call of `cleanup`; each may have a large result."""


class Cleaned(NamedTuple):
    """The result of one slice of a cleanup.

    Attributes:
        removed: Tasks removed.
        looked: Tasks examined.
        following: Index in the list at which the next slice begins; None: the whole list was examined.
    """

    removed: int
    looked: int
    following: int | None


def redrive_task(shard: Shard, tenant: str, task_id: str, now: Now) -> None:
    """Redrives a task that ended without success.

    Raises:
        Rejection: TASK_NOT_FOUND, TASK_NOT_REDRIVABLE.
    """
    home, position = find_home(shard, tenant, task_id)
    state = shard.state(home, position)
    if state is None or not state.ended_lsn or state.status not in REDRIVABLE:
        raise Rejection(Reason.TASK_NOT_REDRIVABLE, "only a task that is DLQ, FAILED or CANCELLED can be redriven")
    redrive(shard, home, position, state, now)


def redrive(shard: Shard, home: Lane, position: int, state: rows_pb2.StateRow, now: Now) -> None:
    """Puts an ended task at the tail of its queue as if it were new; `state` is its state row.

    The task keeps its delivery history, and the token that ended it, so that this token and earlier tokens stay
    rejected. Lists of ended tasks still contain the task, but its state row shows the sweep that it has been redriven.

    Raises:
        CorruptRows: The task has no home.
    """
    key = keys.place_key(home.task_prefix, position)
    value = shard.get(key)
    if value is None:
        raise CorruptRows(key, "the home of an ended task is missing")
    queue, batch = home.queue, shard.batch
    dead = state.status == Status.DLQ
    if dead:
        batch.rows[keys.dead_key(queue.number, state.changed_ms, home.index, position)] = None
        queue.dlq -= 1
    elif state.status == Status.FAILED:
        forgive(shard, queue)
    if state.artifacts:
        let_go(shard, queue, keys.place_key(home.state_prefix, position), state)
    if state.ended_lsn == batch.lsn:
        batch.revived.append((queue.number, keys.pack_home(home.index, position), dead))
    life = rows_pb2.StateRow(
        ended_token=state.ended_token,
        changed_ms=now.wall_ms,
        redriven_lsn=batch.lsn,
        deliveries=history.deliveries(state),
        callbacks=carry_into_next_life(shard, queue, state),
    )
    if queue.ring is not None:
        of = unpacked(lambda stored: keys_of(keys.task_bytes(stored)), key, value)
        if of is not None and of.ordering:
            life.ordering_number = ordering.join(shard, queue, of.ordering, keys.pack_home(home.index, position))
    lane = queue.lane(unpacked(keys.split_parked, key, value)[1]) if value[:1] == keys.PARKED else home
    enqueue(shard, lane, home, position, life)
    shard.put_state(home, position, life)
    shard.totals.redriven += 1


def cleanup(shard: Shard, key: bytes, tenant: str, before_ms: int, start: int, limit: int) -> Cleaned:
    """Removes tasks that ended before a given time from one list of ended tasks; processes one slice of the list.

    Args:
        shard: Shard that owns the tasks.
        key: Key of the list.
        tenant: Tenant whose tasks are removed.
        before_ms: Unix milliseconds.
        start: Index in the list at which the slice begins.
        limit: Maximum number of tasks to remove.

    Raises:
        CorruptRows: The list, or a state row, is unreadable.
    """
    value = shard.get(key)
    if value is None:
        return Cleaned(0, 0, None)
    row = parsed(rows_pb2.EndedRow, key, value)
    tasks = list(listed(key, row.queues, row.homes))
    gone: list[tuple[int, int]] = []
    left = tasks[:start]
    for number, home in tasks[start : start + CLEANUP_SLICE]:
        if len(gone) == limit:
            break
        lane_index, position = keys.unpack_home(home)
        queue = shard.queues.get(number)  # None: all tasks of the queue were removed, and then the queue itself
        of_tenant = queue is not None and queue.tenant == tenant
        state = shard.state(shard.lane_named(key, number, lane_index), position) if of_tenant else None
        matches = state is not None and state.ended_lsn == row.lsn and state.changed_ms < before_ms
        if matches and queue is not None and state is not None and state.callbacks:
            matches = not is_pending(shard, queue, state)
        (gone if matches else left).append((number, home))
    looked = len(gone) + len(left) - min(start, len(tasks))
    left += tasks[start + looked :]
    if gone:
        remove_ended(shard, key, list_of(row.lsn, gone))
        shard.batch.rows[key] = list_of(row.lsn, left).SerializeToString() if left else None
    following = start + looked - len(gone)
    return Cleaned(len(gone), looked, following if following < len(left) else None)
