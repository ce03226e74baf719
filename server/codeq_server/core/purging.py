"""Purge: ends every task waiting in a queue at one moment, slice by slice, while the queue delivers nothing.

The rows alone show which tasks a purge ends: tasks at places up to the lanes' tails at that moment, and tasks whose
state rows are unchanged since. To continue after a restart, a purge needs only its request, which the queue's row
stores; see docs/adr/0012.
"""

from __future__ import annotations

from typing import Final

from codeq_internal.v1 import rows_pb2

from . import keys, windows
from .clock import Now
from .ending import end_task, ended_row
from .errors import CorruptRows
from .model import Lane, Purge, Queue
from .parsing import unpacked
from .shard import Shard
from .status import Status
from .withdrawal import end_cancelled, withdraw

PURGED_ERROR: Final = "PURGED"
"""Error of a task that a purge ended."""
SLICE = 512
"""Rows processed per call, roughly."""
TURN = 128
"""Rows processed for one tenant before the next tenant's turn."""
TURN_COST = 8
"""Minimum cost of a turn, in rows."""
PAGE_BYTES: Final = 1 << 20
"""Target for the task bytes read in a turn; estimated from the previous turn."""


def purge(shard: Shard, queue: Queue, now: Now) -> None:
    """Starts to end every task waiting in a queue; extends a purge in progress to the tasks that have arrived since."""
    if not queue.ready and not queue.scheduled:
        return
    tails = {lane.index: lane.tail for lane in queue.lanes if lane is not None and lane.tail}
    queue.purge = Purge(queue, now.wall_ms, tails)
    # Later decisions get a later time, so the time in a state row tells whether it was changed before or after the
    # purge.
    shard.wall_ms = max(shard.wall_ms, now.wall_ms + 1)
    shard.hold(queue)
    shard.touch(queue)
    shard.batch.purges.append(queue.purge)


def adopt(shard: Shard, queue: Queue, row: rows_pb2.PurgeState) -> None:
    """Resumes the purge recorded in the queue's row; the queue's lanes are already in memory."""
    tails = dict(keys.unpack_home(tail) for tail in row.tails)
    if any(lane > keys.PARKED_LANE or queue.lanes[lane] is None for lane in tails):
        raise CorruptRows(queue.key, "has a purge of a lane that was never used")
    queue.purge = Purge(queue, row.at_ms, tails)
    shard.purges.set(queue.purge, 0)


def is_meant(purge: Purge, home: Lane, position: int, state: rows_pb2.StateRow | None) -> bool:
    """Returns whether a purge ends a scheduled or returned task; `state` is the task's state row."""
    if state is None:
        return position <= purge.tails.get(home.index, 0)
    return state.changed_ms <= purge.at_ms


def end_purged(shard: Shard, home: Lane, position: int, state: rows_pb2.StateRow, now: Now) -> None:
    """Ends a task that has left its place."""
    value = shard.get(keys.place_key(home.task_prefix, position)) if _is_asked(shard) else None
    key = home.key_of(position, value) if value is not None else ""
    end_cancelled(shard, home, position, key, state, PURGED_ERROR, now)


def work(shard: Shard, now: Now) -> bool:
    """Processes one slice of the purges in progress, tenant by tenant; returns whether there is more to do."""
    left, purges = SLICE, shard.purges
    while left > 0 and (purge := purges.turn(now.wall_ms)) is not None:
        done = _turn(shard, purge, min(left, TURN), now)
        left -= max(done, TURN_COST)
        purges.rest(purge, 0 if purge.queue.purge is purge else None, now.wall_ms)
    return purges.first_ms <= now.wall_ms


def _turn(shard: Shard, purge: Purge, most: int, now: Now) -> int:
    """Processes the next rows of a purge and returns how many; a purge replaced by a newer one does nothing."""
    queue = purge.queue
    if queue.purge is not purge:
        return 0
    if queue.ring is not None and purge.following[keys.BLOCKED] is not None:
        return _blocked(shard, purge, most, now)
    if purge.following[keys.RETURNED] is not None:
        return _returned(shard, purge, most, now)
    for index, tail in purge.tails.items():
        lane = queue.lane(index)
        if index < keys.LANES and lane.mark < tail and lane.ready:
            return _places(shard, purge, lane, min(most, tail - lane.mark), now)
    if purge.following[keys.DUE] is not None:
        return _scheduled(shard, purge, most, now)
    queue.purge = None
    shard.release(queue)
    if queue.ring is not None:
        shard.gates_due.set(queue.ring, 0)
    shard.touch(queue)
    return 0


