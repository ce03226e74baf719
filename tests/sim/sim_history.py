"""Judges the history of ended deliveries in a task's durable rows."""

from __future__ import annotations

from typing import Any

from codeq_internal.v1 import rows_pb2
from codeq_server.core.history import DELIVERIES_KEPT, deliveries


def judge(audit: Any, task: Any, before: rows_pb2.StateRow | None, state: rows_pb2.StateRow) -> None:
    """Judges a task's history after one or more deliveries ended in a batch: entries are only appended."""
    if state.ended_token == (before.ended_token if before is not None else 0):
        return  # the task ended while it was waiting
    earlier, told = deliveries(before), deliveries(state)
    kept = {new: min(len(earlier), DELIVERIES_KEPT - new) for new in range(1, DELIVERIES_KEPT + 1)}
    goes_on = any(told[:old] == earlier[len(earlier) - old :] and len(told) == old + new for new, old in kept.items())
    audit.demand(goes_on, f"{task.task_id} has lost part of its history")
    slot = task.slots.get(state.ended_token)
    if slot is not None:
        audit.demand(told[-1].worker == slot.holder[0], f"the last delivery of {task.task_id} was another worker's")
