"""Checks who may act on a task's delivery. Outcomes, heartbeats, progress and uploads all go through this one check."""

from __future__ import annotations

from typing import Final

from codeq_internal.v1 import rows_pb2

from .deliveries import Delivery
from .errors import Reason, Rejection
from .lookup import find_home, find_live
from .model import Caller, TaskKey
from .shard import Shard

_MESSAGES: Final = {
    Reason.STALE_LEASE_TOKEN: "the lease token does not match the current lease",
    Reason.NOT_LEASE_OWNER: "the task is leased to another worker",
}


def objection(delivery: Delivery, caller: Caller, token: int | None) -> Reason | None:
    """Returns why a caller may not act on a live delivery; None: the caller holds it.

    With the lease token, any worker of the same subject holds the lease; without it, only the worker that claimed it.
    The subject is compared in any case: one with a slash may be spelled like a named worker of another.
    """
    claim = delivery[0]
    if delivery[1].queue.tenant != caller.tenant:
        return Reason.TASK_NOT_FOUND
    if token is None:
        is_holder = claim.worker == caller.worker and claim.subject == caller.subject
        return None if is_holder else Reason.NOT_LEASE_OWNER
    if token != claim.token:
        return Reason.STALE_LEASE_TOKEN
    return None if claim.subject == caller.subject else Reason.NOT_LEASE_OWNER


def held(shard: Shard, caller: Caller, task_id: str, token: int | None) -> tuple[TaskKey, Delivery]:
    """Returns the key and the caller's live delivery of a task.

    Raises:
        Rejection: TASK_NOT_FOUND, TASK_NOT_CLAIMED, STALE_LEASE_TOKEN, NOT_LEASE_OWNER.
    """
    key, delivery = find_live(shard, caller.tenant, task_id)
    if delivery is not None and objection(delivery, caller, token) is None:
        return key, delivery
    home, position = find_home(shard, caller.tenant, task_id)
    raise rejection(delivery, caller, token, shard.state(home, position))


def rejection(
    delivery: Delivery | None, caller: Caller, token: int | None, state: rows_pb2.StateRow | None
) -> Rejection:
    """Returns the rejection of a caller that holds no live delivery of a task of its tenant.

    Args:
        delivery: The task's live delivery, if any.
        caller: The caller.
        token: The lease token that the caller presented.
        state: The task's state row.
    """
    reason = objection(delivery, caller, token) if delivery is not None else None
    if reason is not None:
        return Rejection(reason, _MESSAGES[reason])
    if token is not None and (state is None or state.ended_token != token):
        return Rejection(Reason.STALE_LEASE_TOKEN, "the lease token matches no live lease")
    return Rejection(Reason.TASK_NOT_CLAIMED, "the task is not leased")
