"""Time-driven work: expires leases, enqueues scheduled tasks when due, removes what has been kept long enough.

`SOURCES` lists everything that falls due. Each source processes a bounded slice, and is called again at once while more
work is due; otherwise `next_wake` says when.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from codeq_internal.v1 import rows_pb2

from . import audit, keys, purging
from .alarms import NEVER
from .clock import Now
from .errors import CorruptRows
from .expiry import expire_entry
from .firing import FIRE_COST, fire_due
from .idle import retire
from .model import Queue
from .outcomes import enqueue, expire
from .parsing import unpacked
from .policy import STEPS_PER_COST
from .shard import Shard
from .sifting import sift
from .subscriptions import expire_subscriptions
from .sweep import sweep
from .totals import Totals

SLICE = 512
"""Tasks of each kind processed per call, roughly."""
TURN = 32
"""Tasks processed for one tenant before the next tenant's turn."""
TURN_COST: Final = 8
"""Minimum cost of a turn, in tasks, because a turn may read rows and find nothing due."""


def run_due(shard: Shard, now: Now) -> bool:
    """Processes one slice of everything that is due; returns whether more is already due."""
    more = False
    for source in SOURCES:
        more |= source.work(shard, now)
    return more


def next_wake(shard: Shard, now: Now) -> int | None:
    """Returns the milliseconds until something may become due; None: nothing will."""
    wait = min(source.alarm(shard).first_ms - now[source.clock] for source in SOURCES)
    return max(0, wait) if wait < NEVER // 2 else None


def worked(shard: Shard) -> int:
    """Returns the cost, in tasks, of all due work, tasks cancelled by callers and checks of payloads so far."""
    totals = shard.totals
    return sum(source.done(totals) for source in SOURCES) + shard.policies.checker.steps // STEPS_PER_COST


def expire_leases(shard: Shard, now: Now) -> bool:
    """Ends leases that expired, tenant by tenant; returns whether there are more to end."""
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
    """Ends a claim's expired leases and returns their number; lists the claim again if other leases last longer."""
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
    """Enqueues scheduled tasks that are due, tenant by tenant; returns whether there are more to enqueue."""
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
        raise CorruptRows(key, "refers to a missing state row")
    purge = queue.purge
    if purge is not None and purging.is_meant(purge, home, position, state if has_state else None):
        purging.end_purged(shard, home, position, state, now)
        return
    state.changed_ms = now.wall_ms
    enqueue(shard, queue.lane(lane), home, position, state)
    shard.put_state(home, position, state)


def expire_tasks(shard: Shard, now: Now) -> bool:
    """Ends tasks that waited too long, tenant by tenant; returns whether there are more to end."""
    left = SLICE
    while left > 0 and (due := shard.expiry.take(now.wall_ms, min(left, TURN))) is not None:
        queue, entries = due
        for entry in entries:
            expire_entry(shard, queue, entry, now)
        left -= max(len(entries), TURN_COST)
    return shard.expiry.alarms.first_ms <= now.wall_ms


class _SweepAlarm:
    """Time at which the next list of ended tasks may be due and written."""

    __slots__ = ("_shard",)

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    @property
    def first_ms(self) -> int:
        shard = self._shard
        return NEVER if shard.sweep_at is None or shard.sweep_blocked else shard.sweep_at


class Alarm(Protocol):
    """Time at which a source may next be due: possibly too early, but never late; NEVER: nothing will become due."""

    @property
    def first_ms(self) -> int:
        """The time, on the source's clock."""
        ...


class Timed(NamedTuple):
    """A source of work that falls due.

    Attributes:
        alarm: Returns the source's alarm on a shard; the alarm stays valid as long as the shard exists.
        clock: Clock of the alarm: _WALL or _MONO.
        work: Processes a bounded slice of the due work; returns whether more is already due.
        done: Returns the cost of what the source has processed so far, in tasks; 0 if it processes none.
    """

    alarm: Callable[[Shard], Alarm]
    clock: int
    work: Callable[[Shard, Now], bool]
    done: Callable[[Totals], int]


_WALL: Final = Now._fields.index("wall_ms")
_MONO: Final = Now._fields.index("mono_ms")

SOURCES: Final = (
    Timed(lambda shard: shard.lease_ends.alarms, _MONO, expire_leases, lambda totals: totals.expired),
    Timed(lambda shard: shard.due.alarms, _WALL, mature, lambda totals: totals.matured),
    Timed(lambda shard: shard.expiry.alarms, _WALL, expire_tasks, lambda totals: totals.outdated),
    Timed(_SweepAlarm, _WALL, sweep, lambda totals: totals.removed),
    Timed(lambda shard: shard.directory.idle, _MONO, retire, lambda _: 0),
    Timed(lambda shard: shard.purges, _WALL, purging.work, lambda totals: totals.cancelled),
    Timed(lambda shard: shard.gates_due, _MONO, sift, lambda totals: totals.sifted),
    Timed(lambda shard: shard.audit, _WALL, audit.work, lambda _: 0),
    Timed(lambda shard: shard.schedules.alarms, _WALL, fire_due, lambda totals: totals.fired * FIRE_COST),
    Timed(lambda shard: shard.subscriptions.ends, _WALL, expire_subscriptions, lambda _: 0),
)
"""Everything that falls due, in the order in which it is processed."""


class Watch:
    """The alarms of a shard, checked after every decision."""

    __slots__ = ("_mono", "_wall")

    def __init__(self, shard: Shard) -> None:
        self._mono = [source.alarm(shard) for source in SOURCES if source.clock == _MONO]
        self._wall = [source.alarm(shard) for source in SOURCES if source.clock == _WALL]

    def is_quiet(self, until: Now) -> bool:
        """Returns whether nothing falls due before `until` on either clock."""
        wall_ms, mono_ms = until
        for alarm in self._mono:
            if alarm.first_ms < mono_ms:
                return False
        for alarm in self._wall:  # noqa: SIM110 - a generator costs more than the loop
            if alarm.first_ms < wall_ms:
                return False
        return True
