"""The last deliveries of a task, kept in its state row: the worker, the start, and how and when each delivery ended.

For a task completed by its first delivery, the history costs almost nothing: the state row already describes that
delivery, except for its start, which takes one more number.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from codeq_internal.v1 import rows_pb2

from .clock import Now
from .deliveries import Claim

DELIVERIES_KEPT: Final = 10
"""Deliveries kept per task."""
ERROR_CHARACTERS_KEPT: Final = 512
"""Characters kept of each delivery's error; the task itself keeps its last error in full."""


class End(IntEnum):
    """How a delivery ended; the numbers are those of codeq.v1.AttemptEnd."""

    COMPLETED = 1
    FAILED = 2
    NACKED = 3
    ABANDONED = 4
    LEASE_EXPIRED = 5
    RETURNED = 6
    CANCELLED = 7


def note(state: rows_pb2.StateRow, claim: Claim, end: End, error: str, now: Now) -> None:
    """Adds a delivery of a claim, ending now, to a state row."""
    state.deliveries.append(_row(claim.worker, claim.claimed_ms, now.wall_ms, end, error))
    del state.deliveries[:-DELIVERIES_KEPT]


def carried_over(state: rows_pb2.StateRow, *, progressed: bool) -> bytes:
    """Returns what remains of a state row when a delivery ends the task: history, callbacks, and any progress."""
    row = rows_pb2.StateRow(deliveries=state.deliveries[1 - DELIVERIES_KEPT :], callbacks=state.callbacks)
    if progressed:
        row.progress = state.progress
    return row.SerializeToString()


def deliveries(state: rows_pb2.StateRow | None) -> list[rows_pb2.DeliveryRow]:
    """Returns the last ended deliveries of a task, oldest first."""
    if state is None:
        return []
    ended = list(state.deliveries)
    if state.started_ms:
        # Workers' outcomes have the same numbers.
        ended.append(_row(state.worker, state.started_ms, state.changed_ms, End(state.outcome), state.error))
    return ended[-DELIVERIES_KEPT:]


def _row(worker: str, started_ms: int, ended_ms: int, end: End, error: str) -> rows_pb2.DeliveryRow:
    if len(error) > ERROR_CHARACTERS_KEPT:
        error = error[: ERROR_CHARACTERS_KEPT - 1] + "…"
    return rows_pb2.DeliveryRow(worker=worker, started_ms=started_ms, ended_ms=ended_ms, end=end, error=error)
