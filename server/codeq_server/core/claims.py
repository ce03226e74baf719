"""Handing out tasks under leases."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final, NamedTuple

from codeq_internal.v1 import rows_pb2

from . import keys
from .clock import Now
from .errors import CorruptRows
from .model import WINDOW_ENTRY_BYTES, Caller, Claim, Delivery, Entry, Lane, Queue
from .shard import Shard

CLAIM_MAX: Final = 256
"""Deliveries of one claim, and places read at a time."""

RETURNED_PLACE: Final = 1 << 56


class Delivered(NamedTuple):
    """A task handed out.

    Attributes:
        task_id: Its id.
        raw: Its task bytes.
        attempts: Deliveries so far, this one included.
    """

    task_id: str
    raw: bytes
    attempts: int


class _Taken(NamedTuple):
    task_id: str
    raw: bytes
    home: Lane
    position: int
    place: int
    attempts: int


def claim(
    shard: Shard,
    caller: Caller,
    commands: Sequence[str] | None,
    count: int,
    bytes_max: int,
    lease_ms: int,
    now: Now,
) -> tuple[Claim, list[Delivered]] | None:
    """Leases up to `count` tasks to a worker: highest priority first, then round robin over commands, then FIFO.

    Args:
        shard: Shard that owns the queues.
        caller: Worker that takes them.
        commands: Commands to take; None: all of the tenant.
        count: Tasks wanted; at most CLAIM_MAX are given.
        bytes_max: Task bytes wanted; the first task is given whatever its size.
        lease_ms: Length of the leases.
        now: Time of the claim.

    Returns:
        The claim and its deliveries, or None when nothing waits.
    """
    ready = shard.ready.get(caller.tenant)
    if ready is None:
        return None
    shard.turn += 1
    taken: list[_Taken] = []
    left = min(count, CLAIM_MAX)
    for index, queues in enumerate(ready):
        while queues and left and bytes_max > 0:
            candidates = _candidates(shard, caller.tenant, commands, queues)
            if not candidates:
                break
            share = -(-left // len(candidates))
            before = left
            for queue in candidates:
                got, bytes_max = _take(shard, queue.lane(index), min(share, left), bytes_max, taken)
                left -= got
                if not left or bytes_max <= 0:
                    break
            if left == before:
                raise CorruptRows(candidates[0].key, "counts ready tasks that no row holds")
    return _lease(shard, taken, caller, lease_ms, now) if taken else None


def _candidates(shard: Shard, tenant: str, commands: Sequence[str] | None, queues: dict[Queue, None]) -> list[Queue]:
    if len(queues) == 1 and commands is None:
        return list(queues)
    if commands is None:
        found = list(queues)
    else:
        by_name = shard.by_name
        found = [queue for c in commands if (queue := by_name.get((tenant, c))) is not None and queue in queues]
    if len(found) > 1:
        start = shard.turn % len(found)
        return found[start:] + found[:start]
    return found


def _take(shard: Shard, lane: Lane, count: int, bytes_max: int, taken: list[_Taken]) -> tuple[int, int]:
    """Takes up to `count` tasks of a lane; returns how many, and what is left of the bytes."""
    got = 0
    while got < count and lane.returned and bytes_max > 0:
        task = _take_returned(shard, lane)
        taken.append(task)
        bytes_max -= len(task.raw)
        got += 1
    window = lane.window
    while got < count and bytes_max > 0:
        if not window:
            if lane.mark == lane.tail or not load(shard, lane):
                break
            continue
        entry = window.popleft()
        lane.mark = entry.position
        size = len(entry.raw) + WINDOW_ENTRY_BYTES
        lane.window_bytes -= size
        shard.windows_bytes -= size
        if entry.target is None:
            task = _Taken(entry.task_id, entry.raw, lane, entry.position, 0, 0)
        else:
            task = _follow(shard, lane, entry.position, entry.target)
            shard.batch.rows[keys.place_key(lane.task_prefix, entry.position)] = None
        taken.append(task)
        bytes_max -= len(task.raw)
        got += 1
    lane.ready -= got
    if not lane.ready:
        del shard.ready[lane.queue.tenant][lane.index][lane.queue]
        lane.mark = lane.loaded = lane.tail
        shard.loaded_lanes.pop(lane, None)
    return got, bytes_max


def _take_returned(shard: Shard, lane: Lane) -> _Taken:
    position, home_lane, home_position, attempts = heapq.heappop(lane.returned)
    shard.batch.rows[b"u" + keys.place_key(lane.task_prefix, position)[1:]] = None
    if (home_lane, home_position) == (lane.index, position):
        return _follow(shard, lane, 0, (home_lane, home_position, attempts))
    return _follow(shard, lane, position, (home_lane, home_position, attempts))


def _follow(shard: Shard, lane: Lane, position: int, target: tuple[int, int, int]) -> _Taken:
    """Returns the task a pointer at `position` of a lane leads to; position 0 means the task's home place."""
    home_index, home_position, attempts = target
    home = lane.queue.lane(home_index)
    key = keys.place_key(home.task_prefix, home_position)
    value = shard.get(key)
    if value is None:
        raise CorruptRows(key, "a pointer leads to no home")
    task_id = home.id_of(home_position, keys.home_epoch(value))
    place = RETURNED_PLACE | lane.index << 48 | position if position else 0
    return _Taken(task_id, keys.task_bytes(value), home, home_position, place, attempts)


