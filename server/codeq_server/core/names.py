"""Tasks whose id the server does not assign: the producer chose it, or it derives from an idempotency key.

Decisions run one at a time and see rows that are decided but not yet written, so the check and the creation are a
single step. Of any number of identical requests with one key, exactly one creates the task. The row that maps the id to
the task is written and removed together with the task's other rows.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from codeq_internal.v1 import rows_pb2

from . import ids, keys
from .clock import Now
from .creates import check_storage, create_in
from .errors import CorruptRows, Reason, Rejection
from .model import Lane, Name, TaskKey
from .new_task import Naming, NewTask
from .parsing import parsed, unpacked
from .quotas import check_create
from .shard import Shard
from .tenant_keys import named_id

NAMESPACE: Final = uuid.UUID("7d3b0a5e-4c38-5e0f-9c3e-5b1f6a0c9d27").bytes
"""Namespace of the ids derived from idempotency keys. Never changed: a retry must always lead to the same id."""


_LED_MAX: Final = 16
"""Rows read to find a task whose id has other last digits; a producer can choose such ids, but has no reason to."""


@dataclass(frozen=True, slots=True)
class Created:
    """A newly accepted task: its id and its task bytes."""

    task_id: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The request was already carried out: the id of the task that it created."""

    task_id: str


def keyed_id(tenant: str, key: str, index: int | None = None) -> str:
    """Returns the id derived from an idempotency key: a UUID of version 5.

    Args:
        tenant: Tenant of the producer.
        key: The key, without control characters.
        index: Place of the task in its atomic batch; None: the id of a single task or of the batch itself.
    """
    name = f"{tenant}\n{key}" if index is None else f"{tenant}\n{key}\n{index}"
    return ids.uuid_text(ids.derived(NAMESPACE, name))


def keyed_id_in(route: ids.Route | None, tenant: str, key: str, index: int | None = None) -> str:
    """Returns the id derived from an idempotency key of a task in a shard; see `Route.lead`.

    Args:
        route: The way to the shard of the task: that of its batch, or of the limits and order that it shares with
            others; None: there is only one shard.
        tenant: As in `keyed_id`.
        key: As in `keyed_id`.
        index: As in `keyed_id`.
    """
    task_id = keyed_id(tenant, key, index)
    return task_id if route is None else route.lead(task_id)


def create(shard: Shard, tenant: str, task: NewTask, now: Now) -> Created | Duplicate:
    """Accepts a task, or finds the task that the same request created earlier.

    Raises:
        Rejection: TOO_MANY_QUEUES, QUOTA_EXCEEDED, STORAGE_FULL, IDEMPOTENCY_CONFLICT, TASK_ID_TAKEN,
            POLICY_VIOLATION.
    """
    if task.naming is not None:
        made = _made(shard, tenant, task.naming)
        if made is not None:
            return made
    if task.misfit is not None:
        raise shard.policies.refuse(task.misfit)
    check_storage(shard)
    check_create(shard, tenant, 1, len(task.payload) + len(task.kept))
    return _create(shard, tenant, task, "", now)


def create_all(
    shard: Shard, tenant: str, tasks: Sequence[NewTask], batch: Naming | None, now: Now
) -> list[Created] | list[Duplicate | None]:
    """Accepts all tasks or none, or finds the tasks that the same request created earlier.

    Args:
        shard: Shard that accepts the tasks.
        tenant: Tenant of the producer.
        tasks: The tasks; with `batch`, the id of each derives from the key of the batch.
        batch: Id and digests derived from the key of the batch; None: the batch has no key.
        now: Time of acceptance.

    Returns:
        The tasks just accepted; or, if the batch was accepted before, its tasks, with None for each removed since.

    Raises:
        Rejection: TOO_MANY_QUEUES, QUOTA_EXCEEDED, STORAGE_FULL, IDEMPOTENCY_CONFLICT, TASK_ID_TAKEN,
            POLICY_VIOLATION. Nothing was changed.
    """
    if batch is not None:
        row = _row(shard, tenant, batch.task_id)
        if row is not None:
            if not batch.made(row) or row.batch_tasks != len(tasks):
                raise _conflict()
            return [_of_batch(shard, tenant, task.naming) for task in tasks]
    check_storage(shard)
    taken: set[str] = set()
    for index, task in enumerate(tasks):
        if task.misfit is not None:
            raise shard.policies.refuse(task.misfit)
        if task.naming is not None:
            task_id = task.naming.task_id
            if task_id in taken or _row(shard, tenant, task_id) is not None:
                raise Rejection(Reason.TASK_ID_TAKEN, f"tasks[{index}]: a task already has the id {task_id}")
            taken.add(task_id)
    check_create(shard, tenant, len(tasks), sum([len(task.payload) + len(task.kept) for task in tasks]))
    shard.make_room(tenant, {task.command for task in tasks})
    if batch is not None:
        row = rows_pb2.NameRow(
            digest=batch.digest, meaning=batch.meaning, batch_tasks=len(tasks), batch_left=len(tasks)
        )
        shard.batch.rows[keys.name_key(tenant, batch.task_id)] = row.SerializeToString()
    return [_create(shard, tenant, task, batch.task_id if batch else "", now) for task in tasks]


