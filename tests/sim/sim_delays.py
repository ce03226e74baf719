"""Judges the times of tasks: delays that are over, delays of abandons, and tasks that waited too long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys
from codeq_server.core.expiry import EXPIRED
from codeq_server.core.status import Outcome

if TYPE_CHECKING:
    from sim_audit import Audit, Known


def judge_due(audit: Audit, key: bytes, wall_ms: int) -> None:
    """Judges the end of a delay."""
    queue, due_ms, lane, position = keys.split_time_key(key)
    audit.count("matured")
    task = audit.by_home[keys.place_key(keys.lane_prefix(b"t", queue, lane), position)]
    withdrawn = task.state is not None and task.state.ended_lsn > 0
    audit.demand(
        withdrawn or task.revived or due_ms <= wall_ms,
        f"{task.task_id} fell due at {wall_ms}, {due_ms - wall_ms} ms too early",
    )


def judge_expiry(audit: Audit, task: Known, state: rows_pb2.StateRow) -> None:
    """Judges the end of a task that waited too long."""
    audit.count("outdated")
    limit = task.asked.expire_ms
    audit.demand(limit and state.error == EXPIRED, f"{task.task_id} failed without a worker's outcome")
    waited = state.changed_ms - task.created_ms
    audit.demand(waited >= limit, f"{task.task_id} expired after {waited} ms, its limit is {limit} ms")
    audit.demand(max(task.slots, default=0) <= state.ended_token, f"{task.task_id} expired while it ran")


def judge_claim(audit: Audit, task: Known, state: rows_pb2.StateRow | None, rows: Mapping[bytes, bytes | None]) -> None:
    """Judges the delivery of a task: its delay is over, unless it was redriven in this batch.

    Args:
        audit: The judge.
        task: The task as it was before the batch.
        state: State of the task after the batch.
        rows: Rows of the batch.
    """
    tick, before = rows_pb2.TickRow.FromString(rows[keys.TICK] or b""), task.state
    if before is None or before.place != rows_pb2.PLACE_KIND_DUE or before.ended_lsn:
        return
    redriven = state is not None and state.redriven_lsn == tick.lsn
    early = before.place_at - tick.wall_ms
    audit.demand(redriven or early <= 0, f"{task.task_id} is delivered {early} ms before its delay is over")


def judge_abandon(audit: Audit, task: Known, state: rows_pb2.StateRow) -> None:
    """Judges a delivery that ended: an abandoned task that has not ended waits as long as its worker asked."""
    if state.outcome != Outcome.ABANDON or state.ended_lsn:
        return
    asked_ms = audit.delays.get((task.asked.tenant, task.task_id, state.ended_token), 0)
    if asked_ms:
        audit.count("abandoned with a delay")
    audit.demand(
        state.delay_ms == asked_ms, f"{task.task_id} was abandoned for {asked_ms} ms, but waits {state.delay_ms} ms"
    )
