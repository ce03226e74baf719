"""The gates of a queue's keys: who may pass, who waits in rows "b", and who is let through when a key has room again.

A claim that meets a task whose key has no room moves it from its lane to the rows of the key's gate, so that it delays
nobody behind it. A slot or a token that becomes free is reserved for the first task that waits at the gate, and the
task returns to its old place, where the next claim takes it. See docs/adr/0040.
"""

from __future__ import annotations

from typing import NamedTuple

from codeq_internal.v1 import rows_pb2

from . import keys, ordering
from .clock import Now
from .errors import CorruptRows
from .key_rings import FIRST, NO_KEY_POLICY, Gate, KeyPolicy, KeyRing
from .model import Lane, Queue
from .new_task import TaskKeys
from .parsing import unpacked
from .shard import Shard
from .status import Status
from .task_bytes import keys_of
from .windows import put_back

OPEN_MAX = 8
"""Tasks let through a gate by the decision that made room; the timers let the others through."""


class TaskGates(NamedTuple):
    """The gates of a task; empty: it has no such key."""

    ordering: bytes
    rate: bytes
    concurrency: bytes


def gates_of(of: TaskKeys | None) -> TaskGates | None:
    """Returns the gates of a task with these keys; None: it has none."""
    if of is None:
        return None
    return TaskGates(
        keys.gate(keys.ORDERING_GATE, of.ordering) if of.ordering else b"",
        keys.gate(keys.RATE_GATE, of.rate) if of.rate else b"",
        keys.gate(keys.CONCURRENCY_GATE, of.concurrency) if of.concurrency else b"",
    )


# -- passing -------------------------------------------------------------------------------------------------------


def obstacle(shard: Shard, queue: Queue, ring: KeyRing, of: TaskGates | None, home: int, now: Now) -> bytes | None:
    """Returns the first gate that a task may not pass now; None: it may be leased.

    Args:
        shard: Shard that owns the task.
        queue: Queue of the task.
        ring: Its keys.
        of: Gates of the task.
        home: Packed home of the task.
        now: Time of the claim.
    """
    if of is None:
        return None
    if of.ordering and not ordering.is_first(shard, queue, of.ordering, home):
        return of.ordering
    policy = queue.key_policy or NO_KEY_POLICY
    if of.rate and not _has_token(ring, policy, of.rate, home, now.mono_ms):
        return of.rate
    if of.concurrency and not _has_slot(ring, policy, of.concurrency, home, now.mono_ms):
        return of.concurrency
    return None


def _has_slot(ring: KeyRing, policy: KeyPolicy, name: bytes, home: int, now_ms: int) -> bool:
    gate = ring.gates.get(name)
    if gate is None:
        return True
    if gate.closed_until_ms > now_ms:
        return False
    limit = policy.concurrency_per_key
    if home in gate.reserved:
        return not limit or len(gate.running) < limit
    return not gate.has_waiting and (not limit or gate.holders < limit)


def _has_token(ring: KeyRing, policy: KeyPolicy, name: bytes, home: int, now_ms: int) -> bool:
    gate = ring.gates.get(name)
    if gate is not None:
        if gate.closed_until_ms > now_ms:
            return False
        if home in gate.reserved:
            return True
        if gate.has_waiting:
            return False
    rate = policy.rate_per_key_per_second
    return not rate or not ring.bucket_of(name).wait_ms(rate, policy.rate_burst, now_ms)


def enter(queue: Queue, ring: KeyRing, of: TaskGates | None, home: int) -> None:
    """Takes the slot and the token of a task that is being leased; `obstacle` has found them."""
    policy = queue.key_policy or NO_KEY_POLICY
    if policy.rate_per_second:
        ring.bucket.take()
    if of is None:
        return
    name = of.rate
    if name:
        gate = ring.gates.get(name)
        if gate is not None and home in gate.reserved:
            del gate.reserved[home], ring.tokens[home]
            ring.drop_unused(name)
        elif policy.rate_per_key_per_second:
            ring.bucket_of(name).take()
    name = of.concurrency
    if name:
        gate = ring.gate(name)
        gate.reserved.pop(home, None)
        gate.running[home] = None
        ring.slots[home] = name


# -- waiting -------------------------------------------------------------------------------------------------------


