"""Strict order of tasks with the same ordering key: only the first task of a key that has not ended may be delivered.

A key's line is in rows alone: one row for each task that has not ended, numbered in the order of acceptance, and one
row that names the first task. A retry does not change it, so nothing passes a task that is tried again.
"""

from __future__ import annotations

from codeq_internal.v1 import rows_pb2

from . import keys
from .errors import CorruptRows
from .model import Lane, Queue
from .parsing import unpacked
from .shard import Shard
from .task_bytes import keys_of

GAPS = 8
"""Missing rows read one by one before the next row is searched for in pages."""
PAGE = 64
"""Rows read together in that search."""


def join(shard: Shard, queue: Queue, key: str, home: int) -> int:
    """Puts a task at the end of its key's line; returns its number. `home` is its packed home."""
    queue.keep_keys().ordered = True
    name = keys.gate(keys.ORDERING_GATE, key)
    line_key = keys.blocked_key(queue.number, name, 0)
    value = shard.get(line_key)
    first, last, first_home = (1, 0, home) if value is None else unpacked(keys.split_line, line_key, value)
    rows, number = shard.batch.rows, last + 1
    rows[line_key] = keys.line(first, number, first_home)
    rows[keys.blocked_key(queue.number, name, number)] = keys.blocked_value(home)
    return number


def is_first(shard: Shard, queue: Queue, name: bytes, home: int) -> bool:
    """Returns whether the task with this packed home is the first of an ordering gate.

    Raises:
        CorruptRows: The gate has no line.
    """
    line = first_of(shard, queue, name)
    if line is None:
        raise CorruptRows(keys.blocked_key(queue.number, name, 0), "the line of a waiting task is missing")
    return line[1] == home


def first_of(shard: Shard, queue: Queue, name: bytes) -> tuple[int, int] | None:
    """Returns number and packed home of the first task of an ordering gate; None: the gate has no line."""
    key = keys.blocked_key(queue.number, name, 0)
    value = shard.get(key)
    if value is None:
        return None
    first, _, home = unpacked(keys.split_line, key, value)
    return first, home


def leave(shard: Shard, home: Lane, position: int) -> int | None:
    """Removes a task that ends from its key's line, if it has an ordering key.

    Returns:
        The packed home of the task that is the first from now on, if it is blocked; None: no blocked task became first.
    """
    queue, rows = home.queue, shard.batch.rows
    key = keys.place_key(home.task_prefix, position)
    value = shard.get(key)
    if value is None:
        raise CorruptRows(key, "the home of a task that ends is missing")
    of = unpacked(lambda stored: keys_of(keys.task_bytes(stored)), key, value)
    if of is None or not of.ordering:
        return None
    state = shard.state(home, position)
    number = (state.ordering_number if state is not None else 0) or of.number
    name = keys.gate(keys.ORDERING_GATE, of.ordering)
    line_key = keys.blocked_key(queue.number, name, 0)
    line = shard.get(line_key)
    if line is None:
        raise CorruptRows(line_key, "the line of a task that ends is missing")
    _, last, first_home = unpacked(keys.split_line, line_key, line)
    rows[keys.blocked_key(queue.number, name, number)] = None
    if first_home != keys.pack_home(home.index, position):
        return None
    following = next_row(shard, queue.number, name, number + 1, last)
    if following is None:
        rows[line_key] = None
        return None
    rows[line_key] = keys.line(following[0], last, following[1])
    index, at = keys.unpack_home(following[1])
    state = shard.state(queue.lane(index), at)
    blocked = state is not None and state.place == rows_pb2.PLACE_KIND_BLOCKED and state.blocked == name
    return following[1] if blocked else None


def next_row(shard: Shard, queue: int, name: bytes, number: int, last: int) -> tuple[int, int] | None:
    """Returns number and packed home of a gate's first task from `number` up to `last`; None: there is none."""
    for at in range(number, min(number + GAPS, last + 1)):
        key = keys.blocked_key(queue, name, at)
        value = shard.get(key)
        if value is not None:
            return at, unpacked(keys.split_blocked_value, key, value)
    start, end = keys.blocked_key(queue, name, number + GAPS), keys.blocked_key(queue, name, last + 1)
    if start >= end:
        return None
    return _search(shard, start, end)


def _search(shard: Shard, start: bytes, end: bytes) -> tuple[int, int] | None:
    """Returns the first row of a range, written or not."""
    layers = [batch.rows for batch in (*shard.in_flight, shard.batch)]
    unwritten = sorted({key for rows in layers for key in rows if start <= key < end})
    added = next((key for key in unwritten if shard.get(key) is not None), None)
    while True:
        stored = shard.stored.scan(start, end, PAGE)
        found = shard.current(stored)
        key = found[0][0] if found else None
        if key is not None or len(stored) < PAGE:
            break
        start = stored[-1][0] + b"\0"
    key = min((each for each in (key, added) if each is not None), default=None)
    if key is None:
        return None
    value = shard.get(key)
    assert value is not None
    return keys.split_blocked_key(key)[2], unpacked(keys.split_blocked_value, key, value)
