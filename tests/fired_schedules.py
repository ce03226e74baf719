"""Schedules of a cluster under faults: each instant has one task, or was counted as missed."""

from __future__ import annotations

import json
import math
import time
from collections import Counter, defaultdict
from datetime import datetime
from typing import Any, Final

from cluster_client import Follower
from cluster_ledger import Ledger
from codeq.v1 import schedule_service_pb2 as pb
from codeq.v1 import task_service_pb2 as task_pb

COMMAND: Final = "tick"
MISFIRE_MAX: Final = 60
"""Missed instants that a schedule fires; a clock that is set forward by an hour misses 3600."""
START_SECONDS: Final = 5
"""Time until the first instant of a schedule, within which it must have been put."""
CALL_SECONDS: Final = 60.0
PAGE: Final = 500


class Schedules:
    """Schedules that fire each second.

    Args:
        client: Follows the leader.
        ledger: Records broken promises.
        count: Number of schedules; 0: none.
    """

    def __init__(self, client: Follower, ledger: Ledger, count: int) -> None:
        self._client, self._ledger = client, ledger
        self._names = [f"tick-{number}" for number in range(count)]
        self._starts: dict[str, int] = {}

    async def put(self) -> None:
        """Puts the schedules."""
        for name in self._names:
            start = self._starts[name] = math.ceil(time.time()) + START_SECONDS
            payload = json.dumps({"schedule": name, "at": "{{scheduledAt}}"}).encode()
            spec = pb.ScheduleSpec(every="1s", command=COMMAND, payload=payload, misfire="all", misfire_max=MISFIRE_MAX)
            spec.start_at.FromSeconds(start)
            await self._call("schedules", "PutSchedule", pb.PutScheduleRequest(name=name, spec=spec))

    async def judge(self) -> None:
        """Pauses the schedules, and compares their tasks with their instants."""
        if not self._names:
            return
        for name in self._names:
            await self._call("schedules", "PauseSchedule", pb.PauseScheduleRequest(name=name))
        fired = await self._fired()
        for name in self._names:
            answer = await self._call("schedules", "GetSchedule", pb.GetScheduleRequest(name=name))
            self._judge(answer.schedule, fired[name])

    def _judge(self, schedule: pb.Schedule, instants: Counter[int]) -> None:
        tell, name = self._ledger.problem, schedule.name
        start = self._starts[name]
        twice = [instant for instant, count in instants.items() if count > 1]
        if twice:
            tell(f"I5: {name} fired {len(twice)} instants twice, such as {twice[0]}")
        if instants.total() != schedule.fired_total:
            tell(f"I1: {name} has {instants.total()} tasks and fired {schedule.fired_total} times")
        if not instants:
            tell(f"I1: {name} never fired")
            return
        passed = max(instants) - start + 1
        if passed != len(instants) + schedule.missed_total or min(instants) < start:
            tell(f"I1: {name} fired {len(instants)} of {passed} instants and missed {schedule.missed_total}")
        following = datetime.fromisoformat(schedule.next[0]).timestamp()
        if following != max(instants) + 1:
            tell(f"I1: {name} fired {max(instants)} last, and {following} is next")
        if self._ledger.clocks_agree and schedule.missed_total:
            tell(f"I1: {name} missed {schedule.missed_total} instants, although it was down for seconds only")
        self._ledger.counts["fired"] += len(instants)
        self._ledger.counts["missed"] += schedule.missed_total

    async def _fired(self) -> dict[str, Counter[int]]:
        """Returns how many tasks each instant of each schedule has."""
        found: dict[str, Counter[int]] = defaultdict(Counter)
        request = task_pb.ListTasksRequest(command=COMMAND, page_size=PAGE)
        while True:
            answer = await self._call("tasks", "ListTasks", request)
            for task in answer.tasks:
                made = json.loads(task.payload)
                instant = datetime.fromisoformat(made["at"]).timestamp()
                found[made["schedule"]][int(instant)] += 1
                if self._ledger.clocks_agree and task.created_at.ToMilliseconds() < instant * 1000:
                    self._ledger.problem(f"I4: {made['schedule']} fired {made['at']} early")
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    async def _call(self, service: str, method: str, request: Any) -> Any:
        answer, _ = await self._client.call(service, method, request, again=True, seconds=CALL_SECONDS)
        return answer
