"""Accepting tasks."""

from __future__ import annotations

from . import keys, ordering
from .clock import Now
from .errors import Reason, Rejection
from .model import Entry, Lane, Name, Queue
from .new_task import NewTask
from .shard import Shard
from .task_bytes import created_at, encode_task, ordering_number, task_head
from .windows import append

_new = tuple.__new__
"""Creates the same object as calling a NamedTuple's class, in a third of the time."""


def check_storage(shard: Shard) -> None:
    """Checks that the store has room for new tasks.

    Raises:
        Rejection: STORAGE_FULL.
    """
    if shard.storage_full:
        raise Rejection(Reason.STORAGE_FULL, "the server's disk is nearly full: it accepts no new tasks for now")


def create_in(
    shard: Shard,
    queue: Queue,
    payload: bytes,
    priority: int,
    now: Now,
    task: NewTask | None = None,
    kept: bytes = b"",
) -> tuple[str, bytes]:
    """Accepts a task into its queue, and returns its id and its task bytes. The caller checks that the store has room.

    Args:
        shard: Shard that accepts the task.
        queue: Queue of the task's command.
        payload: JSON; validated.
        priority: 0 to 9.
        now: Time of acceptance.
        task: The whole task; None: everything except payload, priority and `kept` has its default.
        kept: As in the task, if that is None.
    """
    due_ms = expire_ms = 0
    name = ""
    max_attempts = shard.settings.max_attempts
    if task is not None:
        max_attempts = task.max_attempts or max_attempts
        due_ms, expire_ms, kept = task.due_ms, task.expire_ms, task.kept
        name = task.naming.task_id if task.naming is not None else ""
        queue.hooked += task.hooked
    lane = queue.lanes[9 - priority] or queue.lane(9 - priority)
    if lane.max_attempts != max_attempts:
        lane.max_attempts, lane.task_head = max_attempts, task_head(queue.command, lane.index, max_attempts)
    home = lane if due_ms <= now.wall_ms else queue.lane(keys.PARKED_LANE)
    task_id = "" if queue.route is None or name else home.pass_over(shard.epoch)
    if shard.created_of != now.wall_ms:
        shard.created_of, shard.created = now.wall_ms, created_at(now.wall_ms)
    raw = encode_task(lane.task_head, payload, shard.created, kept, expire_ms)
    if task is not None and task.keys is not None:
        queue.keep_keys().keyed = True
        if task.keys.ordering:
            packed = keys.pack_home(home.index, home.tail + 1)
            raw += ordering_number(ordering.join(shard, queue, task.keys.ordering, packed))
    if expire_ms:
        shard.expiry.put(queue, expire_ms, home.index, home.tail + 1, b"")
    size = len(payload) + len(kept)
    shard.batch.size += size
    queue.accepted_bytes += size
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
    task_id = task_id or lane.id_of(position, shard.epoch)
    shard.batch.rows[lane.task_prefix + position.to_bytes(6, "big")] = shard.home_head + raw
    append(shard, lane, _new(Entry, (position, task_id, raw, None)))
    return task_id, raw


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
