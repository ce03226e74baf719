"""What happens by itself: leases run out, scheduled tasks fall due, ended tasks are removed after their retention.

Every function works a bounded slice and is called again at once while there is more; `next_wake` says when otherwise.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import repeat
from typing import Final

from codeq_internal.v1 import rows_pb2

from . import keys
from .clock import Now
from .errors import CorruptRows
from .model import Lane
from .names import forget
from .outcomes import enqueue, expire
from .parsing import parsed
from .shard import Shard

SLICE: Final = 512
"""Tasks that one call works, roughly."""
DUE_PAGE: Final = 1024
"""Rows of the due index read at a time."""


def run_due(shard: Shard, now: Now) -> bool:
    """Works one slice of everything that is due; returns whether more is due already."""
    more = expire_leases(shard, now)
    more |= mature(shard, now)
    more |= sweep(shard, now)
    return more


def next_wake(shard: Shard, now: Now) -> int | None:
    """Returns in how many milliseconds something falls due; None: nothing will."""
    waits = []
    if shard.lease_ends:
        waits.append(shard.lease_ends[0][0] - now.mono_ms)
    if shard.due:
        waits.append(shard.due[0][0] - now.wall_ms)
    if shard.sweep_at is not None and not shard.sweep_blocked:
        waits.append(shard.sweep_at - now.wall_ms)
    return max(0, min(waits)) if waits else None


def expire_leases(shard: Shard, now: Now) -> bool:
    """Ends leases that ran out; returns whether more have."""
    done = 0
    while shard.lease_ends and shard.lease_ends[0][0] <= now.mono_ms:
        if done >= SLICE:
            return True
        _, token = heapq.heappop(shard.lease_ends)
        claim = shard.claims.get(token)
        if claim is None:
            continue
        latest = None
        for task_id in list(claim.task_ids):
            delivery = shard.deliveries.get(task_id)
            if delivery is None or delivery.claim is not claim:
                continue
            until = claim.until_of(task_id)
            if until <= now.mono_ms:
                expire(shard, delivery, task_id, now)
                done += 1
            elif latest is None or until < latest:
                latest = until
        if latest is not None:
            heapq.heappush(shard.lease_ends, (latest, token))
    return False


def mature(shard: Shard, now: Now) -> bool:
    """Queues scheduled tasks whose time has come; returns whether more have."""
    for _ in range(SLICE):
        if not shard.due and not load_due(shard):
            return False
        if shard.due[0][0] > now.wall_ms:
            return False
        due_ms, number, index, position = entry = heapq.heappop(shard.due)
        if shard.due_gone and entry in shard.due_gone:
            shard.due_gone.remove(entry)
            continue
        key = keys.due_key(due_ms, number, index, position)
        value = _due_row(shard, key)
        if value is None:
            raise CorruptRows(key, "the due index lost a row that is in memory")
        lane_index, _, has_state = keys.split_due_value(value)
        queue = shard.queues[number]
        home = queue.lane(index)
        state = (shard.state(home, position) if has_state else None) or rows_pb2.StateRow()
        shard.batch.due[key] = None
        shard.due_mark = max(shard.due_mark, key[1:])
        state.changed_ms = now.wall_ms
        enqueue(shard, queue.lane(lane_index), home, position, state)
        shard.put_state(home, position, state)
        queue.scheduled -= 1
        shard.totals.matured += 1
    return (bool(shard.due) or load_due(shard)) and shard.due[0][0] <= now.wall_ms


def _due_row(shard: Shard, key: bytes) -> bytes | None:
    for batch in (shard.batch, *reversed(shard.in_flight)):
        if key in batch.due:
            return batch.due[key]
    return shard.stored.get(key)


def load_due(shard: Shard) -> bool:
    """Reads the next rows of the due index into memory; returns whether there are any."""
    while shard.due_loaded is not None:
        start, end = shard.due_loaded + b"\0", b"e"
        rows: dict[bytes, bytes | None] = dict(shard.stored.scan(start, end, DUE_PAGE))
        complete = len(rows) < DUE_PAGE
        last = end if complete else max(rows)
        for batch in (*shard.in_flight, shard.batch):
            rows.update((key, value) for key, value in batch.due.items() if start <= key <= last)
        shard.due_gone.clear()
        shard.due = sorted(keys.split_due_key(key) for key, value in rows.items() if value is not None)
        shard.due_loaded = None if complete else last
        if shard.due:
            return True
    return False


def sweep(shard: Shard, now: Now) -> bool:
    """Removes tasks whose retention is over; returns whether more are due."""
    if shard.sweep_at is None or shard.sweep_blocked or shard.sweep_at > now.wall_ms:
        return False
    # Lists of a batch in flight end no earlier than its sealing: what is older is written, so the mark can pass it.
    limit = min(now.wall_ms, *shard.in_flight_wall_ms) if shard.in_flight_wall_ms else now.wall_ms
    rows = shard.stored.scan(b"r" + shard.sweep_mark + b"\0", b"s", 2)
    if rows and keys.split_ended_key(rows[0][0])[0] <= limit:
        key, value = rows.pop(0)
        remove_ended(shard, parsed(rows_pb2.EndedRow, key, value), dead=bool(keys.split_ended_key(key)[2] & 1))
        shard.batch.rows[key] = None
        shard.sweep_mark = key[1:]
    ends = [keys.split_ended_key(key)[0] for key, _ in rows[:1]]
    if ends and ends[0] <= limit:
        shard.sweep_at = ends[0]
        return True
    ends += [batch.kept_until for batch in shard.in_flight if batch.kept_until is not None]
    shard.sweep_at = min(ends, default=None)
    shard.sweep_blocked = shard.sweep_at is not None and shard.sweep_at <= now.wall_ms
    return False


def remove_ended(shard: Shard, ended: rows_pb2.EndedRow, *, dead: bool) -> None:
    """Deletes every row of the listed tasks that are still what they were when they ended."""
    rows = shard.batch.rows
    head = rows_pb2.StateRow(ended_lsn=ended.lsn).SerializeToString()
    for lane, first, last in _runs(shard, ended):
        start, end = keys.place_key(lane.state_prefix, first), keys.place_key(lane.state_prefix, last + 1)
        states = shard.current(shard.stored.scan(start, end, last - first + 1))
        gone = [(key, value) for key, value in states if value.startswith(head)]
        named = lane.queue.named
        for key, value in gone:
            rows[key] = None
            home_key = b"t" + key[1:]
            if named:
                forget(shard, lane, home_key)
            rows[home_key] = None
            if dead:
                ended_ms = parsed(rows_pb2.StateRow, key, value).changed_ms
                rows[keys.dead_key(lane.queue.number, ended_ms, *keys.split_place_key(key)[1:])] = None
        shard.totals.removed += len(gone)
        if dead and gone:
            lane.queue.dlq -= len(gone)
            shard.touch(lane.queue)


def _runs(shard: Shard, ended: rows_pb2.EndedRow) -> Iterator[tuple[Lane, int, int]]:
    """Yields lane, first and last position of each run of neighbours in a list, whose homes are in order."""
    homes = ended.homes
    numbers = ended.queues if len(ended.queues) > 1 else repeat(ended.queues[0], len(homes))
    first: tuple[int, int] | None = None
    previous = (0, 0)
    for number, home in zip(numbers, homes, strict=True):
        if first is not None and (number, home - 1) != previous:
            yield _run(shard, first, previous)
            first = None
        first = first or (number, home)
        previous = (number, home)
    if first is not None:
        yield _run(shard, first, previous)


def _run(shard: Shard, first: tuple[int, int], last: tuple[int, int]) -> tuple[Lane, int, int]:
    lane, position = keys.unpack_home(first[1])
    return shard.queues[first[0]].lane(lane), position, keys.unpack_home(last[1])[1]
