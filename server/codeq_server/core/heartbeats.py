"""Reports of a worker that holds a task: heartbeats, which extend its lease, and progress."""

from __future__ import annotations

from codeq_internal.v1 import rows_pb2

from .clock import Now
from .holders import held
from .model import Caller
from .shard import Shard


def heartbeat(
    shard: Shard,
    caller: Caller,
    task_id: str,
    token: int | None,
    extend_ms: int | None,
    now: Now,
) -> tuple[int, int]:
    """Extends a lease to `extend_ms` from now (None: the claim's lease length); never shortens it.

    Returns:
        The lease token, and the end of the lease in Unix milliseconds.

    Raises:
        Rejection: TASK_NOT_FOUND, TASK_NOT_CLAIMED, STALE_LEASE_TOKEN, NOT_LEASE_OWNER.
    """
    key, delivery = held(shard, caller, task_id, token)
    claim = delivery.claim
    extend_ms = extend_ms or claim.lease_ms
    until, granted = claim.extended.get(key, (claim.until, claim.lease_ms))
    if now.mono_ms + extend_ms > until:
        until = now.mono_ms + extend_ms
        claim.extended[key] = (until, max(granted, extend_ms))
        if extend_ms > granted:
            shard.batch.extended[claim] = None
    return claim.token, now.wall_ms + until - now.mono_ms


def report_progress(
    shard: Shard,
    caller: Caller,
    task_id: str,
    token: int | None,
    progress: bytes,
    extend_ms: int | None,
    now: Now,
) -> tuple[int, int]:
    """Stores a task's progress under its lease, and extends the lease to `extend_ms` from now unless that is None.

    Returns:
        The lease token, and the end of the lease in Unix milliseconds.

    Raises:
        Rejection: TASK_NOT_FOUND, TASK_NOT_CLAIMED, STALE_LEASE_TOKEN, NOT_LEASE_OWNER.
    """
    key, (claim, home, position, _, _) = held(shard, caller, task_id, token)
    state = shard.state(home, position) or rows_pb2.StateRow()
    state.progress = progress
    shard.put_state(home, position, state)
    claim.progressed.add(key)
    if extend_ms is not None:
        return heartbeat(shard, caller, task_id, token, extend_ms, now)
    return claim.token, now.wall_ms + claim.until_of(key) - now.mono_ms
