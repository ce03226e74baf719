"""Instants of schedules: cron expressions when clocks change, intervals, and definitions that are refused."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from codeq.v1.schedule_service_pb2 import ScheduleSpec
from codeq_server.core.errors import Rejection
from codeq_server.core.firing import GRACE_MS
from codeq_server.engine import calendars
from codeq_server.engine.calendars import AHEAD, INSTANT_MAX_MS, BadCalendar, Calendar, Search, zone_of
from codeq_server.services.schedule_specs import definition_of
from computed_instants import definition
from google.protobuf.timestamp_pb2 import Timestamp

LAST_TIME = Timestamp(seconds=253_402_300_799)
"""The last second of the year 9999 in UTC, which is in the year 10000 east of it."""


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def following(cron: str, zone: str, after: str, count: int) -> list[str]:
    """Returns instants in local time, the offset included."""
    calendar = Calendar(definition(cron=cron, time_zone=zone))
    return [calendar.written(each) for each in calendar.first(ms(after), count)[0]]


CLOCK_CHANGES = {
    # zone, cron, local time after which to look, and the following instants
    "Berlin, forward: a job in the skipped hour runs right after it": (
        "Europe/Berlin",
        "30 2 * * *",
        "2026-03-28T12:00:00+01:00",
        ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"],
    ),
    "Berlin, back: a job in the repeated hour runs once": (
        "Europe/Berlin",
        "30 2 * * *",
        "2026-10-24T12:00:00+02:00",
        ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"],
    ),
    "Berlin, back: hourly jobs follow elapsed time": (
        "Europe/Berlin",
        "0 * * * *",
        "2026-10-25T01:30:00+02:00",
        ["2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"],
    ),
    "Berlin, forward: hourly jobs follow elapsed time": (
        "Europe/Berlin",
        "0 * * * *",
        "2026-03-29T01:30:00+01:00",
        ["2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"],
    ),
    "Berlin, forward: jobs every two hours keep to the clock": (
        "Europe/Berlin",
        "0 */2 * * *",
        "2026-03-29T00:30:00+01:00",
        ["2026-03-29T04:00:00+02:00", "2026-03-29T06:00:00+02:00"],
    ),
    "New York, forward": (
        "America/New_York",
        "15 2 * * *",
        "2026-03-07T12:00:00-05:00",
        ["2026-03-08T03:00:00-04:00", "2026-03-09T02:15:00-04:00"],
    ),
    "New York, forward: hourly jobs follow elapsed time": (
        "America/New_York",
        "0 * * * *",
        "2026-03-08T00:30:00-05:00",
        ["2026-03-08T01:00:00-05:00", "2026-03-08T03:00:00-04:00", "2026-03-08T04:00:00-04:00"],
    ),
    "New York, back": (
        "America/New_York",
        "15 1 * * *",
        "2026-10-31T12:00:00-04:00",
        ["2026-11-01T01:15:00-04:00", "2026-11-02T01:15:00-05:00"],
    ),
    "Lord Howe, forward by half an hour": (
        "Australia/Lord_Howe",
        "15 2 * * *",
        "2026-10-03T12:00:00+10:30",
        ["2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"],
    ),
    "Lord Howe, back: jobs every half an hour follow elapsed time": (
        "Australia/Lord_Howe",
        "*/30 * * * *",
        "2026-04-05T01:15:00+11:00",
        ["2026-04-05T01:30:00+11:00", "2026-04-05T01:30:00+10:30", "2026-04-05T02:00:00+10:30"],
    ),
    "Lord Howe, back by half an hour": (
        "Australia/Lord_Howe",
        "45 1 * * *",
        "2026-04-04T12:00:00+11:00",
        ["2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"],
    ),
    "Casablanca, back at the start of Ramadan": (
        "Africa/Casablanca",
        "30 2 * * *",
        "2026-02-14T12:00:00+01:00",
        ["2026-02-15T02:30:00+01:00", "2026-02-16T02:30:00+00:00"],
    ),
    "Casablanca, back: hourly jobs follow elapsed time": (
        "Africa/Casablanca",
        "0 * * * *",
        "2026-02-15T01:30:00+01:00",
        ["2026-02-15T02:00:00+01:00", "2026-02-15T02:00:00+00:00", "2026-02-15T03:00:00+00:00"],
    ),
    "Casablanca, forward at its end": (
        "Africa/Casablanca",
        "30 2 * * *",
        "2026-03-21T12:00:00+00:00",
        ["2026-03-22T03:00:00+01:00", "2026-03-23T02:30:00+01:00"],
    ),
    "Berlin, back: 6 fields name every second of the repeated hour": (
        "Europe/Berlin",
        "0 30 2 * * *",
        "2026-10-24T12:00:00+02:00",
        ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00", "2026-10-26T02:30:00+01:00"],
    ),
}


@pytest.mark.parametrize(("zone", "cron", "after", "expected"), CLOCK_CHANGES.values(), ids=CLOCK_CHANGES)
def test_instants_when_clocks_change(zone: str, cron: str, after: str, expected: list[str]) -> None:
    assert following(cron, zone, after, len(expected)) == expected


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "UTC"]
)
@pytest.mark.parametrize(
    "cron", ["30 2 * * *", "15 1 * * *", "*/20 * * * *", "0 */2 * * *", "0 30 1-2 * * *", "0 12 L * *"]
)
def test_walk_begun_at_any_instant_goes_on_like_the_first(zone: str, cron: str) -> None:
    calendar = Calendar(definition(cron=cron, time_zone=zone))
    for start in ("2026-02-14T00:00:00Z", "2026-10-03T00:00:00Z"):
        whole = calendar.first(ms(start), 100)[0]
        assert whole == sorted(set(whole))
        for before, after in pairwise(whole):
            assert calendar.first(before, 1)[0] == [after]
            assert calendar.first((before + after) // 2, 1)[0] == [after]


def test_aliases_stand_for_their_expressions() -> None:
    after = "2026-01-01T00:00:00+00:00"
    for alias, cron in {"@yearly": "0 0 1 1 *", "@weekly": "0 0 * * 0", "@HOURLY": "0 * * * *"}.items():
        assert following(alias, "UTC", after, 3) == following(cron, "UTC", after, 3)
    assert following("@every 1h30m", "UTC", "1970-01-01T00:00:00+00:00", 1) == ["1970-01-01T01:30:00+00:00"]


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("cron", {"cron": "* * * *"}),
        ("cron", {"cron": "60 * * * *"}),
        ("cron", {"cron": "0 0 30 2 *"}),
        ("cron", {"cron": "*/0 * * * *"}),
        ("cron", {"cron": "L/L * * * *"}),
        ("cron", {"cron": "0 0 L-3 * *"}),
        ("cron", {"cron": "@reboot"}),
        ("cron", {"cron": "@every soon"}),
        ("every", {"every": "0s"}),
        ("every", {"every": "3661d"}),
        ("time_zone", {"cron": "@daily", "time_zone": "Europe/Nowhere"}),
        ("time_zone", {"cron": "@daily", "time_zone": "../../etc/passwd"}),
        ("time_zone", {"cron": "@daily", "time_zone": ""}),
    ],
)
def test_bad_definition_is_refused_with_its_field(field: str, fields: dict[str, str]) -> None:
    with pytest.raises(BadCalendar) as caught:
        Calendar(definition(**fields))
    assert caught.value.field == field


@pytest.mark.parametrize("cron", ["0 0 31 2,4,6,9,11 MON", "0 0 30 2 MON#1", "0 0 31 4 MON"])
def test_expression_that_never_matches_has_no_instants_or_is_refused(cron: str) -> None:
    try:
        found, complete = Calendar(definition(cron=cron)).first(ms("2026-01-01T00:00:00Z"), 3)
    except BadCalendar:
        return
    assert found or complete


def test_zones_come_from_the_package_even_where_the_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    calendars._load.cache_clear()
    monkeypatch.setattr("zoneinfo.TZPATH", ())
    assert datetime(2026, 7, 1, tzinfo=zone_of("Asia/Tokyo")).astimezone(UTC).hour == 15
    assert calendars.TZDATA.startswith("20")


def test_search_keeps_what_the_misfire_policy_fires_and_looks_ahead() -> None:
    now = ms("2026-01-01T12:00:30Z")
    for misfire, kept in (("one", 1), ("skip", 0), ("all", 7)):
        row = definition(cron="* * * * *", misfire=misfire, misfire_max=7)
        search = Search(row, ms("2026-01-01T10:00:00Z"), now)
        while (found := search.step()) is None:
            pass
        late = [each for each in found.ms if each < now - GRACE_MS]
        assert late == [ms("2026-01-01T12:00:00Z") - 60_000 * back for back in reversed(range(kept))]
        assert (len(found.ms), found.missed) == (kept + AHEAD, 120 - kept)


def test_search_over_years_takes_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calendars, "MISSED_COUNTED_MAX", 100)
    now = ms("2026-01-01T12:00:30Z")
    search, steps = (
        Search(definition(cron="* * * * * *", misfire="all", misfire_max=100), ms("2016-01-01T00:00:00Z"), now),
        1,
    )
    while (found := search.step()) is None:
        steps += 1
    assert steps < 20
    assert found.ms[0] <= now - GRACE_MS - 100_000
    assert found.ms == sorted(found.ms)


def test_search_of_a_rare_expression_ends_at_its_end() -> None:
    end = ms("2026-03-01T00:00:00Z")
    search = Search(definition(cron="0 0 29 2 *", end_ms=end), ms("2015-01-01T00:00:00Z"), ms("2026-01-01T00:00:00Z"))
    found = search.step()
    assert found is not None
    assert (found.ms, found.complete, found.missed) == ([ms("2024-02-29T00:00:00Z")], True, 2)


@pytest.mark.parametrize("given", [{"every": "24h"}, {"at": Timestamp(seconds=2_000_000_000)}])
def test_time_zone_is_refused_where_it_would_have_no_effect(given: dict[str, Any]) -> None:
    with pytest.raises(Rejection, match=r"spec\.time_zone: is allowed only with cron"):
        definition_of(ScheduleSpec(command="a", time_zone="Europe/Berlin", **given))
    for zone in ("", "UTC"):  # as schedules are returned
        assert definition_of(ScheduleSpec(command="a", time_zone=zone, **given)).time_zone == "UTC"


@pytest.mark.parametrize("field", ["at", "start_at", "end_at"])
def test_time_that_some_time_zone_cannot_express_is_refused_and_the_field_named(field: str) -> None:
    spec = ScheduleSpec(command="a", **{field: LAST_TIME})
    if field != "at":
        spec.cron, spec.time_zone = "0 0 * * *", "Pacific/Kiritimati"
    with pytest.raises(Rejection, match=f"spec.{field}: must be a valid time after 1970 and before 9999-12-31"):
        definition_of(spec)


@pytest.mark.parametrize(
    "fields", [{"at_ms": INSTANT_MAX_MS}, {"cron": "0 0 * * *", "start_ms": INSTANT_MAX_MS - 86_400_000}]
)
def test_latest_time_can_be_written_in_every_time_zone(fields: dict[str, Any]) -> None:
    for zone in calendars._zone_names():
        calendar = Calendar(definition(time_zone=zone, **fields))
        (latest,), is_last = calendar.first(0, 9)
        assert is_last
        assert calendar.written(latest).startswith("9999-12-3")
