"""Converts producers' task specs to tasks that the core accepts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from codeq.v1 import task_pb2

from codeq_server.core import names
from codeq_server.core.clock import Now
from codeq_server.core.errors import Rejection, invalid_field
from codeq_server.core.new_task import Naming, NewTask, TaskKeys
from codeq_server.core.shard import Shard

from .convert import unix_ms
from .fingerprint import NULL, digest_of, meaning_of
from .spec_fields import kept_of
from .validation import check_json, check_message

DUE_MAX_MS: Final = 253_402_300_799_000
"""Latest allowed due time, in Unix milliseconds: the last second of the year 9999."""


def task_of(shard: Shard, tenant: str, spec: task_pb2.TaskSpec, now: Now, path: str = "") -> NewTask:
    """Returns the task of a spec that already passed the rules of its proto; `path` is the spec's path in the request.

    Raises:
        Rejection: INVALID_FIELD.
    """
    payload = spec.payload or NULL
    check_json(payload, f"{path}payload")
    due_ms = due_of(spec, now, path)
    expire_ms = now.wall_ms + spec.expire_seconds * 1000 if spec.HasField("expire_seconds") else 0
    naming = None
    if spec.HasField("idempotency_key"):
        if spec.HasField("task_id"):
            raise invalid_field(f"{path}task_id", "cannot be combined with idempotency_key, which determines the id")
        naming = _keyed(shard, names.keyed_id(tenant, spec.idempotency_key), (spec,))
    elif spec.HasField("task_id"):
        naming = Naming(spec.task_id)
    kept, keys = kept_of(spec), None
    if spec.concurrency_key or spec.rate_key or spec.ordering_key:
        keys = TaskKeys(spec.concurrency_key, spec.rate_key, spec.ordering_key)
    return NewTask(spec.command, payload, spec.priority, spec.max_attempts, due_ms, naming, expire_ms, kept, keys)


def batch_of(
    shard: Shard, tenant: str, specs: Iterable[task_pb2.TaskSpec], key: str, now: Now
) -> tuple[list[NewTask], Naming | None]:
    """Returns the tasks of an atomic batch, and the naming derived from its key (None if the key is "").

    Raises:
        Rejection: INVALID_FIELD or TOO_LARGE, naming the field of the first malformed task.
    """
    tasks = []
    specs = list(specs)
    for index, spec in enumerate(specs):
        path = f"tasks[{index}]."
        try:
            check_message(spec)
        except Rejection as rejection:
            violations = [(path + field if field else path[:-1], text) for field, text in rejection.violations]
            raise Rejection(rejection.reason, f"{path[:-1]}: {rejection.message}", violations) from None
        if spec.HasField("idempotency_key"):
            raise invalid_field(
                f"{path}idempotency_key", "is only for single tasks; an atomic batch has one key for all its tasks"
            )
        if key and spec.HasField("task_id"):
            raise invalid_field(f"{path}task_id", "cannot be combined with the batch's idempotency key")
        tasks.append(task_of(shard, tenant, spec, now, path))
    if not key:
        return tasks, None
    batch = _keyed(shard, names.keyed_id(tenant, key), specs)
    namings = (replace(batch, task_id=names.keyed_id(tenant, key, index)) for index in range(len(tasks)))
    return [replace(task, naming=naming) for task, naming in zip(tasks, namings, strict=True)], batch


def _keyed(shard: Shard, task_id: str, specs: Sequence[task_pb2.TaskSpec]) -> Naming:
    return Naming(task_id, digest_of(specs), meaning_of(specs, shard.settings.max_attempts))


def due_of(spec: task_pb2.TaskSpec, now: Now, path: str = "") -> int:
    """Returns the due time of a new task in Unix milliseconds; 0: at once. `path` is the spec's path in the request.

    Raises:
        Rejection: INVALID_FIELD.
    """
    if spec.HasField("delay_seconds"):
        return now.wall_ms + spec.delay_seconds * 1000 if spec.delay_seconds else 0
    if not spec.HasField("run_at"):
        return 0
    due_ms = unix_ms(spec.run_at)
    if due_ms > DUE_MAX_MS or not 0 <= spec.run_at.nanos < 1_000_000_000:
        raise invalid_field(f"{path}run_at", "must be a valid time before the year 10000")
    return max(due_ms, 0)
