"""Expiry of waiting tasks: a task that still waits at the time its producer set ends as FAILED.

A task that is running then goes on, and no longer expires afterwards. The same holds for one redriven after that time.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from codeq_internal.v1 import rows_pb2

from . import keys
from .clock import Now
from .ending import end_with_state
from .errors import CorruptRows
from .model import Lane, Queue
from .parsing import unpacked
from .shard import Shard
from .status import Status
from .withdrawal import withdraw

EXPIRED: Final = "EXPIRED"
"""Error of a task that waited too long."""


def expire_entry(shard: Shard, queue: Queue, entry: bytes, now: Now) -> None:
    """Ends the task of an expiry index entry whose time has come, if the task is waiting.

    Raises:
        CorruptRows: The task's rows contradict each other.
    """
    _, _, index, position = keys.split_time_key(entry)
    home = shard.lane_named(entry[: keys.TIME_KEY_BYTES], queue.number, index)
    key = keys.place_key(home.task_prefix, position)
    value = shard.get(key)
    if value is None:
        raise CorruptRows(key, "the home of a task that can expire is missing")
    state = shard.state(home, position) or rows_pb2.StateRow()
    task_id = unpacked(partial(home.key_of, position), key, value)
    if state.ended_lsn or task_id in shard.deliveries:
        return
    withdraw(shard, home, position, state)
    state.error = EXPIRED
    end_with_state(shard, home, position, task_id, Status.FAILED, state, now)
    shard.totals.outdated += 1


def leave_expiry(shard: Shard, home: Lane, position: int) -> None:
    """Removes a task that is being deleted from the expiry index, if it is there."""
    queue = home.queue
    key = keys.place_key(home.task_prefix, position)
    value = shard.get(key)
    expire_ms = 0 if value is None else unpacked(lambda stored: expire_ms_of(keys.task_bytes(stored)), key, value)
    if not expire_ms:
        return
    if shard.get(keys.time_key(keys.EXPIRY, queue.number, expire_ms, home.index, position)) is not None:
        shard.expiry.remove(queue, expire_ms, home.index, position)


def expire_ms_of(task: bytes) -> int:
    """Returns expire_at from task bytes, in Unix milliseconds; 0: the task does not expire."""
    content = _bytes_field(task, 32)
    if content is None:
        return 0
    seconds = nanos = at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        number, at = _varint(content, at)
        if tag >> 3 == 1:
            seconds = number
        else:
            nanos = number
    return seconds * 1000 + nanos // 1_000_000


def _bytes_field(message: bytes, number: int) -> bytes | None:
    """Returns the content of a length-delimited field, in a message that has only such fields and varints."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        size, at = _varint(message, at)
        if tag & 7 == 2:
            if tag >> 3 == number:
                return message[at : at + size]
            at += size
    return None


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Returns a varint and the offset after it."""
    number = shift = 0
    while True:
        byte = message[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
