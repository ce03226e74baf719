"""Calls about schedules, and the methods with which the clients make them."""

from __future__ import annotations

from abc import abstractmethod
from datetime import datetime
from typing import Any, TypeVar

from codeq.calls import Call, filled
from codeq.schedule_records import Schedule, ScheduleFire, ScheduleSpec
from codeq.v1 import schedule_service_pb2 as pb

_SERVICE = "/codeq.v1.ScheduleService/"
_Value = TypeVar("_Value")


def schedules(page_size: int, page_token: str, tenant: str) -> Call[tuple[list[Schedule], str]]:
    """Reads a page of schedules; the value is the page and the token of the next page."""
    return Call(
        _SERVICE + "ListSchedules",
        filled(pb.ListSchedulesRequest, page_size=page_size, page_token=page_token, tenant=tenant),
        pb.ListSchedulesResponse,
        lambda reply: ([Schedule.from_message(each) for each in reply.schedules], reply.next_page_token),
        repeatable=True,
    )


def schedule(name: str, tenant: str) -> Call[Schedule]:
    """Reads a schedule."""
    request = filled(pb.GetScheduleRequest, name=name, tenant=tenant)
    return Call(_SERVICE + "GetSchedule", request, pb.GetScheduleResponse, _schedule_of, repeatable=True)


def put_schedule(name: str, spec: ScheduleSpec, tenant: str) -> Call[Schedule]:
    """Creates or replaces a schedule."""
    request = filled(pb.PutScheduleRequest, name=name, tenant=tenant)
    request.spec.CopyFrom(filled(pb.ScheduleSpec, **spec.fields()))
    return Call(_SERVICE + "PutSchedule", request, pb.PutScheduleResponse, _schedule_of, repeatable=True)


def delete_schedule(name: str, tenant: str) -> Call[None]:
    """Removes a schedule."""
    request = filled(pb.DeleteScheduleRequest, name=name, tenant=tenant)
    return Call(_SERVICE + "DeleteSchedule", request, pb.DeleteScheduleResponse, lambda _: None, repeatable=False)


def pause_schedule(name: str, tenant: str) -> Call[Schedule]:
    """Pauses a schedule."""
    request = filled(pb.PauseScheduleRequest, name=name, tenant=tenant)
    return Call(_SERVICE + "PauseSchedule", request, pb.PauseScheduleResponse, _schedule_of, repeatable=True)


def resume_schedule(name: str, tenant: str) -> Call[Schedule]:
    """Resumes a schedule."""
    request = filled(pb.ResumeScheduleRequest, name=name, tenant=tenant)
    return Call(_SERVICE + "ResumeSchedule", request, pb.ResumeScheduleResponse, _schedule_of, repeatable=True)


def trigger_schedule(name: str, tenant: str) -> Call[ScheduleFire]:
    """Creates a task now."""
    request = filled(pb.TriggerScheduleRequest, name=name, tenant=tenant)
    read = pb.TriggerScheduleResponse
    return Call(
        _SERVICE + "TriggerSchedule",
        request,
        read,
        lambda reply: ScheduleFire.from_message(reply.fire),
        repeatable=False,
    )


def backfill_schedule(name: str, start: datetime, end: datetime, tenant: str) -> Call[list[ScheduleFire]]:
    """Creates the tasks of past instants."""
    request = filled(pb.BackfillScheduleRequest, **{"name": name, "from": start, "to": end, "tenant": tenant})
    return Call(_SERVICE + "BackfillSchedule", request, pb.BackfillScheduleResponse, _fires_of, repeatable=True)


def schedule_history(name: str, tenant: str) -> Call[list[ScheduleFire]]:
    """Reads the last fires of a schedule."""
    request = filled(pb.GetScheduleHistoryRequest, name=name, tenant=tenant)
    return Call(_SERVICE + "GetScheduleHistory", request, pb.GetScheduleHistoryResponse, _fires_of, repeatable=True)


def recompute_schedule(name: str, tenant: str) -> Call[bool]:
    """Computes the stored instants of a schedule again."""
    request = filled(pb.RecomputeScheduleRequest, name=name, tenant=tenant)
    return Call(
        _SERVICE + "RecomputeSchedule",
        request,
        pb.RecomputeScheduleResponse,
        lambda reply: bool(reply.moved),
        repeatable=True,
    )


def _schedule_of(reply: Any) -> Schedule:
    return Schedule.from_message(reply.schedule)


def _fires_of(reply: Any) -> list[ScheduleFire]:
    return [ScheduleFire.from_message(each) for each in reply.fires]