def _create(shard: Shard, tenant: str, task: NewTask, batch: str, now: Now) -> Created:
    queue = shard.by_name.get((tenant, task.command)) or shard.open_queue(tenant, task.command)
    naming = task.naming
    task_id, raw = create_in(shard, queue, task.payload, task.priority, now, task)
    if task.traceparent and shard.traces is not None:
        key: TaskKey = task_id if naming is None else Name(tenant, task_id)
        shard.traces.begin(key, tenant, task.command, task.traceparent, now.wall_ms)
    if naming is not None:
        lane = queue.lane(keys.PARKED_LANE if task.due_ms > now.wall_ms else keys.LANES - 1 - task.priority)
        row = rows_pb2.NameRow(
            queue=queue.number,
            home=keys.pack_home(lane.index, lane.tail),
            epoch=shard.epoch,
            digest=naming.digest,
            meaning=naming.meaning,
            batch=batch,
        )
        shard.batch.rows[keys.name_key(tenant, naming.task_id)] = row.SerializeToString()
        queue.named += 1
    return Created(task_id, raw)


def _made(shard: Shard, tenant: str, naming: Naming) -> Duplicate | None:
    """Returns the task that the same request created; None: the id is free."""
    task_id = _taken(shard, tenant, naming)
    row = _row(shard, tenant, task_id)
    if row is None:
        return None
    if not naming.digest:
        raise Rejection(Reason.TASK_ID_TAKEN, f"a task already has the id {task_id}")
    if not naming.made(row) or row.batch_tasks:
        raise _conflict()
    return Duplicate(task_id)


def _of_batch(shard: Shard, tenant: str, naming: Naming | None) -> Duplicate | None:
    assert naming is not None
    task_id = _taken(shard, tenant, naming)
    return None if _row(shard, tenant, task_id) is None else Duplicate(task_id)


def _taken(shard: Shard, tenant: str, naming: Naming) -> str:
    """Returns the id under which a task with this naming may exist.

    An id that derives from an idempotency key depends on the number of shards in its last digits; see `Route.lead`.
    """
    task_id = naming.task_id
    if not shard.resharded or not naming.digest or _row(shard, tenant, task_id) is not None:
        return task_id
    start = keys.name_key(tenant, task_id[: ids.LED_DIGITS])
    for key, value in shard.current(shard.stored.scan(start, start + b"\x7f", _LED_MAX)):
        found = named_id(key)
        if len(found) == len(task_id) and parsed(rows_pb2.NameRow, key, value).digest:
            return found
    return task_id


def _conflict() -> Rejection:
    return Rejection(Reason.IDEMPOTENCY_CONFLICT, "another request was made with this idempotency key")


def _row(shard: Shard, tenant: str, task_id: str) -> rows_pb2.NameRow | None:
    key = keys.name_key(tenant, task_id)
    value = shard.get(key)
    return None if value is None else parsed(rows_pb2.NameRow, key, value)


def find_named(shard: Shard, tenant: str, task_id: str) -> tuple[Lane, int, bytes] | None:
    """Returns lane, position and value of the home of a task whose id the server did not assign; None: no such task."""
    row = _row(shard, tenant, task_id)
    if row is None or row.batch_tasks:
        return None
    name_key = keys.name_key(tenant, task_id)
    lane_index, position = keys.unpack_home(row.home)
    lane = shard.lane_named(name_key, row.queue, lane_index)
    key = keys.place_key(lane.task_prefix, position)
    value = shard.get(key)
    if value is None or keys.home_epoch(value) != row.epoch or unpacked(keys.name_of, key, value) != task_id:
        raise CorruptRows(name_key, "leads to no home of a task with this id")
    return lane, position, value


def forget(shard: Shard, lane: Lane, home_key: bytes) -> None:
    """Removes the name row of a task that is being removed, and with a batch's last task the batch's row as well."""
    home = shard.get(home_key)
    task_id = "" if home is None else unpacked(keys.name_of, home_key, home)
    if not task_id:
        return
    queue, rows = lane.queue, shard.batch.rows
    row = _row(shard, queue.tenant, task_id)
    rows[keys.name_key(queue.tenant, task_id)] = None
    queue.named -= 1
    shard.touch(queue)
    if row is None or not row.batch:
        return
    batch = _row(shard, queue.tenant, row.batch)
    if batch is not None:
        batch.batch_left -= 1
        rows[keys.name_key(queue.tenant, row.batch)] = batch.SerializeToString() if batch.batch_left else None
