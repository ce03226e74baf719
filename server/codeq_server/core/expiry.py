"""Expiry of waiting tasks: a task still waiting at the time that its producer set ends as FAILED.

A task that is running at that time keeps running and no longer expires. Neither does a task redriven after that time.
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
from .task_bytes import expire_ms_of
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
    """Removes a task that is being deleted from the expiry index, if it is listed there."""
    queue = home.queue
    key = keys.place_key(home.task_prefix, position)
    value = shard.get(key)
    expire_ms = 0 if value is None else unpacked(lambda stored: expire_ms_of(keys.task_bytes(stored)), key, value)
    if not expire_ms:
        return
    if shard.get(keys.time_key(keys.EXPIRY, queue.number, expire_ms, home.index, position)) is not None:
        shard.expiry.remove(queue, expire_ms, home.index, position)
