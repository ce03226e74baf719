"""Creates tasks for dead letters in the dead-letter topics that the policies of their commands name."""

from __future__ import annotations

from typing import NamedTuple

from codeq_internal.v1 import rows_pb2

from . import keys
from .clock import Now
from .history import deliveries
from .model import Lane, Queue, TaskKey, id_of
from .parsing import unpacked
from .policy import NO_POLICY
from .shard import Shard
from .task_bytes import created_at, encode_task, origin, payload_of, task_head, trace_of, webhook


class Heir(NamedTuple):
    """A task created for a dead letter, with its place still to be given.

    Attributes:
        lane: Lane of its priority.
        home: Lane of its home.
        position: Position of its home.
        state: Its state row.
    """

    lane: Lane
    home: Lane
    position: int
    state: rows_pb2.StateRow


def heir_of(
    shard: Shard, home: Lane, position: int, lane: Lane, task_id: TaskKey, dead: rows_pb2.StateRow, now: Now
) -> Heir | None:
    """Creates the task for a dead letter in the dead-letter topic of its policy, if the policy names one.

    The new task has the payload, the trace context and the history of the dead one, and names it as its origin. Its
    home lies where those of scheduled tasks lie, with a pointer at the tail of its lane, because only a task that
    waits away from its home may have a state row. No limit refuses it: a burial cannot fail.

    Args:
        shard: Shard that owns both tasks.
        home: Lane of the dead letter's home.
        position: Position of its home.
        lane: Lane of its priority.
        task_id: Its key.
        dead: Its state row.
        now: Time of its end.

    Returns:
        The new task, for which the caller enqueues a place and puts the state row; None: the policy names no command.
    """
    queue = home.queue
    policy = queue.policy
    if policy is None or not policy.dead_letters:
        return None
    key = keys.place_key(home.task_prefix, position)
    task = unpacked(keys.task_bytes, key, shard.get(key) or b"")
    tenant = queue.tenant
    target = shard.by_name.get((tenant, policy.dead_letters)) or shard.add_queue(tenant, policy.dead_letters)
    to_lane = _lane_of(target, lane.index)
    own = target.policy or NO_POLICY
    attempts = own.max_attempts or shard.settings.max_attempts
    kept = trace_of(task) + origin(id_of(task_id), queue.command) + webhook(own.webhook)
    head = task_head(target.command, to_lane.index, attempts)
    payload = payload_of(task)
    raw = encode_task(head, payload, created_at(now.wall_ms), kept, 0)
    parked = target.lane(keys.PARKED_LANE)
    place = parked.tail = parked.tail + 1
    row_key = keys.place_key(parked.task_prefix, place)
    shard.batch.rows[row_key] = keys.parked_head(shard.epoch, now.wall_ms, to_lane.index) + raw
    size = len(payload) + len(kept)
    shard.batch.size += size
    target.accepted_bytes += size
    target.hooked += bool(own.webhook)
    target.created_total += 1
    shard.totals.created += 1
    return Heir(to_lane, parked, place, rows_pb2.StateRow(changed_ms=now.wall_ms, deliveries=deliveries(dead)))


def _lane_of(queue: Queue, index: int) -> Lane:
    """Returns the lane of a queue for a task of another queue's lane, or that of a priority which its policy allows."""
    policy = queue.policy
    priority = keys.LANES - 1 - index
    if policy is not None and policy.tiers and priority not in policy.tiers:
        priority = policy.default_priority or policy.tiers[0]
    return queue.lane(keys.LANES - 1 - priority)
