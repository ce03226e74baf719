"""Finds the home and the live delivery of a task by its id."""

from __future__ import annotations

from . import ids, keys
from .deliveries import Delivery
from .errors import CorruptRows, Reason, Rejection
from .model import Lane, Name, TaskKey
from .names import find_named
from .parsing import unpacked
from .shard import Shard


def find_live(shard: Shard, tenant: str, task_id: str) -> tuple[TaskKey, Delivery | None]:
    """Returns the key and the live delivery of a task; without a live delivery, the key has no meaning."""
    delivery = shard.deliveries.get(task_id)
    if delivery is not None:
        return task_id, delivery
    name = Name(tenant, task_id)
    return name, shard.deliveries.get(name)


def find_home(shard: Shard, tenant: str, task_id: str) -> tuple[Lane, int]:
    """Returns lane and position of a task's home.

    Raises:
        Rejection: TASK_NOT_FOUND, also for another tenant's task.
    """
    home, position, _ = read_home(shard, tenant, task_id)
    return home, position


def read_home(shard: Shard, tenant: str, task_id: str) -> tuple[Lane, int, bytes]:
    """Returns lane and position of a task's home, and its value.

    Raises:
        Rejection: TASK_NOT_FOUND, also for another tenant's task.
    """
    ref = ids.parse_id(task_id)
    if ref is not None:
        queue = shard.queues.get(ref.queue)
        if queue is not None and queue.tenant == tenant:
            lane = queue.lanes[ref.lane]
            if lane is not None:
                value = shard.get(keys.place_key(lane.task_prefix, ref.position))
                # The epoch of a named task's home never matches: a named task has only its own id.
                if (
                    value is not None
                    and keys.is_home_of_epoch(value, ref.epoch)
                    and lane.id_of(ref.position, ref.epoch) == task_id  # the route byte is right, too
                ):
                    return lane, ref.position, value
    if ref is None or shard.resharded:  # a server with another number of shards may have assigned the id
        named = find_named(shard, tenant, task_id)
        if named is not None:
            return named
    raise not_found(task_id)


def key_of(shard: Shard, lane: Lane, position: int) -> TaskKey:
    """Returns the key of the task with this home.

    Raises:
        CorruptRows: There is no such home.
    """
    key = keys.place_key(lane.task_prefix, position)
    value = shard.get(key)
    if value is None:
        raise CorruptRows(key, "the home of a task is missing")
    return unpacked(lambda home: lane.key_of(position, home), key, value)


def command_of(shard: Shard, tenant: str, task_id: str) -> str:
    """Returns the command of a task.

    Raises:
        Rejection: TASK_NOT_FOUND, also for another tenant's task.
    """
    return find_home(shard, tenant, task_id)[0].queue.command


def not_found(task_id: str) -> Rejection:
    """Returns the rejection of a call that names no task which the caller may see."""
    return Rejection(Reason.TASK_NOT_FOUND, f"no task has the id {task_id[:64]!r}")
