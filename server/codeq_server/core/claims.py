"""Hands out tasks under leases."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from . import keys
from .clock import Now
from .deliveries import MOVED_PLACE, Claim, Delivery
from .errors import CorruptRows
from .key_rings import KeyRing
from .lease_rows import lease_row
from .metering import note_again, note_taken
from .model import WINDOW_ENTRY_BYTES, Caller, Lane, Queue, TaskKey
from .parsing import UNREADABLE, unreadable
from .quotas import lease_room
from .shard import Shard
from .sifting import Budget, admit
from .windows import PAGE_MAX, emptied, load, prune

CLAIM_MAX = 256
"""Maximum number of deliveries of one claim."""

_new = tuple.__new__


class Delivered(NamedTuple):
    """A task handed out.

    Attributes:
        task_id: Key of the task.
        raw: Task bytes.
        attempts: Deliveries so far, including this one.
    """

    task_id: TaskKey
    raw: bytes
    attempts: int


class _Taking:
    """The tasks taken so far by one call of `claim`.

    Attributes:
        is_over: Whether the next task must be left to another claim.
        plain: Whether every task was taken from its home place, for its first delivery.
    """

    __slots__ = ("budget", "claim", "is_over", "metered", "now", "out", "plain", "shard", "slots")

    def __init__(self, shard: Shard, claim: Claim, now: Now) -> None:
        self.shard = shard
        self.now = now
        self.budget: Budget | None = None
        self.claim = claim
        self.is_over = False
        self.slots: list[Delivery] = []
        self.out: list[Delivered] = []
        self.plain = True
        self.metered = 0
        """Number of tasks in `out` whose waits have been counted, if anybody asks for them."""

    def meter(self, queue: Queue) -> None:
        """Counts the waits of the tasks that were just taken from a queue."""
        times = queue.meter.times
        if times is not None:
            taken, now_ms = self.out[self.metered :], self.now.wall_ms
            # Keys let tasks pass others, so these are not in the order of their acceptance.
            for run in [taken] if queue.ring is None else [[each] for each in taken]:
                note_taken(times, self.claim, queue, run, now_ms)
        self.metered = len(self.out)

    def add(self, task_id: TaskKey, raw: bytes, home: Lane, position: int, place: int, attempts: int) -> None:
        """Takes a task."""
        delivery = Delivery(self.claim, home, position, place, attempts)
        self.plain = False
        self.shard.deliveries[task_id] = delivery
        self.claim.task_ids.append(task_id)
        self.claim.again.add(task_id)
        if home.queue.meter.times is not None:
            note_again(self.claim, task_id, raw)
        self.slots.append(delivery)
        self.out.append(Delivered(task_id, raw, attempts + 1))


def claim(
    shard: Shard,
    caller: Caller,
    commands: Sequence[str] | None,
    count: int,
    bytes_max: int,
    lease_ms: int,
    now: Now,
    *,
    by_policy: bool = False,
) -> tuple[Claim, list[Delivered]] | None:
    """Leases up to `count` tasks to a worker: highest priority first, then round robin over commands, then FIFO.

    Args:
        shard: Shard that owns the queues.
        caller: Worker that takes the tasks.
        commands: Commands to take; None: all of the tenant.
        count: Tasks wanted; at most CLAIM_MAX are given.
        bytes_max: Task bytes after which no further task is given; the first task is given regardless of its size.
        lease_ms: Length of the leases.
        now: Time of the claim.
        by_policy: Whether policies may name another length. Then all tasks given have leases of the length of the
            first one.

    Returns:
        The claim and its deliveries, or None if no task is waiting, or the tenant has as many leases as it may.
    """
    ready = shard.ready.get(caller.tenant)
    if ready is None:
        return None
    left = lease_room(shard, caller.tenant, min(count, CLAIM_MAX))
    own_ms = lease_ms if by_policy and shard.policies.leasing else None
    taking = _Taking(shard, Claim(0, caller.worker, caller.subject, lease_ms, now.wall_ms, now.mono_ms + lease_ms), now)
    for index, queues in enumerate(ready):
        while queues and left and bytes_max > 0 and not taking.is_over:
            candidates = _candidates(shard, caller.tenant, queues, commands, index, left)
            candidates = candidates if own_ms is None else _of_one_lease(taking, candidates, own_ms)
            if not candidates:
                break
            share = left // len(candidates)
            before = left
            for queue in candidates:
                lane, ring = queue.lane(index), queue.ring
                limited = queue.policy is not None
                wanted = queue.slots(share) if limited else share
                got, bytes_max = (
                    _take(taking, lane, wanted, bytes_max)
                    if ring is None
                    else _take_keyed(taking, lane, ring, wanted, bytes_max)
                )
                left -= got
                queue.delivered_total += got
                taking.meter(queue)
                taking.claim.named |= queue.named > 0
                shard.turn = lane.served = shard.turn + 1
                if limited:
                    shard.policies.limit(queue)
                if lane.ready and not queue.full and (ring is None or queue in queues):
                    queues.move_to_end(queue)
                if bytes_max <= 0:
                    break
            if left == before and all(queue.ring is None for queue in candidates):
                raise CorruptRows(candidates[0].key, "counts ready tasks, but no row has one")
    return _lease(taking) if taking.slots else None


def has_work(shard: Shard, tenant: str, commands: Sequence[str] | None) -> bool:
    """Returns whether a claim of these commands would get a task now; None: of all commands of the tenant."""
    if not lease_room(shard, tenant, 1):
        return False
    wanted = None if commands is None else [shard.by_name.get((tenant, command)) for command in commands]
    for queues in shard.ready.get(tenant, ()):
        if queues and (wanted is None or not queues.keys().isdisjoint(wanted)):
            return True
    return False


def claimable_priority(shard: Shard, tenant: str, commands: Sequence[str] | None) -> int | None:
    """Returns the highest priority of the tasks that a claim would look at now; None: there is nothing to claim.

    Args:
        shard: Shard that owns the queues.
        tenant: Tenant of the worker.
        commands: Commands to take; None: all of the tenant.
    """
    ready = shard.ready.get(tenant)
    if ready is None or not lease_room(shard, tenant, 1):
        return None
    for index, queues in enumerate(ready):
        if queues and _candidates(shard, tenant, queues, commands, index, 1):
            return keys.LANES - 1 - index
    return None


def _candidates(
    shard: Shard, tenant: str, queues: OrderedDict[Queue, None], commands: Sequence[str] | None, index: int, most: int
) -> list[Queue]:
    """Returns at most `most` of the queues with pending tasks in the lane, starting with the longest unserved."""
    if commands is None:
        return list(islice(queues, most))
    by_name = shard.by_name
    found = [queue for c in commands if (queue := by_name.get((tenant, c))) is not None and queue in queues]
    if len(found) > 1:
        found.sort(key=lambda queue: queue.lane(index).served)
    return found[:most]


def _of_one_lease(taking: _Taking, candidates: list[Queue], default_ms: int) -> list[Queue]:
    """Returns the candidates whose leases are as long as those of the claim, which its first task determines."""
    claim = taking.claim
    if candidates and not taking.slots:
        claim.lease_ms = _lease_ms(candidates[0], default_ms)
        claim.until = taking.now.mono_ms + claim.lease_ms
    fitting = [queue for queue in candidates if _lease_ms(queue, default_ms) == claim.lease_ms]
    # No task of lower priority overtakes those that this claim cannot take.
    taking.is_over = bool(candidates) and not fitting
    return fitting


def _lease_ms(queue: Queue, default_ms: int) -> int:
    return default_ms if queue.policy is None else queue.policy.lease_ms or default_ms


def _take(taking: _Taking, lane: Lane, count: int, bytes_max: int) -> tuple[int, int]:
    """Takes up to `count` tasks of a lane; returns how many it took, and the bytes left."""
    shard, claim = taking.shard, taking.claim
    got = 0
    gone = lane.gone
    while got < count and lane.returned and bytes_max > 0:
        if gone and lane.returned[0][0] in gone:
            gone.remove(heapq.heappop(lane.returned)[0])
            continue
        bytes_max -= _take_returned(taking, lane)
        got += 1
    window, deliveries = lane.window, shard.deliveries
    position, size, waiting = lane.mark, 0, len(window)
    while got < count and bytes_max > 0:
        if not window:
            lane.mark = position
            if position == lane.tail or not load(shard, lane, PAGE_MAX):
                position = lane.mark
                break
            window = lane.window
            waiting += len(window)
            continue
        position, task_id, raw, target = window.popleft()
        if gone and position in gone:
            gone.remove(position)
            size += len(raw)
            continue
        got += 1
        if target is not None:
            shard.batch.rows[keys.place_key(lane.task_prefix, position)] = None
            bytes_max -= _follow(taking, lane, position, target)
            continue
        # tuple.__new__ makes the same objects in a third of the time needed to call their classes.
        delivery = _new(Delivery, (claim, lane, position, 0, 0))
        deliveries[task_id] = delivery
        claim.task_ids.append(task_id)
        taking.slots.append(delivery)
        taking.out.append(_new(Delivered, (task_id, raw, 1)))
        size += len(raw)
        bytes_max -= len(raw)
    lane.mark = position
    size += (waiting - len(window)) * WINDOW_ENTRY_BYTES
    lane.window_bytes -= size
    shard.windows_bytes -= size
    lane.ready -= got
    queue = lane.queue
    queue.claimed += got
    shard.touch(queue)
    if not lane.ready:
        emptied(shard, lane)
    elif lane.gone:
        prune(shard, lane)
    return got, bytes_max


def _take_keyed(taking: _Taking, lane: Lane, ring: KeyRing, count: int, bytes_max: int) -> tuple[int, int]:
    """Takes up to `count` tasks of a lane whose keys have room; returns how many it took, and the bytes left."""
    shard, queue = taking.shard, lane.queue
    budget = taking.budget
    if budget is None:
        budget = taking.budget = Budget(taking.now)
    got = 0
    while got < count and bytes_max > 0 and (met := admit(shard, lane, ring, budget)) is not None:
        got += 1
        bytes_max -= len(met.raw)
        home, position = met.home, met.position
        if met.place or met.again:
            taking.add(met.task_id, met.raw, home, position, met.place, met.attempts)
        else:
            delivery = Delivery(taking.claim, home, position, 0, 0)
            shard.deliveries[met.task_id] = delivery
            taking.claim.task_ids.append(met.task_id)
            taking.slots.append(delivery)
            taking.out.append(Delivered(met.task_id, met.raw, 1))
    queue.claimed += got
    shard.touch(queue)
    return got, bytes_max


def _take_returned(taking: _Taking, lane: Lane) -> int:
    position, home_lane, home_position, attempts = heapq.heappop(lane.returned)
    taking.shard.batch.rows[keys.returned_key(lane.task_prefix, position)] = None
    at_home = (home_lane, home_position) == (lane.index, position)
    return _follow(taking, lane, 0 if at_home else position, (home_lane, home_position, attempts))


def _follow(taking: _Taking, lane: Lane, position: int, target: tuple[int, int, int]) -> int:
    """Takes the task that the pointer at `position` of a lane refers to; position 0 means the task's home place.

    Returns:
        The number of its task bytes.
    """
    home_index, home_position, attempts = target
    home = lane.queue.lane(home_index)
    key = keys.place_key(home.task_prefix, home_position)
    value = taking.shard.get(key)
    if value is None:
        raise CorruptRows(key, "a pointer leads to no home")
    try:
        task_id, raw = home.key_of(home_position, value), keys.task_bytes(value)
    except UNREADABLE:
        raise unreadable(key) from None
    place = MOVED_PLACE | lane.index << 48 | position if position else 0
    taking.add(task_id, raw, home, home_position, place, attempts)
    return len(raw)


def _lease(taking: _Taking) -> tuple[Claim, list[Delivered]]:
    shard, claim = taking.shard, taking.claim
    claim.token = shard.next_token()
    claim.live = len(taking.slots)
    shard.claims[claim.token] = claim
    shard.claim_order.append(claim.token)
    shard.lease_ends.add(taking.slots[0].home.queue.tenant, claim.until, claim.token)
    shard.batch.rows[keys.lease_key(claim.token)] = lease_row(claim, taking.slots, plain=taking.plain)
    shard.totals.claimed += claim.live
    if shard.traces is not None and shard.traces.tasks:
        shard.traces.delivered(claim, taking.now.wall_ms)
    return claim, taking.out