def _blocked(shard: Shard, purge: Purge, most: int, now: Now) -> int:
    """Ends tasks that waited for their key before the purge; none starts to wait during it."""
    rows = _next_rows(shard, purge, keys.BLOCKED, most)
    for key, _ in rows:
        value = shard.get(key)
        if value is None or not keys.split_blocked_key(key)[2]:
            continue  # the row of a task that ended with another row of this page, or a line
        index, position = keys.unpack_home(unpacked(keys.split_blocked_value, key, value))
        home = shard.lane_named(key, purge.queue.number, index)
        state = shard.state(home, position)
        if state is not None and state.place == rows_pb2.PLACE_KIND_BLOCKED:
            withdraw(shard, home, position, state)
            end_purged(shard, home, position, state, now)
    return len(rows)


def _returned(shard: Shard, purge: Purge, most: int, now: Now) -> int:
    """Ends tasks that were given back before the purge."""
    rows = _next_rows(shard, purge, keys.RETURNED, most)
    for key, value in rows:
        home_lane, home_position, _ = unpacked(keys.split_pointer, key, value)
        home = purge.queue.lane(home_lane)
        state = shard.state(home, home_position)
        if state is None:
            raise CorruptRows(key, "leads to a task without a state row")
        if is_meant(purge, home, home_position, state):
            withdraw(shard, home, home_position, state)
            end_purged(shard, home, home_position, state, now)
    return len(rows)


def _places(shard: Shard, purge: Purge, lane: Lane, most: int, now: Now) -> int:
    """Ends the tasks at the next places of a lane, and moves the lane's mark past them."""
    windows.forget(shard, lane)
    queue = purge.queue
    first = lane.mark + 1
    last = lane.mark + min(most, purge.page)
    row = ended_row(shard, rows_pb2.StateRow(error=PURGED_ERROR), Status.CANCELLED, now)
    count = size = 0
    for position, value in shard.places(lane, first, last):
        size += len(value)
        if value[:1] == keys.DEAD:
            continue
        count += 1
        if value[:1] == keys.POINTER:
            _pointed(shard, lane, position, value, now)
            continue
        # The task has no state row yet, so all such tasks get the same one.
        task_id = lane.key_of(position, value) if _is_asked(shard) else ""
        end_task(shard, lane, position, task_id, Status.CANCELLED, row, now)
    purge.page = max(1, min(TURN, PAGE_BYTES * (last - lane.mark) // (size + 1)))
    lane.mark = lane.loaded = last
    lane.ready -= count
    if not lane.ready:
        windows.emptied(shard, lane)
    shard.touch(queue)
    return last - first + 1


def _pointed(shard: Shard, lane: Lane, position: int, value: bytes, now: Now) -> None:
    """Ends the task that a pointer in a lane refers to; the caller updates the lane."""
    key = keys.place_key(lane.task_prefix, position)
    home_lane, home_position, _ = unpacked(keys.split_pointer, key, value)
    home = lane.queue.lane(home_lane)
    state = shard.state(home, home_position)
    if state is None:
        raise CorruptRows(key, "leads to a task without a state row")
    shard.batch.rows[key] = None
    end_purged(shard, home, home_position, state, now)


def _scheduled(shard: Shard, purge: Purge, most: int, now: Now) -> int:
    """Ends tasks that were scheduled before the purge; the timers end those that become due during the purge."""
    rows = _next_rows(shard, purge, keys.DUE, most)
    for key, value in rows:
        _, due_ms, home_lane, position = keys.split_time_key(key)
        home = shard.lane_named(key, purge.queue.number, home_lane)
        state = None
        if unpacked(keys.split_due_value, key, value)[2]:
            state = shard.state(home, position)
            if state is None:
                raise CorruptRows(key, "refers to a missing state row")
        if is_meant(purge, home, position, state):
            shard.due.remove(purge.queue, due_ms, home_lane, position)
            end_purged(shard, home, position, state or rows_pb2.StateRow(), now)
    return len(rows)


def _next_rows(shard: Shard, purge: Purge, table: bytes, most: int) -> list[tuple[bytes, bytes]]:
    """Returns the queue's next rows of a table, in their current state.

    All rows that existed when the purge began are written, because a purge starts work only after its own batch is
    written.
    """
    start, end = keys.queue_rows(table, purge.queue.number)
    line = purge.queue.timelines.get(table)
    start = purge.following[table] or start + (line.mark if line is not None else b"")
    stored = shard.stored.scan(start, end, most)
    purge.following[table] = stored[-1][0] + b"\0" if len(stored) == most else None
    return shard.current(stored)


def _is_asked(shard: Shard) -> bool:
    """Returns whether anybody needs the keys of tasks that end."""
    return bool(shard.watched) or shard.traces is not None
