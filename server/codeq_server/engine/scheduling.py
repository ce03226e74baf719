"""Computes further instants of schedules outside the core, before those that are stored are used up."""

from __future__ import annotations

import asyncio
from collections import deque

from codeq_server.core.defining import extend, last_known
from codeq_server.core.errors import Rejection
from codeq_server.core.firing import row_of
from codeq_server.core.schedules import Schedule

from .calendars import BadCalendar, Search
from .runner import ShardRunner


class Scheduling:
    """Serves the requests of one runner's shard for instants, one after the other, until the runner ends.

    A schedule has at most one request, so that the requests are bounded by the number of schedules.
    """

    def __init__(self, runner: ShardRunner) -> None:
        self._runner = runner
        self._wanted: deque[Schedule] = deque()
        self._task: asyncio.Task[None] | None = None
        runner.on_unscheduled = self._want

    def _want(self, schedules: list[Schedule]) -> None:
        self._wanted.extend(schedules)
        if self._task is None:
            self._task = self._runner.loop.create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._wanted:
                await self._serve(self._wanted.popleft())
        except Rejection:
            self._wanted.clear()  # the runner has ended; whoever opens the shard next computes the instants
        except Exception as problem:  # noqa: BLE001 - half a decision may be in memory
            self._runner.fail(problem)
        self._task = None

    async def _serve(self, schedule: Schedule) -> None:
        runner = self._runner
        await asyncio.sleep(0)
        shard, now = runner.shard, runner.now()
        if shard.schedules.find(schedule.tenant, schedule.name) is not schedule:
            return
        row = row_of(shard, schedule)
        after_ms = last_known(row)
        try:
            search = Search(row, after_ms, now.wall_ms)
        except BadCalendar:
            return  # a later version of the calendar refuses a stored definition: the schedule waits for a new one
        instants = search.step()
        while instants is None:
            await asyncio.sleep(0)
            instants = search.step()
        await runner.room(schedule.tenant)
        extend(shard, schedule, row.generation, after_ms, instants, runner.now())
        runner.changed()
