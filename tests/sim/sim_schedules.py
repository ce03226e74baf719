"""Judges the schedules of the simulated node: each instant fires once, never too early, and with its row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys, tenant_keys
from codeq_server.core.firing import BACKFILL, INSTANT
from sim_messages import Asked

if TYPE_CHECKING:
    from sim_audit import Audit

COMMAND = "a"
"""Command of the schedules' tasks."""


def fired(audit: Audit, payload: bytes, wall_ms: int) -> Asked | None:
    """Returns the request for a task of a schedule, which stands for one instant; None: it is no such task."""
    tenant, _, instant = str(json.loads(payload)).partition(" ")
    if not instant:
        return None
    at_ms = int(datetime.fromisoformat(instant).timestamp() * 1000)
    audit.demand(at_ms <= wall_ms, f"the instant {instant} fires early")
    asked = audit.asked[payload] = Asked(tenant, COMMAND, 0, 0, ("schedule", instant, -1))
    audit.sends[payload] = 1
    audit.count("fired")
    return asked


def judge(audit: Audit, table: Mapping[bytes, Sequence[tuple[bytes, bytes | None]]]) -> None:
    """Judges the rows of a batch, given by table: a fire is in the batch of its task and of the schedule's move."""
    for key, value in table.get(keys.FIRES, ()):
        if value is None:
            continue
        fire = rows_pb2.FireRow.FromString(value)
        schedule, _ = tenant_keys.split_fire_key(key)
        tenant, _ = tenant_keys.split_schedule_key(schedule)
        task = audit.tasks.get((tenant, fire.task_id))
        audit.demand(task is not None and task.born == audit.batches, f"{fire.task_id} is not in the batch of its fire")
        if fire.kind == BACKFILL and task is not None and task.before is not None:  # whose task has been removed
            instant = task.asked.name[1] if task.asked.name else ""
            audit.sends[json.dumps(f"{tenant} {instant}").encode()] += 1
        moved = dict(table.get(keys.SCHEDULES, ())).get(schedule)
        row = rows_pb2.ScheduleRow.FromString(moved or b"")
        audit.demand(
            moved is not None and (fire.kind != INSTANT or fire.instant_ms not in row.next_ms),
            f"the fire of {fire.task_id} does not move its schedule",
        )
    for key, value in table.get(keys.SCHEDULES, ()):
        before = rows_pb2.ScheduleRow.FromString(audit.rows.get(key) or b"")
        after = rows_pb2.ScheduleRow.FromString(value or b"")
        same = value is not None and before.generation == after.generation
        audit.demand(not same or before.after_ms <= after.after_ms, "a schedule went back to an earlier instant")
