"""Restores the keys in use in a queue: slots from leases and returned tasks, and who waits at which gate."""

from __future__ import annotations

from . import keys
from .errors import CorruptRows
from .key_rings import KeyRing
from .model import Lane, Queue
from .parsing import unpacked
from .shard import Shard
from .task_bytes import keys_of

PAGE = 1024
"""Rows read together."""


def adopt_running(home: Lane, position: int, value: bytes) -> None:
    """Counts a live delivery of the task with this home, which has this value."""
    ring = home.queue.ring
    if ring is None:
        return
    name = _concurrency_gate(home, position, value)
    if name is not None:
        packed = keys.pack_home(home.index, position)
        ring.gate(name).running[packed] = None
        ring.slots[packed] = name


def adopt_returned(shard: Shard, queue: Queue, ring: KeyRing, key: bytes, pointer: bytes) -> None:
    """Reserves a slot for a returned task; `key` and `pointer` are its row."""
    index, position, _ = unpacked(keys.split_pointer, key, pointer)
    home = queue.lane(index)
    home_key = keys.place_key(home.task_prefix, position)
    value = shard.get(home_key)
    if value is None:
        raise CorruptRows(home_key, "a pointer leads to no home")
    name = _concurrency_gate(home, position, value)
    if name is not None:
        packed = keys.pack_home(index, position)
        ring.gate(name).reserved[packed] = None
        ring.slots[packed] = name


def _concurrency_gate(home: Lane, position: int, value: bytes) -> bytes | None:
    key = keys.place_key(home.task_prefix, position)
    of = unpacked(lambda stored: keys_of(keys.task_bytes(stored)), key, value)
    return keys.gate(keys.CONCURRENCY_GATE, of.concurrency) if of is not None and of.concurrency else None


def adopt_blocked(shard: Shard) -> None:
    """Finds the gates at which tasks wait; the timers examine each, because its limit may have changed since."""
    for queue in shard.queues.values():
        ring = queue.ring
        if ring is None:
            continue
        ring.ordered = bool(shard.stored.scan(*keys.kind_rows(queue.number, keys.ORDERING_GATE), 1))
        if not queue.blocked:
            continue
        for kind in (keys.CONCURRENCY_GATE, keys.RATE_GATE):
            _adopt_gates(shard, queue.number, ring, kind)
        if ring.gates:
            shard.gates_due.set(ring, 0)


def _adopt_gates(shard: Shard, number: int, ring: KeyRing, kind: bytes) -> None:
    """Reads the gates of one kind: rows in pages, and of a gate that fills a page only the last row."""
    start, end = keys.kind_rows(number, kind)
    while True:
        page = shard.stored.scan(start, end, PAGE)
        for key, _ in page:
            _, name, position = keys.split_blocked_key(key)
            gate = ring.gate(name)
            if not gate.has_waiting:
                gate.first = position
                ring.open_at(name, 0)
            gate.last = position
        if len(page) < PAGE:
            return
        key = page[-1][0]
        _, name, _ = keys.split_blocked_key(key)
        last = shard.stored.scan_back(*keys.gate_rows(number, name), 1)
        ring.gate(name).last = keys.split_blocked_key(last[0][0])[2]
        start = keys.after_gate(key)
