"""Accepting tasks."""

from __future__ import annotations

from typing import Final

from . import keys
from .clock import Now
from .errors import Reason, Rejection
from .model import WINDOW_ENTRY_BYTES, Entry, Lane, Name, Queue
from .shard import Shard
from .task_bytes import created_at, encode_task, task_head

HEADS_MAX: Final = 8
"""Values of max_attempts for which a lane caches the head of its task bytes."""

_new = tuple.__new__
"""Makes the same object as calling a NamedTuple's class, in a third of the time."""


def create(
    shard: Shard,
    tenant: str,
    command: str,
    payload: bytes,
    priority: int,
    max_attempts: int,
    due_ms: int,
    now: Now,
    expire_ms: int = 0,
) -> tuple[str, bytes]:
    """Accepts a task and returns its id and its task bytes.

    Args:
        shard: Shard that takes it.
        tenant: Tenant of the producer.
        command: Command; validated.
        payload: JSON; validated.
        priority: 0 to 9.
        max_attempts: Deliveries allowed; 0: the shard's default.
        due_ms: Unix milliseconds before which it is not delivered; 0 or in the past: deliverable at once.
        now: Time of acceptance.
        expire_ms: Unix milliseconds, after `now`, at which it ends if it is still waiting; 0: never.

    Raises:
        Rejection: TOO_MANY_QUEUES, STORAGE_FULL.
    """
    check_storage(shard)
    queue = shard.by_name.get((tenant, command)) or shard.open_queue(tenant, command)
    return create_in(shard, queue, payload, priority, max_attempts, due_ms, now, expire_ms=expire_ms)


def check_storage(shard: Shard) -> None:
    """Checks that the store has room for new tasks.

    Raises:
        Rejection: STORAGE_FULL.
    """
    if shard.storage_full:
        raise Rejection(Reason.STORAGE_FULL, "the server's disk is nearly full: it takes no new tasks for now")


def create_in(
    shard: Shard,
    queue: Queue,
    payload: bytes,
    priority: int,
    max_attempts: int,
    due_ms: int,
    now: Now,
    name: str = "",
    expire_ms: int = 0,
) -> tuple[str, bytes]:
    """Accepts a task into a queue like `create`, but without checking that the store has room.

    `name` is the task's id if the server does not assign one; it must be free.
    """
    lane = queue.lanes[9 - priority] or queue.lane(9 - priority)
    max_attempts = max_attempts or shard.settings.max_attempts
    head = lane.heads.get(max_attempts)
    if head is None:
        if len(lane.heads) >= HEADS_MAX:
            lane.heads.clear()
        head = lane.heads[max_attempts] = task_head(queue.command, lane.index, max_attempts)
    if shard.created_of != now.wall_ms:
        shard.created_of, shard.created = now.wall_ms, created_at(now.wall_ms)
    raw = encode_task(head, payload, shard.created, expire_ms)
    if expire_ms:
        home = queue.lane(keys.PARKED_LANE) if due_ms > now.wall_ms else lane
        shard.expiry.put(queue, expire_ms, home.index, home.tail + 1, b"")
    shard.batch.size += len(payload)
    queue.created_total += 1
    shard.totals.created += 1
    if not queue.touched:
        shard.touch(queue)
    if due_ms > now.wall_ms:
        return _park(shard, lane, raw, due_ms, name), raw
    position = lane.tail + 1
    if name:
        key = keys.place_key(lane.task_prefix, position)
        shard.batch.rows[key] = keys.home_head(shard.epoch | keys.NAMED_EPOCH) + keys.name_head(name) + raw
        append(shard, lane, Entry(position, Name(queue.tenant, name), raw, None))
        return name, raw
    task_id = lane.id_of(position, shard.epoch)
    shard.batch.rows[lane.task_prefix + position.to_bytes(6, "big")] = shard.home_head + raw
    append(shard, lane, _new(Entry, (position, task_id, raw, None)))
    return task_id, raw


def append(shard: Shard, lane: Lane, entry: Entry) -> None:
    """Gives a task the place after the lane's tail; the caller writes the row."""
    position = lane.tail = entry[0]
    if lane.loaded == position - 1 and shard.windows_bytes < shard.settings.window_bytes_max:
        lane.window.append(entry)
        lane.loaded = position
        size = len(entry[2]) + WINDOW_ENTRY_BYTES
        lane.window_bytes += size
        shard.windows_bytes += size
        if lane not in shard.loaded_lanes:
            shard.loaded_lanes[lane] = None
    lane.ready += 1
    if lane.ready == 1:
        shard.became_ready(lane)


def _park(shard: Shard, lane: Lane, raw: bytes, due_ms: int, name: str) -> str:
    queue = lane.queue
    parked = queue.lane(keys.PARKED_LANE)
    position = parked.tail = parked.tail + 1
    if name:
        head = keys.parked_head(shard.epoch | keys.NAMED_EPOCH, due_ms, lane.index) + keys.name_head(name)
    else:
        head = keys.parked_head(shard.epoch, due_ms, lane.index)
    shard.batch.rows[keys.place_key(parked.task_prefix, position)] = head + raw
    value = keys.due_value(lane.index, 0, has_state=False)
    shard.due.put(queue, due_ms, keys.PARKED_LANE, position, value)
    return name or parked.id_of(position, shard.epoch)
