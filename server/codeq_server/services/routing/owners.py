"""Calls with one owner: the shard that executes each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from codeq_server.auth.claims import Claims
from codeq_server.core import names
from codeq_server.core.errors import Rejection
from codeq_server.core.ids import shard_of
from codeq_server.services.shards import Shards

from .placing import has_home, of_spec
from .routed import acting_tenant

SEVERAL: Final = -1
"""In place of a shard: the call concerns several."""

Owner = Callable[[Shards, Claims, Any], int]
"""Returns the shard that executes a call, or SEVERAL."""


def here(shards: Shards, claims: Claims, request: Any) -> int:  # noqa: ARG001
    """Returns the shard of this process."""
    return shards.mine


def first(shards: Shards, claims: Claims, request: Any) -> int:  # noqa: ARG001
    """Returns shard 0, which gets what all shards have in common before the others."""
    return 0


def of_task(shards: Shards, claims: Claims, request: Any) -> int:  # noqa: ARG001
    """Returns the shard of the task that the request names."""
    return shards.shard_of(request.task_id)


def of_schedule(shards: Shards, claims: Claims, request: Any) -> int:
    """Returns the shard of the schedule that the request names."""
    return shard_of(f"{acting_tenant(claims, request)}\n{request.name}", shards.count)


def of_new_task(shards: Shards, claims: Claims, request: Any) -> int:
    """Returns the shard in which a task is created."""
    return of_spec(shards, claims, request.spec, "spec.")


def of_new_tasks(shards: Shards, claims: Claims, request: Any) -> int:
    """Returns the shard in which all tasks of a batch are created.

    Raises:
        Rejection: As `of_spec`, of an atomic batch.
    """
    if request.HasField("idempotency_key") and not request.atomic:
        return shards.mine  # the key is an error, which any shard reports
    if not request.atomic:
        try:
            return _of_all({of_spec(shards, claims, spec) for spec in request.tasks}, shards.mine)
        except Rejection:
            return SEVERAL  # the answer of that task is an error
    fixed = [spec for spec in request.tasks if spec.task_id or has_home(shards, claims, spec)]
    otherwise = shards.mine
    if request.HasField("idempotency_key"):
        otherwise = shards.shard_of(names.keyed_id(claims.tenant_id, request.idempotency_key))
    return _of_all({of_spec(shards, claims, spec) for spec in fixed}, otherwise)


def of_results(shards: Shards, claims: Claims, request: Any) -> int:  # noqa: ARG001
    """Returns the shard of all tasks of a batch of results."""
    return _of_all({shards.shard_of(item.task_id) for item in request.results}, shards.mine)


def _of_all(found: set[int], otherwise: int) -> int:
    if len(found) > 1:
        return SEVERAL
    return found.pop() if found else otherwise
