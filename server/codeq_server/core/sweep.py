"""The sweep removes ended tasks after their retention, list by list of the tasks that ended in a batch.

It trusts rows, not lists: a state row must confirm that the listed end is the task's current one, as the task may have
been redriven. A completed task is never redriven. In a list of completed tasks it is therefore enough to check one row:
the sweep removes the tasks of a list in order, so if the first task is still there, all of them are.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Final

from codeq_internal.v1 import rows_pb2

from . import keys
from .artifacts import let_go
from .callbacks import forget_callbacks, is_pending
from .clock import Now
from .errors import CorruptRows
from .expiry import leave_expiry
from .model import Lane, Queue
from .names import forget
from .parsing import listed, parsed
from .shard import Shard

SWEEP_READS = 256
"""Cost of one slice, in rows read by key, roughly."""
SCAN_READS = 8
"""Cost of reading neighbours together: as much as this many rows read one by one."""
SCAN_MAX = 64
"""Maximum number of state rows read together: each may hold a large result."""
REMOVED_PER_READ: Final = 8
"""Number of tasks that can be removed without reading them at the cost of reading one row."""
LISTS_MAX = 8
"""Maximum number of lists of one slice."""
LATER_MS = 3_600_000
"""Time for which a task stays whose callback is still to be delivered, before the sweep looks again."""

_QUEUE: Final = itemgetter(0)


def sweep(shard: Shard, now: Now) -> bool:
    """Removes tasks whose retention has ended; returns whether more are due."""
    if shard.sweep_at is None or shard.sweep_blocked or shard.sweep_at > now.wall_ms:
        return False
    # Lists of a batch in flight are due no earlier than the batch was sealed. Older lists are written, so the mark can
    # pass them.
    limit = min(now.wall_ms, *shard.in_flight_wall_ms) if shard.in_flight_wall_ms else now.wall_ms
    left, ends = SWEEP_READS, []
    for count, (key, value) in enumerate(shard.stored.scan(*keys.ended_after(shard.sweep_mark), LISTS_MAX + 1)):
        until = keys.split_ended_key(key)[0]
        if until > limit or left <= 0 or count == LISTS_MAX:
            ends.append(until)
            break
        current = shard.current([(key, value)])  # a cleanup not yet written may have shortened or removed it
        ended = parsed(rows_pb2.EndedRow, key, current[0][1] if current else b"")
        if _all_completed(shard, key, ended):
            left -= _remove_all(shard, key, ended)
        else:
            later: list[tuple[int, int]] = []
            left -= _sweep_list(shard, key, ended, left, later)
            if later:
                _list_later(shard, key, ended, later, now)
            if left <= 0:
                return True
        shard.batch.rows[key] = None
        shard.sweep_mark = key[1:]
    if ends and ends[0] <= limit:
        shard.sweep_at = ends[0]
        return True
    ends += [batch.kept_until for batch in shard.in_flight if batch.kept_until is not None]
    shard.sweep_at = min(ends, default=None)
    shard.sweep_blocked = shard.sweep_at is not None and shard.sweep_at <= now.wall_ms
    return False


def _all_completed(shard: Shard, key: bytes, ended: rows_pb2.EndedRow) -> bool:
    """Returns whether every task of a list completed, is still there, and has no rows besides home and state."""
    if not (keys.split_ended_key(key)[2] & keys.ENDED_COMPLETED and ended.queues and ended.homes):
        return False
    for number in set(ended.queues):
        queue = shard.queues.get(number)
        if queue is None or queue.named or queue.filed or queue.expiring or queue.hooked:
            return False
    index, position = keys.unpack_home(ended.homes[0])
    state = shard.get(keys.place_key(keys.lane_prefix(keys.STATES, ended.queues[0], index), position))
    return state is not None and state.startswith(_head(ended.lsn))


def _remove_all(shard: Shard, key: bytes, ended: rows_pb2.EndedRow) -> int:
    """Removes every task of a list without reading any; returns the cost, in rows read one by one."""
    rows = shard.batch.rows
    for number, tasks in groupby(listed(key, ended.queues, ended.homes), _QUEUE):
        homes = [home for _, home in tasks]
        try:
            # Neighbours one after the other: the store inserts them faster.
            rows.update(dict.fromkeys(keys.home_keys(keys.STATES, number, homes)))
            rows.update(dict.fromkeys(keys.home_keys(keys.TASKS, number, homes)))
        except OverflowError:
            raise CorruptRows(key, "lists a home in a lane that no queue has") from None
        _count(shard, shard.queues[number], len(homes))
    return 1 + len(ended.homes) // REMOVED_PER_READ


def _sweep_list(shard: Shard, key: bytes, ended: rows_pb2.EndedRow, most: int, later: list[tuple[int, int]]) -> int:
    """Removes the next tasks of a list; returns the cost. If the cost is `most` or more, tasks may be left in the list.

    Progress is not stored: a removed task is no longer there to be removed again. A cleanup may shorten the list in the
    meantime, so the position is stored as the last task examined. Tasks that have to stay are added to `later`.
    """
    cost = 0
    list_key, *after = shard.swept
    for number, first, last in _pieces(key, ended):
        if list_key == key and [number, last] <= after:
            continue
        cost += _remove_run(shard, key, ended.lsn, number, first, last, later)
        if cost >= most:
            shard.swept = (key, number, last)
            break
    return cost


def _list_later(shard: Shard, key: bytes, ended: rows_pb2.EndedRow, later: list[tuple[int, int]], now: Now) -> None:
    """Moves tasks from a list to one that is due later, which is that of the same end."""
    until, moved = now.wall_ms + LATER_MS, set(later)
    left = [task for task in listed(key, ended.queues, ended.homes) if task not in moved]
    shard.batch.rows[key] = list_of(ended.lsn, left).SerializeToString()
    later_key = keys.ended_key(until, *keys.split_ended_key(key)[1:])
    there = shard.get(later_key)
    if there is not None:
        row = parsed(rows_pb2.EndedRow, later_key, there)
        later = sorted((*listed(later_key, row.queues, row.homes), *later))
    shard.batch.rows[later_key] = list_of(ended.lsn, later).SerializeToString()
    shard.batch.kept_until = min(until, shard.batch.kept_until or until)


def list_of(lsn: int, tasks: list[tuple[int, int]]) -> rows_pb2.EndedRow:
    """Returns the row that lists tasks, given as queue and home, which ended in one batch."""
    queues = [queue for queue, _ in tasks]
    same = len(set(queues)) == 1
    return rows_pb2.EndedRow(lsn=lsn, queues=queues[:1] if same else queues, homes=[home for _, home in tasks])


def remove_ended(shard: Shard, key: bytes, ended: rows_pb2.EndedRow) -> None:
    """Deletes every row of the listed tasks whose end, as listed, still holds; none has a callback to deliver.

    Args:
        shard: Shard that owns them.
        key: Key of the list.
        ended: Tasks of the list, few enough for one call.
    """
    for number, first, last in _pieces(key, ended):
        _remove_run(shard, key, ended.lsn, number, first, last, [])


def _remove_run(
    shard: Shard, list_key: bytes, lsn: int, number: int, home: int, last_home: int, later: list[tuple[int, int]]
) -> int:
    """Removes neighbours that ended in this batch, except those that it adds to `later`; returns the cost.

    The cost counts rows read one by one.
    """
    queue = shard.queues.get(number)
    if queue is None:
        return 1  # the queue's last task was in another list, and the queue was removed
    dead = bool(keys.split_ended_key(list_key)[2] & keys.ENDED_DEAD)
    index, first = keys.unpack_home(home)
    lane, last = shard.lane_named(list_key, number, index), keys.unpack_home(last_home)[1]
    head = _head(lsn)
    gone = [(key, value) for key, value in _states(shard, lane, first, last) if value.startswith(head)]
    cost = min(last - first + 1, SCAN_READS)
    if queue.hooked and gone:
        gone = _let_callbacks_go(shard, queue, gone, later)
        cost += 2 * (last - first + 1)
    if not gone:
        return cost
    named, filed, expiring = queue.named, queue.filed, queue.expiring
    for key, value in gone if named or filed or expiring or dead else ():
        cost += 2
        if filed:
            let_go(shard, queue, key, parsed(rows_pb2.StateRow, key, value))
        if named:
            forget(shard, lane, keys.home_key(key))
        if expiring:
            leave_expiry(shard, lane, keys.split_place_key(key)[2])
        if dead:
            ended_ms = parsed(rows_pb2.StateRow, key, value).changed_ms
            shard.batch.rows[keys.dead_key(number, ended_ms, *keys.split_place_key(key)[1:])] = None
    shard.batch.rows.update(dict.fromkeys([key for key, _ in gone]))
    shard.batch.rows.update(dict.fromkeys([keys.home_key(key) for key, _ in gone]))
    if dead:
        queue.dlq -= len(gone)
    _count(shard, queue, len(gone))
    return cost


def _let_callbacks_go(
    shard: Shard, queue: Queue, gone: list[tuple[bytes, bytes]], later: list[tuple[int, int]]
) -> list[tuple[bytes, bytes]]:
    """Deletes the callbacks of tasks; returns the tasks without those whose callbacks are to be delivered."""
    free = []
    for key, value in gone:
        state = parsed(rows_pb2.StateRow, key, value)
        if state.callbacks:
            if is_pending(shard, queue, state):
                later.append((queue.number, keys.pack_home(*keys.split_place_key(key)[1:])))
                continue
            forget_callbacks(shard, queue, state.callbacks)
            queue.hooked -= 1
        free.append((key, value))
    return free


def _count(shard: Shard, queue: Queue, removed: int) -> None:
    shard.totals.removed += removed
    stored = queue.created_total - queue.removed_total
    queue.removed_bytes += queue.stored_bytes * removed // max(stored, removed)
    queue.removed_total += removed
    shard.touch(queue)


def _head(lsn: int) -> bytes:
    """Returns the first bytes of the state row of a task that ended in this batch."""
    return rows_pb2.StateRow(ended_lsn=lsn).SerializeToString()


def _states(shard: Shard, lane: Lane, first: int, last: int) -> list[tuple[bytes, bytes]]:
    """Returns the state rows of neighbours: long runs in one scan, short runs by key, which is cheaper."""
    count = last - first + 1
    if count > SCAN_READS:
        start, end = keys.place_key(lane.state_prefix, first), keys.place_key(lane.state_prefix, last + 1)
        return shard.current(shard.stored.scan(start, end, count))
    found = [keys.place_key(lane.state_prefix, position) for position in range(first, last + 1)]
    return [(key, value) for key in found if (value := shard.get(key)) is not None]


def _pieces(key: bytes, ended: rows_pb2.EndedRow) -> Iterator[tuple[int, int, int]]:
    """Yields the runs of a list; a long run is split into pieces that are each read together."""
    for number, first, last in _runs(key, ended):
        for piece in range(first, last + 1, SCAN_MAX):
            yield number, piece, min(piece + SCAN_MAX - 1, last)


def _runs(key: bytes, ended: rows_pb2.EndedRow) -> Iterator[tuple[int, int, int]]:
    """Yields queue, first and last home of each run of neighbours in a list, whose homes are in order."""
    homes = ended.homes
    if len(ended.queues) == 1 and homes and homes[-1] - homes[0] == len(homes) - 1:
        yield ended.queues[0], homes[0], homes[-1]  # the whole list: the usual case
        return
    first: tuple[int, int] | None = None
    previous = (0, 0)
    for number, home in listed(key, ended.queues, homes):
        if first is not None and (number, home - 1) != previous:
            yield (*first, previous[1])
            first = None
        first = first or (number, home)
        previous = (number, home)
    if first is not None:
        yield (*first, previous[1])
