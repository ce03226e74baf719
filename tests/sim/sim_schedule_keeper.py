"""An administrator of the simulated node who keeps a schedule."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from codeq.v1 import schedule_service_pb2 as pb
from codeq_server.core.errors import Reason, Rejection
from sim_node import Lost, tenant_of
from sim_schedules import COMMAND

if TYPE_CHECKING:
    from sim_clients import World

NAME = "ticks"
EVERY_SECONDS = 2
MISFIRES_MAX = 3
"""Missed instants that fire after a clock was set forward."""


async def keep_schedule(world: World, holder: str) -> None:
    """Puts a schedule, pauses, resumes, triggers and backfills it, and removes it when producers stop."""
    tenant, chance = tenant_of(holder), world.chance
    template = json.dumps(f"{tenant} {{{{scheduledAt}}}}").encode()
    spec = pb.ScheduleSpec(
        every=f"{EVERY_SECONDS}s", command=COMMAND, payload=template, misfire="all", misfire_max=MISFIRES_MAX
    )
    while world.asking:
        spec.paused = chance.random() < 0.1
        await _ask(world, holder, "PutSchedule", pb.PutScheduleRequest(name=NAME, spec=spec))
        if chance.random() < 0.1:
            await _ask(world, holder, "PauseSchedule", pb.PauseScheduleRequest(name=NAME))
        if chance.random() < 0.2:
            request = pb.BackfillScheduleRequest(name=NAME)
            now = world.node.clock()[0] // 1000
            getattr(request, "from").seconds, request.to.seconds = now - 3 * EVERY_SECONDS, now - EVERY_SECONDS
            await _ask(world, holder, "BackfillSchedule", request)
        await world.pause(1)
    while not await _ask(world, holder, "DeleteSchedule", pb.DeleteScheduleRequest(name=NAME)):
        await world.pause(0.3)


async def _ask(world: World, holder: str, method: str, request: object) -> bool:
    """Makes a call; returns whether it was answered."""
    try:
        await world.node.call(holder, f"ScheduleService/{method}", request)  # type: ignore[arg-type]
    except Lost:
        return False
    except Rejection as refusal:
        return refusal.reason is Reason.SCHEDULE_NOT_FOUND
    return True
