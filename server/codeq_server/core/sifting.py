"""Claims from queues whose tasks have keys: takes the tasks that may pass their gates, and has the others wait there.

A claim sifts a bounded number of tasks. If it meets no end of tasks that may not pass, the lane is hidden from claims,
except for returned tasks, and the timers go on sifting until they meet a task that may: a busy key delays nobody for
longer than the slices that it takes.
"""

from __future__ import annotations

import heapq
from typing import Final, NamedTuple

from . import at_limit, gates, keys
from .clock import Now
from .deliveries import MOVED_PLACE
from .errors import CorruptRows
from .key_rings import KeyRing
from .model import WINDOW_ENTRY_BYTES, Lane, Queue, TaskKey
from .parsing import UNREADABLE, unreadable
from .shard import Shard
from .task_bytes import keys_of
from .windows import PAGE_MAX, emptied, load, prune

SIFT_MAX = 64
"""Tasks that a claim has wait at their gates before it leaves the rest to the timers."""
SLICE = 128
"""Tasks that the timers sift or let through per call, roughly."""
TURN = 64
"""The same for one queue, before the next queue's turn."""
TURN_COST: Final = 8
"""Minimum cost of a turn, in tasks."""


class Met(NamedTuple):
    """The first task of a lane.

    Attributes:
        task_id: Key of the task.
        raw: Task bytes.
        home: Lane of its home.
        position: Position of its home.
        at: Position in the lane at which it was met.
        place: Where it waits, as in `Delivery`.
        attempts: Its deliveries so far.
        returned: Whether it waits in the index of returned tasks.
        again: Whether it may have a state row.
    """

    task_id: TaskKey
    raw: bytes
    home: Lane
    position: int
    at: int
    place: int
    attempts: int
    returned: bool
    again: bool


class Budget:
    """How many tasks a claim may still have wait at their gates, and the time of the claim."""

    __slots__ = ("left", "now")

    def __init__(self, now: Now) -> None:
        self.left = SIFT_MAX
        self.now = now


def admit(shard: Shard, lane: Lane, ring: KeyRing, budget: Budget) -> Met | None:
    """Takes the first task of a lane that may pass its gates; None: there is none, or the lane is hidden for now."""
    now, queue = budget.now, lane.queue
    while lane.ready:
        if not budget.left or rate_wait_ms(queue, ring, now):
            _hide(shard, lane, ring, now)
            return None
        met = _peek_returned(shard, lane)
        if met is None and lane.index in ring.sifting:
            _hide(shard, lane, ring, now)  # it was shown for the sake of returned tasks
            return None
        met = met or _peek_window(shard, lane)
        if met is None:
            raise CorruptRows(queue.key, "counts ready tasks, but no row has one")
        of = gates.gates_of(keys_of(met.raw))
        gate = _obstacle(shard, lane, ring, met, of, now)
        if gate is not None and at_limit.makes_room(shard, queue, ring, gate, now):
            met = _peek_returned(shard, lane) or met  # the cancellation may have returned a task that comes first now
            of = gates.gates_of(keys_of(met.raw))
            gate = _obstacle(shard, lane, ring, met, of, now)
        if gate is None:
            _drop(shard, lane, met)
            gates.enter(queue, ring, of, keys.pack_home(met.home.index, met.position))
            return met
        if at_limit.waits_for_the_claim(shard, queue, ring, gate):
            _hide(shard, lane, ring, now)
            return None
        _move(shard, lane, ring, met, gate, now)
        budget.left -= 1
    return None


def _obstacle(shard: Shard, lane: Lane, ring: KeyRing, met: Met, of: gates.TaskGates | None, now: Now) -> bytes | None:
    """Returns the first gate that a task may not pass."""
    return gates.obstacle(shard, lane.queue, ring, of, keys.pack_home(met.home.index, met.position), now)


def _move(shard: Shard, lane: Lane, ring: KeyRing, met: Met, gate: bytes, now: Now) -> None:
    """Has the first task of a lane wait at a gate, or ends it if the policy says so."""
    queue, home = lane.queue, keys.pack_home(met.home.index, met.position)
    _drop(shard, lane, met)
    if at_limit.drops(queue, ring, gate, home):
        at_limit.drop(shard, met.home, met.position, met.task_id, met.attempts, now)
    else:
        place = (lane.index, met.at)
        gates.block(shard, queue, ring, gate, home, place, met.attempts, now, ahead=met.returned, again=met.again)


def _hide(shard: Shard, lane: Lane, ring: KeyRing, now: Now) -> None:
    """Hides a lane from claims until the timers have sifted it."""
    queues = shard.ready[lane.queue.tenant][lane.index]
    if queues is not None:
        queues.pop(lane.queue, None)
    ring.sifting[lane.index] = True
    shard.gates_due.set(ring, now.mono_ms + rate_wait_ms(lane.queue, ring, now))


def rate_wait_ms(queue: Queue, ring: KeyRing, now: Now) -> int:
    """Returns the milliseconds until the queue's rate allows a delivery."""
    policy = queue.key_policy
    if policy is None or not policy.rate_per_second:
        return 0
    return ring.bucket.wait_ms(policy.rate_per_second, policy.rate_burst, now.mono_ms)


