"""Puts schedules into a shard and computes the instants that it requests, as the services and the engine do."""

from __future__ import annotations

from typing import Any

from codeq_internal.v1 import rows_pb2
from codeq_server.core import defining
from codeq_server.core.clock import Now
from codeq_server.core.defining import Instants
from codeq_server.core.firing import row_of
from codeq_server.core.schedules import Schedule
from codeq_server.core.shard import Shard
from codeq_server.engine.calendars import AHEAD, TZDATA, Calendar, Search


def definition(**fields: Any) -> rows_pb2.ScheduleRow:
    """Returns a definition with the server's defaults."""
    given = {"time_zone": "UTC", "command": "a", "payload": b"null", "overlap": "allow", "misfire": "one"}
    return rows_pb2.ScheduleRow(**(given | {"misfire_max": 100} | fields))


def put(shard: Shard, now: Now, name: str = "s", *, tenant: str = "acme", **fields: Any) -> Schedule:
    """Creates or replaces a schedule, and returns it."""
    row = definition(**fields)
    known = shard.schedules.find(tenant, name)
    row.created_ms = now.wall_ms if known is None else row_of(shard, known).created_ms
    instants = None
    if known is None or not defining.is_same(row_of(shard, known), row):
        found, complete = Calendar(row).first(now.wall_ms, AHEAD)
        instants = Instants(found, complete, TZDATA)
    defining.put(shard, tenant, name, row, instants, now)
    return defining.find(shard, tenant, name)


def compute(shard: Shard, now: Now) -> int:
    """Computes requested instants; returns the number of schedules that requested some."""
    effects = shard.take_effects()
    wanted = effects.unscheduled if effects is not None else []
    for schedule in wanted:
        if shard.schedules.find(schedule.tenant, schedule.name) is schedule:
            row = row_of(shard, schedule)
            after_ms, search = defining.last_known(row), Search(row, defining.last_known(row), now.wall_ms)
            while (instants := search.step()) is None:
                pass
            defining.extend(shard, schedule, row.generation, after_ms, instants, now)
    return len(wanted)
