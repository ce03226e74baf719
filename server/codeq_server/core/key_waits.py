"""Says for which of its keys a PENDING task waits."""

from __future__ import annotations

from typing import NamedTuple

from codeq_internal.v1 import rows_pb2

from . import gates, keys, ordering
from .clock import Now
from .errors import CorruptRows
from .key_rings import NO_KEY_POLICY
from .lookup import find_home
from .model import Queue
from .new_task import TaskKeys
from .parsing import unpacked
from .shard import Shard
from .task_bytes import keys_of


class KeyWait(NamedTuple):
    """The key that a task waits for.

    Attributes:
        kind: Kind of the key, as the first byte of a gate.
        key: The key.
        limit: Tasks leased at a time, or deliveries per second; 0: no limit.
        holders: Tasks with the key that hold a slot or a token.
        position: Position among the tasks that wait, from 1; tasks that no longer wait raise it.
        parked_ms: Milliseconds for which a worker has parked the key; 0: it is not parked.
    """

    kind: bytes
    key: str
    limit: float
    holders: int
    position: int
    parked_ms: int = 0


def key_wait(shard: Shard, tenant: str, task_id: str, now: Now) -> KeyWait | None:
    """Returns the key that a PENDING task waits for; None: it waits for none.

    Raises:
        Rejection: TASK_NOT_FOUND.
    """
    home, position = find_home(shard, tenant, task_id)
    queue, ring = home.queue, home.queue.ring
    if ring is None:
        return None
    key = keys.place_key(home.task_prefix, position)
    value = shard.get(key)
    of = None if value is None else unpacked(lambda stored: keys_of(keys.task_bytes(stored)), key, value)
    if of is None:
        return None
    state, packed = shard.state(home, position), keys.pack_home(home.index, position)
    blocked = state is not None and state.place == rows_pb2.PLACE_KIND_BLOCKED
    if state is not None and blocked:
        name = state.blocked[: keys.GATE_BYTES]
    else:
        found = gates.obstacle(shard, queue, ring, gates.gates_of(of), packed, now)
        if found is None:
            return None
        name = found
    if name[:1] == keys.ORDERING_GATE:
        number = state.ordering_number if state is not None else 0
        return _of_line(shard, queue, name, of, number or of.number)
    policy, gate = queue.key_policy or NO_KEY_POLICY, ring.gates.get(name)
    holders, first, last = (gate.holders, gate.first, gate.last) if gate is not None else (0, 1, 0)
    number = int.from_bytes(state.blocked[keys.GATE_BYTES :], "big") if state is not None and blocked else last + 1
    parked_ms = max(0, gate.closed_until_ms - now.mono_ms) if gate is not None else 0
    if name[:1] == keys.RATE_GATE:
        limit = policy.rate_per_key_per_second
        return KeyWait(keys.RATE_GATE, of.rate, limit, holders, number - first + 1, parked_ms)
    slots = policy.concurrency_per_key
    return KeyWait(keys.CONCURRENCY_GATE, of.concurrency, slots, holders, number - first + 1, parked_ms)


def _of_line(shard: Shard, queue: Queue, name: bytes, of: TaskKeys, number: int) -> KeyWait:
    first = ordering.first_of(shard, queue, name)
    if first is None:
        raise CorruptRows(keys.blocked_key(queue.number, name, 0), "the line of a waiting task is missing")
    lane, position = keys.unpack_home(first[1])
    value = shard.get(keys.place_key(queue.lane(lane).task_prefix, position))
    live = value is not None and queue.lane(lane).key_of(position, value) in shard.deliveries
    return KeyWait(keys.ORDERING_GATE, of.ordering, 1, int(live), max(number - first[0], 1))
