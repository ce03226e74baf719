"""ScheduleService: tasks created at given times."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from typing import Final

from codeq.v1 import schedule_service_pb2 as pb
from codeq_internal.v1 import rows_pb2

from codeq_server.auth.claims import Claims
from codeq_server.core import defining
from codeq_server.core.clock import Now
from codeq_server.core.defining import Instants
from codeq_server.core.errors import Rejection, invalid_field
from codeq_server.core.firing import row_of
from codeq_server.core.schedules import Schedule
from codeq_server.engine.calendars import AHEAD, STEPS_MAX, TZDATA, BadCalendar, Calendar, Search
from codeq_server.engine.runner import ShardRunner

from .auditing import Act, State
from .convert import timestamp, unix_ms
from .deciding import decide
from .page_tokens import last_name, page_token
from .schedule_specs import definition_of, spec_of

PAGE_DEFAULT: Final = 100
NEXT: Final = 10
"""Instants that a response shows."""
BACKFILL_MAX: Final = 1000
"""Maximum number of instants of one backfill."""
_UNSCHEDULED: Final = "has no instants: the schedule would never fire"


class ScheduleService:
    """Manages schedules. Methods have the names and contracts of the proto's RPCs."""

    def __init__(self, runner: ShardRunner) -> None:
        self._runner = runner

    async def ListSchedules(  # noqa: N802
        self, claims: Claims, request: pb.ListSchedulesRequest
    ) -> pb.ListSchedulesResponse:
        """Returns a page of schedules."""
        count, of = request.page_size or PAGE_DEFAULT, ("schedules", claims.tenant_id)
        after = last_name(request.page_token, *of)
        self._runner.now()  # raises if the runner no longer decides
        shard, seen = self._runner.shard, claims.seen_commands
        names = shard.schedules.names(claims.tenant_id)
        page = names[bisect_right(names, after) :][: count + 1]
        response = pb.ListSchedulesResponse()
        for name in page[:count]:
            row = row_of(shard, defining.find(shard, claims.tenant_id, name))
            if seen is None or row.command in seen:
                response.schedules.append(_message(name, row))
        if len(page) > count:
            response.next_page_token = page_token(page[count - 1].encode(), *of)
        await self._runner.wait_durable()
        return response

    async def GetSchedule(self, claims: Claims, request: pb.GetScheduleRequest) -> pb.GetScheduleResponse:  # noqa: N802
        """Returns one schedule."""
        schedule, _ = self._find(claims, request.name)
        return pb.GetScheduleResponse(schedule=await self._told(schedule))

    async def PutSchedule(  # noqa: N802
        self, claims: Claims, request: pb.PutScheduleRequest, act: Act
    ) -> pb.PutScheduleResponse:
        """Creates a schedule or replaces its definition."""
        definition = definition_of(request.spec)
        claims.check_command(definition.command)
        now, shard = self._runner.now(), self._runner.shard
        known = shard.schedules.find(claims.tenant_id, request.name)
        row = None if known is None else row_of(shard, known)
        if row is not None:
            claims.check_command(row.command)
        definition.created_ms = now.wall_ms if row is None else row.created_ms
        instants = None if row is not None and defining.is_same(row, definition) else _first(definition, now)
        decide(self._runner, lambda: defining.put(shard, claims.tenant_id, request.name, definition, instants, now))
        schedule = defining.find(shard, claims.tenant_id, request.name)
        act.record(self._runner, before=_state(row), after=_state(row_of(shard, schedule)))
        return pb.PutScheduleResponse(schedule=await self._told(schedule))

    async def DeleteSchedule(  # noqa: N802
        self, claims: Claims, request: pb.DeleteScheduleRequest, act: Act
    ) -> pb.DeleteScheduleResponse:
        """Removes a schedule."""
        schedule, row = self._find(claims, request.name)
        decide(self._runner, lambda: defining.remove(self._runner.shard, schedule))
        act.record(self._runner, before=_state(row))
        await self._settled()
        return pb.DeleteScheduleResponse()

    async def PauseSchedule(  # noqa: N802
        self, claims: Claims, request: pb.PauseScheduleRequest, act: Act
    ) -> pb.PauseScheduleResponse:
        """Pauses a schedule."""
        return pb.PauseScheduleResponse(schedule=await self._set_paused(claims, request.name, act, paused=True))

    async def ResumeSchedule(  # noqa: N802
        self, claims: Claims, request: pb.ResumeScheduleRequest, act: Act
    ) -> pb.ResumeScheduleResponse:
        """Resumes a schedule."""
        return pb.ResumeScheduleResponse(schedule=await self._set_paused(claims, request.name, act, paused=False))

    async def TriggerSchedule(  # noqa: N802
        self, claims: Claims, request: pb.TriggerScheduleRequest, act: Act
    ) -> pb.TriggerScheduleResponse:
        """Creates a task now."""
        schedule, _ = self._find(claims, request.name)
        now = self._runner.now()
        fire = decide(self._runner, lambda: defining.trigger(self._runner.shard, schedule, now))
        act.record(self._runner, after={"taskId": fire.task_id})
        await self._settled()
        return pb.TriggerScheduleResponse(fire=_fire(fire))

    async def BackfillSchedule(  # noqa: N802
        self, claims: Claims, request: pb.BackfillScheduleRequest, act: Act
    ) -> pb.BackfillScheduleResponse:
        """Creates the tasks of past instants."""
        schedule, row = self._find(claims, request.name)
        runner, response = self._runner, pb.BackfillScheduleResponse()
        instants = await self._past(row, unix_ms(getattr(request, "from")), unix_ms(request.to))
        while instants:
            await runner.room(claims.tenant_id, STEPS_MAX)
            schedule, _ = self._find(claims, request.name)
            now, slice_ = runner.now(), instants[:STEPS_MAX]
            try:
                fires = decide(self._runner, partial(defining.backfill, runner.shard, schedule, slice_, now))
            except Rejection as refusal:
                raise runner.refused(refusal, decided=bool(response.fires)) from None
            del instants[: len(fires)]
            made = [each for each in fires if each.fired_ms]
            response.fires.extend(_fire(each) for each in made)
            response.duplicates += len(fires) - len(made)
            act.record(runner, after={"fired": len(response.fires), "duplicates": response.duplicates})
        act.record(runner, after={"fired": len(response.fires), "duplicates": response.duplicates})
        await self._settled()
        return response

    async def GetScheduleHistory(  # noqa: N802
        self, claims: Claims, request: pb.GetScheduleHistoryRequest
    ) -> pb.GetScheduleHistoryResponse:
        """Returns the last fires of a schedule."""
        schedule, _ = self._find(claims, request.name)
        fires = defining.history(self._runner.shard, schedule)
        await self._runner.wait_durable()
        return pb.GetScheduleHistoryResponse(fires=[_fire(each) for each in fires])

    async def RecomputeSchedule(  # noqa: N802
        self, claims: Claims, request: pb.RecomputeScheduleRequest, act: Act
    ) -> pb.RecomputeScheduleResponse:
        """Computes the stored instants of a schedule again."""
        runner, shard = self._runner, self._runner.shard
        while True:
            schedule, row = self._find(claims, request.name)
            calendar, search = _checked(row), Search(row, row.after_ms, runner.now().wall_ms)
            instants = search.step()
            while instants is None:
                await asyncio.sleep(0)
                instants = search.step()
            await runner.room(claims.tenant_id)
            now, before = runner.now(), list(row.next_ms)
            if shard.schedules.find(claims.tenant_id, request.name) is not schedule:
                raise defining.not_found(request.name)
            if defining.recompute(shard, schedule, row.generation, row.after_ms, instants, now):
                break
        after = list(row_of(shard, schedule).next_ms)
        shared = min(len(before), len(after))
        response = pb.RecomputeScheduleResponse(
            moved=before[:shared] != after[:shared],
            before=[calendar.written(each) for each in before],
            after=[calendar.written(each) for each in after],
            tzdata_version=TZDATA,
        )
        act.record(runner, before={"tzdata": row.tzdata}, after={"tzdata": TZDATA, "moved": response.moved})
        await self._settled()
        return response

    # -- steps of calls --------------------------------------------------------------------------------------------

    def _find(self, claims: Claims, name: str) -> tuple[Schedule, rows_pb2.ScheduleRow]:
        """Returns a schedule that the caller may see, with its row."""
        self._runner.now()  # raises if the runner no longer decides
        shard = self._runner.shard
        schedule = defining.find(shard, claims.tenant_id, name)
        row, seen = row_of(shard, schedule), claims.seen_commands
        if seen is not None and row.command not in seen:
            raise defining.not_found(name)
        return schedule, row

    async def _set_paused(self, claims: Claims, name: str, act: Act, *, paused: bool) -> pb.Schedule:
        schedule, row = self._find(claims, name)
        now = self._runner.now()
        decide(self._runner, lambda: defining.set_paused(self._runner.shard, schedule, now, paused=paused))
        act.record(self._runner, before={"paused": row.paused}, after={"paused": paused})
        return await self._told(schedule)

    async def _past(self, row: rows_pb2.ScheduleRow, from_ms: int, to_ms: int) -> list[int]:
        """Returns the instants of a range in the past.

        Raises:
            Rejection: INVALID_FIELD.
        """
        if to_ms > self._runner.now().wall_ms:
            raise invalid_field("to", "must not be in the future")
        if from_ms >= to_ms:
            raise invalid_field("from", "must be before `to`")
        walk, found = _checked(row).after(max(from_ms, 1) - 1), list[int]()
        while (instant := walk.advance()) is not None and instant < to_ms:
            if len(found) == BACKFILL_MAX:
                raise invalid_field("to", f"the range has more than {BACKFILL_MAX} instants")
            found.append(instant)
            if not len(found) % STEPS_MAX:
                await asyncio.sleep(0)
        return found

    async def _settled(self) -> None:
        self._runner.changed()
        await self._runner.wait_durable()

    async def _told(self, schedule: Schedule) -> pb.Schedule:
        """Returns a schedule's message, with its next instants, once the reported state is durable."""
        message = _message(schedule.name, row_of(self._runner.shard, schedule), shows_next=True)
        await self._settled()
        return message


