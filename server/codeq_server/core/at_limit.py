"""What happens to a task that a claim meets while its concurrency key is at its limit, if it is not to wait."""

from __future__ import annotations

from typing import Final

from codeq_internal.v1 import rows_pb2

from . import gates, keys
from .clock import Now
from .deliveries import Delivery
from .key_rings import AtLimit, KeyRing
from .model import Lane, Queue, TaskKey, id_of
from .parsing import unpacked
from .shard import Shard
from .withdrawal import cancel, end_cancelled

DROPPED_ERROR: Final = "KEY_AT_LIMIT"
"""Error of a task that was dropped because its key was at its limit."""
REPLACED_ERROR: Final = "REPLACED"
"""Error of a task that was cancelled in favour of a later one with its key, or of its schedule."""


def cancels(queue: Queue, ring: KeyRing, gate: bytes) -> bool:
    """Returns whether a task at this gate is leased in place of another that is running."""
    return _acts(queue, ring, gate, AtLimit.CANCEL_RUNNING) and bool(ring.gates[gate].running)


def drops(queue: Queue, ring: KeyRing, gate: bytes, home: int) -> bool:
    """Returns whether a task at this gate ends; `home` is its packed home. A task that held a slot waits instead."""
    return _acts(queue, ring, gate, AtLimit.DROP_NEWEST) and home not in ring.gates[gate].reserved


def _acts(queue: Queue, ring: KeyRing, gate: bytes, how: AtLimit) -> bool:
    policy = queue.key_policy
    if policy is None or policy.at_limit is not how or not policy.concurrency_per_key:
        return False
    if gate[:1] != keys.CONCURRENCY_GATE:
        return False
    at = ring.gates.get(gate)
    return at is not None and not at.closed_until_ms


def makes_room(shard: Shard, queue: Queue, ring: KeyRing, gate: bytes, now: Now) -> bool:
    """Cancels the task of a gate that was leased first, if the policy says so; returns whether it did."""
    if not cancels(queue, ring, gate) or waits_for_the_claim(shard, queue, ring, gate):
        return False
    key = _oldest(shard, queue, ring, gate)[0]
    cancel(shard, queue.tenant, id_of(key), REPLACED_ERROR, now)
    return True


def waits_for_the_claim(shard: Shard, queue: Queue, ring: KeyRing, gate: bytes) -> bool:
    """Returns whether the task to be cancelled is being leased by the same claim, which has to end first."""
    return cancels(queue, ring, gate) and not _oldest(shard, queue, ring, gate)[1].claim.token


def _oldest(shard: Shard, queue: Queue, ring: KeyRing, gate: bytes) -> tuple[TaskKey, Delivery]:
    index, position = keys.unpack_home(next(iter(ring.gates[gate].running)))
    lane = queue.lane(index)
    key = keys.place_key(lane.task_prefix, position)
    value = shard.get(key)
    assert value is not None, "a leased task has a home"
    task = unpacked(lambda stored: lane.key_of(position, stored), key, value)
    return task, shard.deliveries[task]


def drop(shard: Shard, home: Lane, position: int, task: TaskKey, attempts: int, now: Now) -> None:
    """Ends a task that has left its place."""
    ring = home.queue.ring
    if ring is not None:
        gates.drop_reservations(shard, home.queue, ring, keys.pack_home(home.index, position))
    state = shard.state(home, position) or rows_pb2.StateRow()
    state.attempts = attempts
    end_cancelled(shard, home, position, task, state, DROPPED_ERROR, now)
