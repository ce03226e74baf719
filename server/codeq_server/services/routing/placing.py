"""Keeps tasks in one shard that share a limit or an order, because each shard enforces both on its own."""

from __future__ import annotations

from codeq.v1 import task_pb2

from codeq_server.auth.claims import Claims
from codeq_server.core import names
from codeq_server.core.errors import invalid_field
from codeq_server.core.ids import shard_of
from codeq_server.core.new_task import TaskKeys
from codeq_server.core.payload_keys import found_keys
from codeq_server.core.policies import Policies
from codeq_server.services.shards import Shards


def place_of(policies: Policies, tenant: str, spec: task_pb2.TaskSpec) -> str:
    """Returns a text whose hash leads to the shard of a new task; empty: it may be in any shard.

    Of a command whose policy limits the queue as a whole, all tasks share a place. Otherwise a task's ordering key
    decides, else its concurrency key, else its rate key.

    Args:
        policies: Policies of the commands; each shard has the same.
        tenant: Tenant of the task.
        spec: The task, not yet validated.
    """
    keys = TaskKeys(spec.concurrency_key, spec.rate_key, spec.ordering_key)
    policy = policies.of(tenant, spec.command)
    if policy is not None:
        if policy.max_consumers or (policy.of_keys is not None and policy.of_keys.rate_per_second):
            return f"{tenant}\n{spec.command}"
        if policy.key_paths is not None:
            try:
                found = found_keys(policy.key_paths, keys, spec.payload)
            except ValueError:
                return ""  # the shard rejects the task
            keys = TaskKeys(
                keys.concurrency or found.concurrency, keys.rate or found.rate, keys.ordering or found.ordering
            )
    key = keys.ordering or keys.concurrency or keys.rate
    return f"{tenant}\n{spec.command}\n{key}" if key else ""


def of_spec(shards: Shards, claims: Claims, spec: task_pb2.TaskSpec, path: str = "") -> int:
    """Returns the shard of a task's id, or of its limits and order, if its producer determines that.

    Args:
        shards: The shards.
        claims: Claims of the producer.
        spec: The task.
        path: Path of the spec in the request.

    Returns:
        The shard of this process: the task may be in any shard.

    Raises:
        Rejection: INVALID_FIELD: the chosen id leads to another shard than that of the task's limits and order.
    """
    place = shards.place(claims.tenant_id, spec)
    if place:
        shard = shard_of(place, shards.count)
        if spec.HasField("task_id") and shard_of(spec.task_id, shards.count) != shard:
            raise invalid_field(
                f"{path}task_id",
                "leads to another shard than the task's keys or the limits of its queue; leave the id out, or use "
                f"idempotency_key (numShards is {shards.count})",
            )
        return shard
    if spec.HasField("idempotency_key"):
        return shard_of(names.keyed_id(claims.tenant_id, spec.idempotency_key), shards.count)
    if spec.HasField("task_id"):
        return shard_of(spec.task_id, shards.count)
    return shards.mine