def _checked(row: rows_pb2.ScheduleRow) -> Calendar:
    """Returns the calendar of a definition.

    Raises:
        Rejection: INVALID_FIELD.
    """
    try:
        return Calendar(row)
    except BadCalendar as problem:
        raise invalid_field(f"spec.{problem.field}", str(problem)) from None


def _first(definition: rows_pb2.ScheduleRow, now: Now) -> Instants:
    """Returns the first instants of a new definition.

    Raises:
        Rejection: INVALID_FIELD.
    """
    found, complete = _checked(definition).first(now.wall_ms, AHEAD)
    if not found:
        if definition.at_ms:
            raise invalid_field("spec.at", "must be in the future")
        if definition.end_ms:
            raise invalid_field("spec.end_at", f"the definition {_UNSCHEDULED} before it")
        raise invalid_field("spec.cron", _UNSCHEDULED)
    return Instants(found, complete, TZDATA)


def _message(name: str, row: rows_pb2.ScheduleRow, *, shows_next: bool = False) -> pb.Schedule:
    message = pb.Schedule(
        name=name,
        spec=spec_of(row),
        finished=row.complete and not row.next_ms,
        tzdata_version=row.tzdata,
        created_at=timestamp(row.created_ms),
        updated_at=timestamp(row.updated_ms),
        fired_total=row.fired_total,
        skipped_total=row.skipped_total,
        missed_total=row.missed_total,
        running=row.running,
        queued_at=timestamp(row.queued_ms) if row.queued_ms else None,
    )
    if shows_next:
        message.next.extend(_next(row))
    return message


def _next(row: rows_pb2.ScheduleRow) -> Sequence[str]:
    """Returns the next instants: the stored ones, and those that would follow by the present time zone data."""
    try:
        calendar = Calendar(row)
    except BadCalendar:
        return ()
    shown = list(row.next_ms[:NEXT])
    if len(shown) < NEXT and not row.complete:
        shown += calendar.first(defining.last_known(row), NEXT - len(shown))[0]
    return [calendar.written(each) for each in shown]


def _fire(row: rows_pb2.FireRow) -> pb.ScheduleFire:
    return pb.ScheduleFire(
        scheduled_at=timestamp(row.instant_ms),
        fired_at=timestamp(row.fired_ms),
        kind=pb.ScheduleFireKind.Name(row.kind),
        task_id=row.task_id,
    )


def _state(row: rows_pb2.ScheduleRow | None) -> State | None:
    """Returns a definition for the audit, without its payload."""
    if row is None:
        return None
    when = {name: value for name, value in (("cron", row.cron), ("every", row.every), ("atMs", row.at_ms)) if value}
    return {
        **when,
        "timeZone": row.time_zone,
        "command": row.command,
        "overlap": row.overlap,
        "misfire": row.misfire,
        "paused": row.paused,
    }
