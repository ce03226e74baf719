"""Converts producers' task specs to tasks that the core accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from codeq.v1 import task_pb2

from codeq_server.core import names
from codeq_server.core.clock import Now
from codeq_server.core.errors import Rejection, invalid_field
from codeq_server.core.new_task import Naming, NewTask, TaskKeys
from codeq_server.core.policy import STEPS_PER_COST, Policy, fitted
from codeq_server.core.shard import Shard
from codeq_server.engine.runner import ShardRunner

from .convert import unix_ms
from .fingerprint import NULL, digest_of, meaning_of
from .receiver_urls import check_receiver
from .spec_fields import kept_of
from .validation import check_json, check_message

DUE_MAX_MS: Final = 253_402_300_799_000
"""Latest allowed due time, in Unix milliseconds: the last second of the year 9999."""

Check = Callable[[bytes, bytes], str]
"""Returns why a payload does not fit a schema; empty: it fits."""


def task_of(
    shard: Shard, tenant: str, spec: task_pb2.TaskSpec, now: Now, path: str = "", check: Check | None = None
) -> NewTask:
    """Returns the task of a spec that already passed the rules of its proto.

    Args:
        shard: The shard.
        tenant: Tenant of the task.
        spec: The spec.
        now: Time of the request.
        path: Path of the spec in the request.
        check: Returns why a payload does not fit a schema; None: the shard's checker does.

    Raises:
        Rejection: INVALID_FIELD, URL_NOT_ALLOWED, POLICY_VIOLATION.
    """
    policy = shard.policies.of(tenant, spec.command)
    payload = spec.payload or NULL
    check_json(payload, f"{path}payload")
    due_ms = due_of(spec, now, path)
    expire_ms = now.wall_ms + spec.expire_seconds * 1000 if spec.HasField("expire_seconds") else 0
    naming = None
    if spec.HasField("idempotency_key"):
        if spec.HasField("task_id"):
            raise invalid_field(f"{path}task_id", "cannot be combined with idempotency_key, which determines the id")
        defaults = [_defaults_of(shard, policy)]
        naming = _keyed(names.keyed_id_in(shard.settings.route, tenant, spec.idempotency_key), (spec,), defaults)
    elif spec.HasField("task_id"):
        naming = Naming(spec.task_id)
    kept, keys = kept_of(spec), None
    if spec.concurrency_key or spec.rate_key or spec.ordering_key:
        keys = TaskKeys(spec.concurrency_key, spec.rate_key, spec.ordering_key)
    hooked = bool(spec.webhook)
    if hooked:
        check_receiver(shard, f"{path}webhook", spec.webhook)
    task = NewTask(
        spec.command,
        payload,
        spec.priority,
        spec.max_attempts,
        due_ms,
        naming,
        expire_ms,
        kept,
        hooked=hooked,
        keys=keys,
        traceparent="" if shard.traces is None else spec.traceparent,
    )
    return task if policy is None else fitted(policy, task, now, path, check or shard.policies.checker.misfit)


def charged_task_of(runner: ShardRunner, tenant: str, spec: task_pb2.TaskSpec, now: Now, path: str = "") -> NewTask:
    """Returns the same as `task_of`, and charges the tenant for the check of the payload.

    Raises:
        Rejection: As `task_of`.
    """
    checker = runner.shard.policies.checker
    begun = checker.steps
    task = task_of(runner.shard, tenant, spec, now, path)
    if checker.steps != begun:
        runner.admission.charge(tenant, (checker.steps - begun) // STEPS_PER_COST)
    return task


async def check_in_turns(runner: ShardRunner, tenant: str, specs: Iterable[task_pb2.TaskSpec]) -> Check:
    """Checks the payloads of an atomic batch in several turns, and returns a check that knows the outcomes.

    Raises:
        Rejection: The runner no longer decides.
    """
    policies = runner.shard.policies
    checker = policies.checker
    found: dict[tuple[bytes, bytes], str] = {}
    for spec in specs:
        policy, payload = policies.of(tenant, spec.command), spec.payload or NULL
        if policy is None or not policy.payload_schema or (policy.payload_schema, payload) in found:
            continue
        begun = checker.steps
        found[policy.payload_schema, payload] = checker.misfit(policy.payload_schema, payload)
        await runner.room(tenant, (checker.steps - begun) // STEPS_PER_COST)

    def check(schema: bytes, payload: bytes) -> str:
        known = found.get((schema, payload))
        return checker.misfit(schema, payload) if known is None else known

    return check


def batch_of(
    shard: Shard, tenant: str, specs: Iterable[task_pb2.TaskSpec], key: str, now: Now, check: Check
) -> tuple[list[NewTask], Naming | None]:
    """Returns the tasks of an atomic batch, and the naming derived from its key (None if the key is "").

    `check` returns why a payload does not fit a schema.

    Raises:
        Rejection: Of the first task that is rejected, naming its field.
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
        tasks.append(task_of(shard, tenant, spec, now, path, check))
    if not key:
        return tasks, None
    defaults = [_defaults_of(shard, shard.policies.of(tenant, spec.command)) for spec in specs]
    batch = _keyed(names.keyed_id(tenant, key), specs, defaults)
    route = shard.settings.route
    namings = (replace(batch, task_id=names.keyed_id_in(route, tenant, key, index)) for index in range(len(tasks)))
    return [replace(task, naming=naming) for task, naming in zip(tasks, namings, strict=True)], batch


def _keyed(task_id: str, specs: Sequence[task_pb2.TaskSpec], defaults: Sequence[Mapping[str, int | str]]) -> Naming:
    return Naming(task_id, digest_of(specs), meaning_of(specs, defaults))


def _defaults_of(shard: Shard, policy: Policy | None) -> dict[str, int | str]:
    """Returns the defaults of a task's fields that settings and the policy of its command determine."""
    defaults: dict[str, int | str] = {"max_attempts": shard.settings.max_attempts}
    if policy is not None:
        defaults["max_attempts"] = policy.max_attempts or shard.settings.max_attempts
        defaults["priority"] = policy.default_priority
        defaults["webhook"] = policy.webhook
        if policy.expire_ms:
            defaults["expire_seconds"] = policy.expire_ms // 1000
    return defaults


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
