"""Time-driven work: leases expire, scheduled tasks fall due, ended tasks are removed after their retention.

Every function processes a bounded slice and is called again at once while there is more; otherwise `next_wake` says
when.
"""

from __future__ import annotations

from typing import Final

from codeq_internal.v1 import rows_pb2

from . import keys, purging
from .alarms import NEVER
from .clock import Now
from .errors import CorruptRows
from .expiry import expire_entry
from .idle import retire
from .model import Queue
from .outcomes import enqueue, expire
from .parsing import unpacked
from .shard import Shard
from .sweep import sweep

SLICE: Final = 512
"""Tasks of each kind processed per call, roughly."""
TURN: Final = 32
"""Tasks processed for one tenant before the next tenant's turn."""
TURN_COST: Final = 8
"""Minimum cost of a turn, in tasks: it may read rows and find nothing due."""


def run_due(shard: Shard, now: Now) -> bool:
    """Processes one slice of everything that is due; returns whether more is due already."""
    more = expire_leases(shard, now)
    more |= mature(shard, now)
    more |= expire_tasks(shard, now)
    more |= sweep(shard, now)
    more |= retire(shard, now)
    more |= purging.work(shard, now)
    return more


def next_wake(shard: Shard, now: Now) -> int | None:
    """Returns the milliseconds until something may fall due; None: nothing will."""
    wait = shard.lease_ends.alarms.first_ms - now.mono_ms
    wait = min(wait, shard.due.alarms.first_ms - now.wall_ms, shard.purges.first_ms - now.wall_ms)
    wait = min(wait, shard.expiry.alarms.first_ms - now.wall_ms)
    if shard.sweep_at is not None and not shard.sweep_blocked:
        wait = min(wait, shard.sweep_at - now.wall_ms)
    wait = min(wait, shard.directory.retire_at - now.mono_ms)
    return max(0, wait) if wait < NEVER // 2 else None


def is_quiet(shard: Shard, until: Now) -> bool:
    """Returns whether nothing falls due before `until` on either clock."""
    sweep_at = shard.sweep_at
    return (
        shard.lease_ends.alarms.first_ms >= until.mono_ms
        and shard.directory.retire_at >= until.mono_ms
        and shard.due.alarms.first_ms >= until.wall_ms
        and shard.purges.first_ms >= until.wall_ms
        and shard.expiry.alarms.first_ms >= until.wall_ms
        and (sweep_at is None or sweep_at >= until.wall_ms)
    )


def expire_leases(shard: Shard, now: Now) -> bool:
    """Ends leases that expired, tenant by tenant; returns whether there are more."""
    left, lease_ends = SLICE, shard.lease_ends
    while left > 0 and (ends := lease_ends.turn(now.mono_ms)) is not None:
        turn = min(left, TURN)
        while turn > 0 and ends.heap and ends.heap[0][0] <= now.mono_ms:
            done = _expire(shard, lease_ends.pop(ends), now)
            turn -= done + 1
            left -= done + 1
        lease_ends.rest(ends, now.mono_ms)
    return lease_ends.alarms.first_ms <= now.mono_ms


def _expire(shard: Shard, token: int, now: Now) -> int:
    """Ends the expired leases of a claim, and lists it again if it has longer ones; returns how many it ended."""
    claim = shard.claims.get(token)
    if claim is None:
        return 0
    done, latest, tenant = 0, None, ""
    for task_id in list(claim.task_ids):
        delivery = shard.deliveries.get(task_id)
        if delivery is None or delivery.claim is not claim:
            continue
        until = claim.until_of(task_id)
        if until <= now.mono_ms:
            expire(shard, delivery, task_id, now)
            done += 1
        elif latest is None or until < latest:
            latest, tenant = until, delivery.home.queue.tenant
    if latest is not None:
        shard.lease_ends.add(tenant, latest, token)
    return done


def mature(shard: Shard, now: Now) -> bool:
    """Enqueues scheduled tasks that are due, tenant by tenant; returns whether there are more."""
    left = SLICE
    while left > 0 and (due := shard.due.take(now.wall_ms, min(left, TURN))) is not None:
        queue, entries = due
        for entry in entries:
            _mature(shard, queue, entry, now)
        shard.totals.matured += len(entries)
        left -= max(len(entries), TURN_COST)
    return shard.due.alarms.first_ms <= now.wall_ms


def _mature(shard: Shard, queue: Queue, entry: bytes, now: Now) -> None:
    _, _, home_lane, position = keys.split_time_key(entry)
    key = entry[: keys.TIME_KEY_BYTES]
    lane, _, has_state = unpacked(keys.split_due_value, key, entry[keys.TIME_KEY_BYTES :])
    home = shard.lane_named(key, queue.number, home_lane)
    state = shard.state(home, position) if has_state else rows_pb2.StateRow()
    if state is None:
        raise CorruptRows(key, "tells of a state row that is missing")
    purge = queue.purge
    if purge is not None and purging.is_meant(purge, home, position, state if has_state else None):
        purging.end_purged(shard, home, position, state, now)
        return
    state.changed_ms = now.wall_ms
    enqueue(shard, queue.lane(lane), home, position, state)
    shard.put_state(home, position, state)


def expire_tasks(shard: Shard, now: Now) -> bool:
    """Ends tasks that waited too long, tenant by tenant; returns whether there are more."""
    left = SLICE
    while left > 0 and (due := shard.expiry.take(now.wall_ms, min(left, TURN))) is not None:
        queue, entries = due
        for entry in entries:
            expire_entry(shard, queue, entry, now)
        left -= max(len(entries), TURN_COST)
    return shard.expiry.alarms.first_ms <= now.wall_ms
