"""Keeps tasks in one shard that share a limit or an order, because each shard enforces both on its own."""

from __future__ import annotations

from codeq.v1 import task_pb2

from codeq_server.auth.claims import Claims
from codeq_server.core import names
from codeq_server.core.errors import invalid_field
from codeq_server.core.ids import shard_of
from codeq_server.core.policies import Policies
from codeq_server.services.shards import Shards


def has_limits(policies: Policies, tenant: str, command: str) -> bool:
    """Returns whether the policy of a command limits or orders tasks that name no keys themselves.

    Args:
        policies: Policies of the commands; each shard has the same.
        tenant: Tenant of the command.
        command: The command.
    """
    policy = policies.of(tenant, command)
    return policy is not None and policy.limits_queue


def has_home(shards: Shards, claims: Claims, spec: task_pb2.TaskSpec) -> bool:
    """Returns whether a task belongs in the home of its command: it has keys, or the policy of its command limits it.

    The home is one shard for all such tasks of the command: a task may have several keys, and so limits and an order in
    common with tasks that have only one of them.

    Args:
        shards: The shards.
        claims: Claims of the producer.
        spec: The task, not yet validated.
    """
    if spec.ordering_key or spec.concurrency_key or spec.rate_key:
        return True
    return shards.limits_queue(claims.tenant_id, spec.command)


def of_spec(shards: Shards, claims: Claims, spec: task_pb2.TaskSpec, path: str = "") -> int:
    """Returns the shard of a task's limits and order, or of its id, if its producer determines that.

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
    if has_home(shards, claims, spec):
        home = shard_of(f"{claims.tenant_id}\n{spec.command}", shards.count)
        if spec.HasField("task_id") and shards.shard_of(spec.task_id) != home:
            raise invalid_field(
                f"{path}task_id",
                "leads to another shard than the tasks of the command that have keys or limits; leave the id out, or "
                f"use idempotency_key (numShards is {shards.count})",
            )
        return home
    if spec.HasField("idempotency_key"):
        return shards.shard_of(names.keyed_id(claims.tenant_id, spec.idempotency_key))
    if spec.HasField("task_id"):
        return shards.shard_of(spec.task_id)
    return shards.mine