# -- the timers' part ----------------------------------------------------------------------------------------------


def sift(shard: Shard, now: Now) -> bool:
    """Opens gates that have room by now, and sifts hidden lanes, tenant by tenant; returns whether there is more."""
    left, due = SLICE, shard.gates_due
    while left > 0 and (ring := due.turn(now.mono_ms)) is not None:
        queue = shard.queues.get(ring.number)
        done, following = (0, None) if queue is None else _turn(shard, queue, ring, now)
        shard.totals.sifted += done
        left -= max(done, TURN_COST)
        due.rest(ring, following, now.mono_ms)
    return due.first_ms <= now.mono_ms


def _turn(shard: Shard, queue: Queue, ring: KeyRing, now: Now) -> tuple[int, int | None]:
    """Opens a queue's gates and sifts its lanes; returns the tasks moved, and the time of its next turn."""
    done = 0
    if queue.purge is not None:
        return 0, None  # the end of the purge sets the alarm
    while done < TURN and (name := ring.take_due(now.mono_ms)) is not None:
        done += 1 + gates.open_gate(shard, queue, ring, name, TURN - done, now)
    closed_ms = rate_wait_ms(queue, ring, now) if ring.sifting else 0
    for index in list(ring.sifting) if not closed_ms else ():
        done += _sift_lane(shard, queue.lane(index), ring, TURN - done, now)
    following = ring.next_due()
    if ring.sifting:
        following = min(now.mono_ms + closed_ms, following if following is not None else now.mono_ms + closed_ms)
    return done, following


def _sift_lane(shard: Shard, lane: Lane, ring: KeyRing, most: int, now: Now) -> int:
    """Sifts the next tasks of a hidden lane, and shows the lane if a task may pass; returns how many it moved."""
    count, queue = 0, lane.queue
    while count < most and lane.ready and not queue.held:
        met = _peek_window(shard, lane)
        if met is None:
            break  # only returned tasks are left
        gate = _obstacle(shard, lane, ring, met, gates.gates_of(keys_of(met.raw)), now)
        if gate is None or at_limit.cancels(queue, ring, gate):
            break
        _move(shard, lane, ring, met, gate, now)
        count += 1
    else:
        if lane.ready and not queue.held:
            return count
    ring.sifting.pop(lane.index, None)
    if lane.ready:
        queue.reshown += 1
        if queue.tenant in shard.subscriptions.by_tenant:
            shard.touch(queue)
        shard.became_ready(lane)
    return count


# -- the first task of a lane --------------------------------------------------------------------------------------


def _peek_returned(shard: Shard, lane: Lane) -> Met | None:
    """Returns the first returned task of a lane, which stays where it is."""
    gone = lane.gone
    while gone and lane.returned and lane.returned[0][0] in gone:
        gone.remove(heapq.heappop(lane.returned)[0])
    if not lane.returned:
        return None
    position, home_lane, home_position, attempts = lane.returned[0]
    return _pointed(shard, lane, position, (home_lane, home_position, attempts), returned=True)


def _peek_window(shard: Shard, lane: Lane) -> Met | None:
    """Returns the first task of a lane that was not returned, which stays where it is."""
    gone = lane.gone
    while lane.window or load(shard, lane, PAGE_MAX):
        position, task_id, raw, target = lane.window[0]
        if gone and position in gone:
            gone.remove(position)
            _pop(shard, lane)
        elif target is not None:
            return _pointed(shard, lane, position, target, returned=False)
        else:
            return Met(task_id, raw, lane, position, position, 0, 0, returned=False, again=False)
    return None


def _pointed(shard: Shard, lane: Lane, at: int, target: tuple[int, int, int], *, returned: bool) -> Met:
    home_index, position, attempts = target
    home = lane.queue.lane(home_index)
    key = keys.place_key(home.task_prefix, position)
    value = shard.get(key)
    if value is None:
        raise CorruptRows(key, "a pointer leads to no home")
    try:
        task_id, raw = home.key_of(position, value), keys.task_bytes(value)
    except UNREADABLE:
        raise unreadable(key) from None
    place = 0 if (home_index, position) == (lane.index, at) else MOVED_PLACE | lane.index << 48 | at
    return Met(task_id, raw, home, position, at, place, attempts, returned, again=True)


def _drop(shard: Shard, lane: Lane, met: Met) -> None:
    """Removes the first task of a lane from its place."""
    rows = shard.batch.rows
    if met.returned:
        heapq.heappop(lane.returned)
        rows[keys.returned_key(lane.task_prefix, met.at)] = None
    else:
        if met.again:
            rows[keys.place_key(lane.task_prefix, met.at)] = None
        _pop(shard, lane)
    lane.ready -= 1
    shard.touch(lane.queue)
    if not lane.ready:
        emptied(shard, lane)
    elif lane.gone:
        prune(shard, lane)


def _pop(shard: Shard, lane: Lane) -> None:
    """Moves a lane's mark past the first entry of its window."""
    entry = lane.window.popleft()
    size = len(entry.raw) + WINDOW_ENTRY_BYTES
    lane.mark = entry.position
    lane.window_bytes -= size
    shard.windows_bytes -= size