def block(
    shard: Shard,
    queue: Queue,
    ring: KeyRing,
    name: bytes,
    home: int,
    place: tuple[int, int],
    attempts: int,
    now: Now,
    *,
    ahead: bool,
    again: bool,
) -> None:
    """Has a task wait at a gate; the caller has taken it from its place.

    Args:
        shard: Shard that owns the task.
        queue: Queue of the task.
        ring: Its keys.
        name: The gate.
        home: Packed home of the task.
        place: Lane and position of the place that it left.
        attempts: Its deliveries so far.
        now: Time of the claim.
        ahead: Whether it waits ahead of the others, because it had passed the gate before.
        again: Whether it may have a state row.
    """
    lane, position = keys.unpack_home(home)
    state = (shard.state(queue.lane(lane), position) if again else None) or rows_pb2.StateRow()
    state.status, state.place, state.attempts = Status.PENDING, rows_pb2.PLACE_KIND_BLOCKED, attempts
    state.place_lane, state.place_at = place
    state.blocked = name
    if name[:1] != keys.ORDERING_GATE:
        gate = ring.gate(name)
        if ahead and gate.has_waiting:
            number = gate.first = gate.first - 1
        else:
            number = gate.last = gate.last + 1
        state.blocked += number.to_bytes(8, "big")
        shard.batch.rows[keys.blocked_key(queue.number, name, number)] = keys.blocked_value(home)
        if name[:1] == keys.RATE_GATE:
            list_rate_gate(shard, queue, ring, name, now.mono_ms)
    shard.put_state(queue.lane(lane), position, state)
    queue.blocked += 1
    shard.touch(queue)
    drop_reservations(shard, queue, ring, home)


def withdraw_blocked(shard: Shard, home: Lane, position: int, state: rows_pb2.StateRow) -> None:
    """Removes a task from the gate at which it waits; the caller writes its state row."""
    queue, ring = home.queue, home.queue.ring
    name, number = state.blocked[: keys.GATE_BYTES], int.from_bytes(state.blocked[keys.GATE_BYTES :], "big")
    if ring is None or len(name) != keys.GATE_BYTES:
        raise CorruptRows(keys.place_key(home.state_prefix, position), "waits at no gate")
    state.ClearField("blocked")
    queue.blocked -= 1
    shard.touch(queue)
    if name[:1] == keys.ORDERING_GATE:
        return
    shard.batch.rows[keys.blocked_key(queue.number, name, number)] = None
    gate = ring.gates.get(name)
    if gate is not None and number == gate.first:
        _advance(shard, queue, name, gate)
        ring.drop_unused(name)


def _advance(shard: Shard, queue: Queue, name: bytes, gate: Gate) -> None:
    """Finds the next task that waits at a gate after the first one, which no longer does."""
    found = ordering.next_row(shard, queue.number, name, gate.first + 1, gate.last)
    gate.first, gate.last = (FIRST, FIRST - 1) if found is None else (found[0], gate.last)


# -- making room ---------------------------------------------------------------------------------------------------


def leave(shard: Shard, queue: Queue, ring: KeyRing, home: int) -> None:
    """Frees the slot of a task whose delivery has ended, unless the task was returned and keeps it."""
    name = ring.slots.get(home)
    if name is None:
        return
    gate = ring.gates[name]
    if home in gate.reserved:
        return
    del ring.slots[home]
    gate.running.pop(home, None)
    _open_now(shard, queue, ring, name)


def keep(ring: KeyRing, home: int) -> None:
    """Reserves the slot of a delivery for its task, which is being returned to its place."""
    name = ring.slots.get(home)
    if name is not None:
        gate = ring.gates[name]
        gate.running.pop(home, None)
        gate.reserved[home] = None


def drop_reservations(shard: Shard, queue: Queue, ring: KeyRing, home: int) -> None:
    """Frees what is reserved for a task that leaves its place without being leased."""
    name = ring.slots.pop(home, None)
    if name is not None:
        ring.gates[name].reserved.pop(home, None)
        _open_now(shard, queue, ring, name)
    name = ring.tokens.pop(home, None)
    if name is not None:
        gate = ring.gates[name]
        del gate.reserved[home]
        ring.bucket_of(name).put_back()
        if gate.has_waiting:
            open_at(shard, ring, name, 0)
        ring.drop_unused(name)


def _open_now(shard: Shard, queue: Queue, ring: KeyRing, name: bytes) -> None:
    gate = ring.gates[name]
    if gate.has_waiting and queue.purge is None and not gate.closed_until_ms:
        _open_slots(shard, queue, ring, name, gate, OPEN_MAX)
        if gate.has_waiting and _has_room(queue, gate):
            open_at(shard, ring, name, 0)
    ring.drop_unused(name)


def _has_room(queue: Queue, gate: Gate) -> bool:
    limit = (queue.key_policy or NO_KEY_POLICY).concurrency_per_key
    return not limit or gate.holders < limit


def _open_slots(shard: Shard, queue: Queue, ring: KeyRing, name: bytes, gate: Gate, most: int) -> int:
    """Reserves free slots for the first tasks at a concurrency gate, and returns how many."""
    count = 0
    while count < most and gate.has_waiting and _has_room(queue, gate):
        home = _let_through(shard, queue, name, gate)
        gate.reserved[home] = None
        ring.slots[home] = name
        count += 1
    return count


