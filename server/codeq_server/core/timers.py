"""Time-driven work: leases expire, scheduled tasks fall due, ended tasks are removed after their retention.

`SOURCES` lists everything that falls due. Each source processes a bounded slice and is called again at once while there
is more; otherwise `next_wake` says when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Protocol

from codeq_internal.v1 import rows_pb2

from . import keys, purging
from .alarms import NEVER
from .artifacts import let_go
from .clock import Now
from .errors import CorruptRows
from .expiry import expire_entry, leave_expiry
from .idle import retire
from .model import Lane, Queue
from .names import forget
from .outcomes import enqueue, expire
from .parsing import listed, parsed, unpacked
from .shard import Shard, Totals

SLICE: Final = 512
"""Tasks of each kind processed per call, roughly."""
TURN: Final = 32
"""Tasks processed for one tenant before the next tenant's turn."""
TURN_COST: Final = 8
"""Minimum cost of a turn, in tasks: it may read rows and find nothing due."""
SWEEP_READS: Final = 256
"""Rows that one slice of the sweep reads by key, roughly; neighbours are read together and count less."""
SCAN_READS: Final = 8
"""Cost of reading a run of neighbours: as much as this many rows read one by one."""


def run_due(shard: Shard, now: Now) -> bool:
    """Processes one slice of everything that is due; returns whether more is due already."""
    more = False
    for source in SOURCES:
        more |= source.work(shard, now)
    return more


def next_wake(shard: Shard, now: Now) -> int | None:
    """Returns the milliseconds until something may fall due; None: nothing will."""
    wait = min(source.alarm(shard).first_ms - now[source.clock] for source in SOURCES)
    return max(0, wait) if wait < NEVER // 2 else None


def worked(shard: Shard) -> int:
    """Returns the tasks processed so far by everything that falls due, with all that were cancelled by others."""
    totals = shard.totals
    return sum(source.done(totals) for source in SOURCES)


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


def sweep(shard: Shard, now: Now) -> bool:
    """Removes tasks whose retention has ended; returns whether more are due."""
    if shard.sweep_at is None or shard.sweep_blocked or shard.sweep_at > now.wall_ms:
        return False
    # Lists of a batch in flight are due no earlier than its sealing; older ones are written, so the mark can pass them.
    limit = min(now.wall_ms, *shard.in_flight_wall_ms) if shard.in_flight_wall_ms else now.wall_ms
    rows = shard.stored.scan(b"r" + shard.sweep_mark + b"\0", b"s", 2)
    if rows and keys.split_ended_key(rows[0][0])[0] <= limit:
        key, value = rows.pop(0)
        if not _sweep_list(shard, key, parsed(rows_pb2.EndedRow, key, value)):
            return True
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


def _sweep_list(shard: Shard, key: bytes, ended: rows_pb2.EndedRow) -> bool:
    """Removes the next tasks of a list, as many as a slice allows; returns whether the list is finished.

    Progress is not stored: a removed task is no longer there to be removed again. A cleanup may shorten the list
    meanwhile, so the position is kept as the last task examined.
    """
    left = SWEEP_READS
    list_key, *after = shard.swept
    for number, first, last in _runs(key, ended):
        if list_key == key and [number, last] <= after:
            continue
        left -= _remove_run(shard, key, ended.lsn, number, first, last)
        if left <= 0:
            shard.swept = (key, number, last)
            return False
    return True


def remove_ended(shard: Shard, key: bytes, ended: rows_pb2.EndedRow) -> None:
    """Deletes every row of the listed tasks whose end, as listed, still holds.

    Args:
        shard: Shard that owns them.
        key: Key of the list.
        ended: Tasks of the list, few enough for one call.
    """
    for number, first, last in _runs(key, ended):
        _remove_run(shard, key, ended.lsn, number, first, last)


def _remove_run(shard: Shard, list_key: bytes, lsn: int, number: int, home: int, last_home: int) -> int:
    """Removes neighbours that ended in this batch; returns the cost, in rows read one by one."""
    queue = shard.queues.get(number)
    if queue is None:
        return 1  # another list had its last task, and the queue has left
    dead = bool(keys.split_ended_key(list_key)[2] & 1)
    index, first = keys.unpack_home(home)
    lane, last = shard.lane_named(list_key, number, index), keys.unpack_home(last_home)[1]
    head = rows_pb2.StateRow(ended_lsn=lsn).SerializeToString()
    gone = [(key, value) for key, value in _states(shard, lane, first, last) if value.startswith(head)]
    cost = min(last - first + 1, SCAN_READS)
    if not gone:
        return cost
    named, filed, expiring = queue.named, queue.filed, queue.expiring
    for key, value in gone if named or filed or expiring or dead else ():
        cost += 2
        if filed:
            let_go(shard, queue, key, parsed(rows_pb2.StateRow, key, value))
        if named:
            forget(shard, lane, b"t" + key[1:])
        if expiring:
            leave_expiry(shard, lane, keys.split_place_key(key)[2])
        if dead:
            ended_ms = parsed(rows_pb2.StateRow, key, value).changed_ms
            shard.batch.rows[keys.dead_key(number, ended_ms, *keys.split_place_key(key)[1:])] = None
    # Neighbours one after the other: the store inserts them faster.
    shard.batch.rows.update(dict.fromkeys([key for key, _ in gone]))
    shard.batch.rows.update(dict.fromkeys([b"t" + key[1:] for key, _ in gone]))
    shard.totals.removed += len(gone)
    queue.removed_total += len(gone)
    if dead:
        queue.dlq -= len(gone)
    shard.touch(queue)
    return cost


def _states(shard: Shard, lane: Lane, first: int, last: int) -> list[tuple[bytes, bytes]]:
    """Returns the state rows of neighbours: a long run in one scan, a short one by key, which is cheaper."""
    count = last - first + 1
    if count > SCAN_READS:
        start, end = keys.place_key(lane.state_prefix, first), keys.place_key(lane.state_prefix, last + 1)
        return shard.current(shard.stored.scan(start, end, count))
    found = [keys.place_key(lane.state_prefix, position) for position in range(first, last + 1)]
    return [(key, value) for key in found if (value := shard.get(key)) is not None]


def _runs(key: bytes, ended: rows_pb2.EndedRow) -> Iterator[tuple[int, int, int]]:
    """Yields queue, first and last home of each run of neighbours in a list, whose homes are in order."""
    homes = ended.homes
    if len(ended.queues) == 1 and homes and homes[-1] - homes[0] == len(homes) - 1:
        yield ended.queues[0], homes[0], homes[-1]  # the whole list, as is usual
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


class _SweepAlarm:
    """When the next list of ended tasks may be due and written."""

    __slots__ = ("_shard",)

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    @property
    def first_ms(self) -> int:
        shard = self._shard
        return NEVER if shard.sweep_at is None or shard.sweep_blocked else shard.sweep_at


class Alarm(Protocol):
    """When a source of work may next be due: early, perhaps, but never late; NEVER: nothing will be."""

    @property
    def first_ms(self) -> int:
        """The time, on the source's clock."""
        ...


class Timed(NamedTuple):
    """A source of work that falls due.

    Attributes:
        alarm: Returns its alarm on a shard, which stays valid as long as the shard.
        clock: Clock of the alarm: _WALL or _MONO.
        work: Processes a bounded slice of what is due; returns whether more is due already.
        done: Returns the tasks that it has processed so far; 0 if it processes none.
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
)
"""Everything that falls due, in the order in which it is processed."""


class Watch:
    """The alarms of a shard, looked at after every decision."""

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