class ScheduleClient:
    """The calls of `Client` about schedules; only operators name a tenant other than the token's."""

    def schedules(self, page_size: int = 0, page_token: str = "", *, tenant: str = "") -> tuple[list[Schedule], str]:
        """Reads a page of schedules, ordered by name, and the token of the next page (empty: none)."""
        return self._call(schedules(page_size, page_token, tenant))

    def schedule(self, name: str, *, tenant: str = "") -> Schedule:
        """Reads a schedule with its next ten instants. Raises ScheduleNotFound."""
        return self._call(schedule(name, tenant))

    def put_schedule(self, name: str, spec: ScheduleSpec, *, tenant: str = "") -> Schedule:
        """Creates a schedule, or replaces its definition; an equal definition changes nothing."""
        return self._call(put_schedule(name, spec, tenant))

    def delete_schedule(self, name: str, *, tenant: str = "") -> None:
        """Removes a schedule with its history; tasks that it created stay. Raises ScheduleNotFound."""
        self._call(delete_schedule(name, tenant))

    def pause_schedule(self, name: str, *, tenant: str = "") -> Schedule:
        """Stops a schedule from firing. Raises ScheduleNotFound."""
        return self._call(pause_schedule(name, tenant))

    def resume_schedule(self, name: str, *, tenant: str = "") -> Schedule:
        """Lets a paused schedule fire again. Raises ScheduleNotFound."""
        return self._call(resume_schedule(name, tenant))

    def trigger_schedule(self, name: str, *, tenant: str = "") -> ScheduleFire:
        """Creates a task now, even if the schedule is paused. Raises ScheduleNotFound."""
        return self._call(trigger_schedule(name, tenant))

    def backfill_schedule(self, name: str, start: datetime, end: datetime, *, tenant: str = "") -> list[ScheduleFire]:
        """Creates the tasks of the past instants from `start` until before `end`, at most 1000, each once."""
        return self._call(backfill_schedule(name, start, end, tenant))

    def schedule_history(self, name: str, *, tenant: str = "") -> list[ScheduleFire]:
        """Reads the last hundred fires of a schedule, the latest first. Raises ScheduleNotFound."""
        return self._call(schedule_history(name, tenant))

    def recompute_schedule(self, name: str, *, tenant: str = "") -> bool:
        """Computes stored instants again with the server's time zone data; returns whether any changed."""
        return self._call(recompute_schedule(name, tenant))

    @abstractmethod
    def _call(self, call: Call[_Value]) -> _Value: ...


class AsyncScheduleClient:
    """The calls of `AsyncClient` about schedules."""

    async def schedules(
        self, page_size: int = 0, page_token: str = "", *, tenant: str = ""
    ) -> tuple[list[Schedule], str]:
        """Makes the call of Client.schedules."""
        return await self._call(schedules(page_size, page_token, tenant))

    async def schedule(self, name: str, *, tenant: str = "") -> Schedule:
        """Makes the call of Client.schedule."""
        return await self._call(schedule(name, tenant))

    async def put_schedule(self, name: str, spec: ScheduleSpec, *, tenant: str = "") -> Schedule:
        """Makes the call of Client.put_schedule."""
        return await self._call(put_schedule(name, spec, tenant))

    async def delete_schedule(self, name: str, *, tenant: str = "") -> None:
        """Makes the call of Client.delete_schedule."""
        await self._call(delete_schedule(name, tenant))

    async def pause_schedule(self, name: str, *, tenant: str = "") -> Schedule:
        """Makes the call of Client.pause_schedule."""
        return await self._call(pause_schedule(name, tenant))

    async def resume_schedule(self, name: str, *, tenant: str = "") -> Schedule:
        """Makes the call of Client.resume_schedule."""
        return await self._call(resume_schedule(name, tenant))

    async def trigger_schedule(self, name: str, *, tenant: str = "") -> ScheduleFire:
        """Makes the call of Client.trigger_schedule."""
        return await self._call(trigger_schedule(name, tenant))

    async def backfill_schedule(
        self, name: str, start: datetime, end: datetime, *, tenant: str = ""
    ) -> list[ScheduleFire]:
        """Makes the call of Client.backfill_schedule."""
        return await self._call(backfill_schedule(name, start, end, tenant))

    async def schedule_history(self, name: str, *, tenant: str = "") -> list[ScheduleFire]:
        """Makes the call of Client.schedule_history."""
        return await self._call(schedule_history(name, tenant))

    async def recompute_schedule(self, name: str, *, tenant: str = "") -> bool:
        """Makes the call of Client.recompute_schedule."""
        return await self._call(recompute_schedule(name, tenant))

    @abstractmethod
    async def _call(self, call: Call[_Value]) -> _Value: ...
