"""From specs, as producers send them, to tasks that the core can accept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from codeq.v1 import task_pb2

from codeq_server.core import names
from codeq_server.core.clock import Now
from codeq_server.core.errors import Rejection, invalid_field

from .convert import unix_ms
from .validation import check_json, check_message

DUE_MAX_MS: Final = 253_402_300_799_000
"""Last millisecond a timestamp can hold: the end of the year 9999."""
NULL: Final = b"null"
"""Payload of a task that names none."""
DIGEST_BYTES: Final = 16


def task_of(tenant: str, spec: task_pb2.TaskSpec, now: Now, path: str = "") -> names.NewTask:
    """Returns the task that a spec asks for, checked but for the rules in its proto; `path` leads to it in the request.

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
            raise invalid_field(
                f"{path}task_id", "does not go together with idempotency_key, from which the id follows"
            )
        naming = names.Naming(names.keyed_id(tenant, spec.idempotency_key), digest_of((spec,)))
    elif spec.HasField("task_id"):
        naming = names.Naming(spec.task_id)
    return names.NewTask(spec.command, payload, spec.priority, spec.max_attempts, due_ms, naming, expire_ms)


def batch_of(
    tenant: str, specs: Iterable[task_pb2.TaskSpec], key: str, now: Now
) -> tuple[list[names.NewTask], names.Naming | None]:
    """Returns the tasks of an atomic batch, and the naming that follows from its key; "": it has none.

    Raises:
        Rejection: INVALID_FIELD or TOO_LARGE, naming the field of the first malformed task.
    """
    tasks = []
    specs = list(specs)
    digest = digest_of(specs) if key else b""
    for index, spec in enumerate(specs):
        path = f"tasks[{index}]."
        try:
            check_message(spec)
        except Rejection as rejection:
            violations = [(path + field if field else path[:-1], text) for field, text in rejection.violations]
            raise Rejection(rejection.reason, f"{path[:-1]}: {rejection.message}", violations) from None
        if spec.HasField("idempotency_key"):
            raise invalid_field(f"{path}idempotency_key", "is for single tasks; an atomic batch has one key for all")
        if key and spec.HasField("task_id"):
            raise invalid_field(f"{path}task_id", "does not go together with the key of the batch")
        task = task_of(tenant, spec, now, path)
        if key:
            task = replace(task, naming=names.Naming(names.keyed_id(tenant, key, index), digest))
        tasks.append(task)
    return tasks, names.Naming(names.keyed_id(tenant, key), digest) if key else None


def due_of(spec: task_pb2.TaskSpec, now: Now, path: str = "") -> int:
    """Returns the due time of a new task in Unix milliseconds; 0: at once. `path` leads to the spec in the request.

    Raises:
        Rejection: INVALID_FIELD.
    """
    if spec.HasField("delay_seconds"):
        return now.wall_ms + spec.delay_seconds * 1000 if spec.delay_seconds else 0
    if not spec.HasField("run_at"):
        return 0
    due_ms = unix_ms(spec.run_at)
    if due_ms > DUE_MAX_MS or not 0 <= spec.run_at.nanos < 1_000_000_000:
        raise invalid_field(f"{path}run_at", "is not a time before the year 10000")
    return max(due_ms, 0)


def digest_of(specs: Iterable[task_pb2.TaskSpec]) -> bytes:
    """Returns the digest by which a repeated request is known: of what was sent, byte for byte, but for keys and ids.

    It is stored and compared with digests of later versions: a field that a spec does not set must never count.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for spec in specs:
        parts: list[tuple[bytes, bytes]] = [(b"c", spec.command.encode()), (b"p", spec.payload or NULL)]
        if spec.priority:
            parts.append((b"n", str(spec.priority).encode()))
        if spec.HasField("max_attempts"):
            parts.append((b"a", str(spec.max_attempts).encode()))
        if spec.HasField("run_at"):
            parts.append((b"r", f"{spec.run_at.seconds}.{spec.run_at.nanos:09}".encode()))
        if spec.HasField("delay_seconds"):
            parts.append((b"d", str(spec.delay_seconds).encode()))
        if spec.HasField("expire_seconds"):
            parts.append((b"e", str(spec.expire_seconds).encode()))
        for tag, content in parts:
            digest.update(tag + len(content).to_bytes(4, "big") + content)
        digest.update(b".")
    return digest.digest()
