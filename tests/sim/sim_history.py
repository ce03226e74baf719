"""Judges what durable rows tell of the deliveries of a task that have ended."""

from __future__ import annotations

from typing import Any

from codeq_internal.v1 import rows_pb2
from codeq_server.core.history import DELIVERIES_KEPT, deliveries


def judge(audit: Any, task: Any, before: rows_pb2.StateRow | None, state: rows_pb2.StateRow) -> None:
    """Judges the history of a task of which a delivery has ended, perhaps several in one batch: it only goes on."""
    if state.ended_token == (before.ended_token if before is not None else 0):
        return  # it ended where it waited
    earlier, told = deliveries(before), deliveries(state)
    kept = {new: min(len(earlier), DELIVERIES_KEPT - new) for new in range(1, DELIVERIES_KEPT + 1)}
    goes_on = any(told[:old] == earlier[len(earlier) - old :] and len(told) == old + new for new, old in kept.items())
    audit.demand(goes_on, f"{task.task_id} has lost a part of its history")
    slot = task.slots.get(state.ended_token)
    if slot is not None:
        audit.demand(told[-1].worker == slot.holder[0], f"the last delivery of {task.task_id} was another worker's")