def _open_tokens(shard: Shard, queue: Queue, ring: KeyRing, name: bytes, gate: Gate, most: int, now: Now) -> int:
    """Reserves tokens for the first tasks at a rate gate, and returns how many; lists the gate for the next token."""
    policy = queue.key_policy or NO_KEY_POLICY
    rate, count = policy.rate_per_key_per_second, 0
    while count < most and gate.has_waiting:
        if rate:
            bucket = ring.bucket_of(name)
            wait_ms = bucket.wait_ms(rate, policy.rate_burst, now.mono_ms)
            if wait_ms:
                break
            bucket.take()
        home = _let_through(shard, queue, name, gate)
        gate.reserved[home] = None
        ring.tokens[home] = name
        count += 1
    return count


def _let_through(shard: Shard, queue: Queue, name: bytes, gate: Gate) -> int:
    """Returns the first task at a gate to its place, and returns its packed home."""
    key = keys.blocked_key(queue.number, name, gate.first)
    value = shard.get(key)
    if value is None:
        raise CorruptRows(key, "the first task that waits at a gate is missing")
    home = unpacked(keys.split_blocked_value, key, value)
    shard.batch.rows[key] = None
    _advance(shard, queue, name, gate)
    return_blocked(shard, queue, home)
    return home


def return_blocked(shard: Shard, queue: Queue, home: int) -> None:
    """Returns a blocked task to the place that it left."""
    index, position = keys.unpack_home(home)
    lane = queue.lane(index)
    state = shard.state(lane, position)
    if state is None or state.place != rows_pb2.PLACE_KIND_BLOCKED:
        raise CorruptRows(keys.place_key(lane.state_prefix, position), "does not wait at the gate that lists it")
    state.place = rows_pb2.PLACE_KIND_RETURNED
    state.ClearField("blocked")
    shard.put_state(lane, position, state)
    queue.blocked -= 1
    shard.touch(queue)
    put_back(shard, queue.lane(state.place_lane), state.place_at, (index, position, state.attempts))


def open_gate(shard: Shard, queue: Queue, ring: KeyRing, name: bytes, most: int, now: Now) -> int:
    """Lets tasks through a gate that may have room by now; returns how many, and lists the gate if more may follow."""
    gate, count = ring.gates[name], 0
    if gate.closed_until_ms:
        if gate.closed_until_ms > now.mono_ms:
            open_at(shard, ring, name, gate.closed_until_ms)
            return 0
        gate.closed_until_ms = 0
    if name[:1] == keys.RATE_GATE:
        count = _open_tokens(shard, queue, ring, name, gate, most, now)
        if gate.has_waiting:
            list_rate_gate(shard, queue, ring, name, now.mono_ms)
    else:
        count = _open_slots(shard, queue, ring, name, gate, most)
        if gate.has_waiting and _has_room(queue, gate):
            open_at(shard, ring, name, 0)
    ring.drop_unused(name)
    return count


def list_rate_gate(shard: Shard, queue: Queue, ring: KeyRing, name: bytes, now_ms: int) -> None:
    """Lists a rate gate, at which a task waits, for the time of its next token."""
    policy = queue.key_policy or NO_KEY_POLICY
    rate, gate = policy.rate_per_key_per_second, ring.gates[name]
    wait_ms = ring.bucket_of(name).wait_ms(rate, policy.rate_burst, now_ms) if rate else 0
    open_at(shard, ring, name, max(now_ms + wait_ms, gate.closed_until_ms))


def open_at(shard: Shard, ring: KeyRing, name: bytes, at_ms: int) -> None:
    """Has the timers open a gate at a monotonic time."""
    ring.open_at(name, at_ms)
    shard.gates_due.set(ring, at_ms)


def park(shard: Shard, home: Lane, position: int, until_ms: int) -> int | None:
    """Closes the rate gate of a task, or else its concurrency gate, until a monotonic time.

    Returns:
        The time until which the gate is closed; None: the task has no such gate.
    """
    ring = home.queue.ring
    if ring is None:
        return None
    key = keys.place_key(home.task_prefix, position)
    value = shard.get(key)
    of = None if value is None else unpacked(lambda stored: keys_of(keys.task_bytes(stored)), key, value)
    if of is None or not (of.rate or of.concurrency):
        return None
    name = keys.gate(keys.RATE_GATE, of.rate) if of.rate else keys.gate(keys.CONCURRENCY_GATE, of.concurrency)
    gate = ring.gate(name)
    gate.closed_until_ms = max(gate.closed_until_ms, until_ms)
    open_at(shard, ring, name, gate.closed_until_ms)
    return gate.closed_until_ms