def load(shard: Shard, lane: Lane) -> bool:
    """Reads the next places of a lane into its window; returns whether there may be more to read or to take."""
    while lane.loaded < lane.tail:
        first, last = lane.loaded + 1, min(lane.loaded + CLAIM_MAX, lane.tail)
        for position, value in shard.places(lane, first, last):
            if value[:1] == keys.POINTER:
                entry = Entry(position, "", b"", keys.split_pointer(value))
            else:
                raw = keys.task_bytes(value)
                entry = Entry(position, lane.id_of(position, keys.home_epoch(value)), raw, None)
            lane.window.append(entry)
            shard.charge_window(lane, len(entry.raw))
        lane.loaded = last
        if lane.window:
            if shard.windows_bytes > shard.settings.window_bytes_max:
                shard.forget_windows(lane)
            return True
        lane.mark = last
    return False


def _lease(shard: Shard, taken: list[_Taken], caller: Caller, lease_ms: int, now: Now) -> tuple[Claim, list[Delivered]]:
    claim = Claim(shard.next_token(), caller.worker, caller.subject, lease_ms, now.wall_ms, now.mono_ms + lease_ms)
    deliveries = shard.deliveries
    out = []
    for task_id, raw, home, position, place, attempts in taken:
        deliveries[task_id] = Delivery(claim, home, position, place, attempts)
        home.queue.claimed += 1
        out.append(Delivered(task_id, raw, attempts + 1))
        if not home.queue.touched:
            shard.touch(home.queue)
    claim.task_ids = [task.task_id for task in taken]
    claim.live = len(taken)
    shard.claims[claim.token] = claim
    shard.claim_order.append(claim.token)
    heapq.heappush(shard.lease_ends, (claim.until, claim.token))
    shard.batch.rows[keys.lease_key(claim.token)] = lease_row(claim, taken)
    shard.totals.claimed += len(taken)
    return claim, out


def lease_row(claim: Claim, slots: Sequence[_Taken] | Sequence[Delivery]) -> bytes:
    """Returns the lease row of a claim that lists these deliveries."""
    queues = [slot.home.queue.number for slot in slots]
    row = rows_pb2.LeaseRow(
        worker=claim.worker,
        subject="" if claim.subject == claim.worker else claim.subject,
        lease_ms=claim.lease_ms,
        claimed_ms=claim.claimed_ms,
        queues=queues[:1] if len(set(queues)) == 1 else queues,
        homes=[slot.home.index << 48 | slot.position for slot in slots],
    )
    if any(slot.place for slot in slots):
        row.places.extend([slot.place for slot in slots])
    if any(slot.attempts for slot in slots):
        row.attempts.extend([slot.attempts for slot in slots])
    return row.SerializeToString()
