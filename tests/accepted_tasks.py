"""Accepts tasks in the core as a service would, with all fields as arguments."""

from __future__ import annotations

from codeq.v1.task_pb2 import Task
from codeq_server.core import names
from codeq_server.core.clock import Now
from codeq_server.core.new_task import NewTask
from codeq_server.core.shard import Shard


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
    webhook: str = "",
) -> tuple[str, bytes]:
    """Accepts a task without a key or id of its own; returns its id and its task bytes."""
    kept = Task(webhook=webhook).SerializeToString() if webhook else b""
    task = NewTask(command, payload, priority, max_attempts, due_ms, None, expire_ms, kept, hooked=bool(webhook))
    created = names.create(shard, tenant, task, now)
    assert isinstance(created, names.Created)
    return created.task_id, created.raw
