"""Schedules over the Python SDK, against a real server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import codeq
import pytest
from server_process import DEV_TOKEN, ServerProcess

SPEC = codeq.ScheduleSpec(
    command="report", cron="30 2 29 2 *", time_zone="Europe/Berlin", payload={"at": "{{scheduledAt}}"}, overlap="skip"
)


def test_schedule_is_put_read_listed_and_removed(shared_server: ServerProcess) -> None:
    with codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client:
        made = client.put_schedule("sdk-life", SPEC)
        assert made.spec.payload == {"at": "{{scheduledAt}}"}
        assert len(made.next) == 10
        assert made.next[0].utcoffset() == timedelta(hours=1)
        assert client.put_schedule("sdk-life", SPEC) == made == client.schedule("sdk-life")
        assert client.pause_schedule("sdk-life").spec.paused
        assert not client.resume_schedule("sdk-life").spec.paused
        assert not client.recompute_schedule("sdk-life")
        assert "sdk-life" in [each.name for each in client.iter_schedules(page_size=1)]
        client.delete_schedule("sdk-life")
        with pytest.raises(codeq.ScheduleNotFound):
            client.schedule("sdk-life")


async def test_fires_name_their_tasks(shared_server: ServerProcess) -> None:
    async with codeq.AsyncClient(shared_server.producer_addr, token=DEV_TOKEN) as client:
        await client.put_schedule("sdk-fires", SPEC)
        fire = await client.trigger_schedule("sdk-fires")
        assert (await client.get(fire.task_id)).command == "report"
        past = await client.backfill_schedule(
            "sdk-fires", datetime(2016, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)
        )
        assert [each.scheduled_at.year for each in past] == [2016, 2020]
        task = await client.get(past[0].task_id)
        assert task.payload == {"at": "2016-02-29T01:30:00Z"}
        assert await client.schedule_history("sdk-fires") == [past[1], past[0], fire]
        assert (await client.schedule("sdk-fires")).running == (fire.task_id,)
        await client.delete_schedule("sdk-fires")


def test_bad_definition_is_rejected_with_the_name_of_the_field(shared_server: ServerProcess) -> None:
    with codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client:
        for field, spec in {
            "spec.cron": codeq.ScheduleSpec(command="c", cron="0 0 30 2 *"),
            "spec.every": codeq.ScheduleSpec(command="c", cron="@daily", every="1h"),
            "spec.time_zone": codeq.ScheduleSpec(command="c", cron="@daily", time_zone="Europe/Nowhere"),
            "spec.at": codeq.ScheduleSpec(command="c", at=datetime(2020, 1, 1, tzinfo=UTC)),
        }.items():
            with pytest.raises(codeq.InvalidField) as caught:
                client.put_schedule("sdk-bad", spec)
            assert [each.field for each in caught.value.violations] == [field]


def test_durations_are_numbers_of_seconds_or_timedeltas(shared_server: ServerProcess) -> None:
    with codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client:
        spec = codeq.ScheduleSpec(
            command="report", every=timedelta(minutes=90), delay=timedelta(seconds=1.5), expire=60, jitter=2.5
        )
        made = client.put_schedule("sdk-durations", spec).spec
        assert (made.every, made.delay, made.expire, made.jitter) == ("5400s", 2, 60, 3)
        assert client.put_schedule("sdk-durations", codeq.ScheduleSpec(command="report", every=90)).spec.every == "90s"
        client.delete_schedule("sdk-durations")


def test_durations_of_other_types_are_rejected_by_name() -> None:
    for field, spec in {
        "every": codeq.ScheduleSpec(command="c", every=[1]),  # type: ignore[arg-type]
        "jitter_seconds": codeq.ScheduleSpec(command="c", jitter=-1),
    }.items():
        with pytest.raises(codeq.InvalidField) as caught:
            spec.fields()
        assert [each.field for each in caught.value.violations] == [field]
