"""Computes the instants of schedules: cron expressions in time zones, intervals and single instants.

Time zones come from the package tzdata, never from the system, so that all servers of one version agree and its
version can be told.
"""

from __future__ import annotations

import re
from collections import deque
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Final
from zoneinfo import ZoneInfo

import tzdata
from codeq_internal.v1 import rows_pb2
from cronsim import CronSim, CronSimError

from codeq_server.core.defining import Instants
from codeq_server.core.firing import kept_misfires, missed_until

AHEAD: Final = 6
"""Number of future instants that are stored with a schedule."""
STEPS_MAX = 64
"""Instants computed without yielding to other callers; those of rare expressions take far longer than others."""
MISSED_COUNTED_MAX = 10_000
"""Missed instants after which the search jumps to the latest ones and no longer counts."""
EVERY_SECONDS_MAX: Final = 3660 * 86_400
"""Longest interval."""
INSTANT_MAX_MS: Final = 253_402_214_399_000
"""Latest possible instant: the last second of 9999-12-30 in UTC, so that the year is 9999 in every time zone."""
TZDATA: Final[str] = tzdata.IANA_VERSION
"""Version of the time zone data."""

_UNITS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_ALIASES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_EVERY: Final = "@every "
_PART: Final = re.compile(r"(\d+)([dhms])")
_FIRST_WINDOW_MS: Final = 60_000


class BadCalendar(ValueError):  # noqa: N818 - the rejection of a definition, not an error of the server
    """A definition has no instants or cannot be understood.

    Attributes:
        field: Field of codeq.v1.ScheduleSpec.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field


class Calendar:
    """The instants of a definition.

    Attributes:
        zone: Time zone.
        cron: Cron expression; empty: the instants have another form.
        every_ms: Interval; 0: the instants have another form.
        at_ms: The only instant; 0: the instants have another form.
        start_ms: First possible instant in Unix milliseconds; 0: not limited.
        end_ms: Last possible instant.
        anchor_ms: Time from which the interval counts.

    Args:
        row: Definition, with the time of creation.

    Raises:
        BadCalendar: A field of the definition is malformed.
    """

    def __init__(self, row: rows_pb2.ScheduleRow) -> None:
        self.zone = zone_of(row.time_zone)
        self.cron = _ALIASES.get(row.cron.strip().lower(), row.cron)
        self.every_ms = 0
        if row.every:
            self.every_ms = _every_ms("every", row.every)
        elif self.cron.lower().startswith(_EVERY):
            self.every_ms = _every_ms("cron", self.cron[len(_EVERY) :].strip().lower())
        elif self.cron:
            _parse(self.cron, datetime.fromtimestamp(0, self.zone))
        self.at_ms: int = row.at_ms
        self.start_ms: int = row.start_ms
        self.end_ms: int = row.end_ms or INSTANT_MAX_MS
        self.anchor_ms: int = row.start_ms or row.created_ms // 1000 * 1000

    def after(self, ms: int) -> Walk:
        """Returns a walk over the instants after a time."""
        return Walk(self, max(ms, self.start_ms - 1))

    def first(self, after_ms: int, count: int) -> tuple[list[int], bool]:
        """Returns the first instants after a time, at most `count`, and whether no others follow."""
        walk, found = self.after(after_ms), list[int]()
        while len(found) <= count:
            instant = walk.advance()
            if instant is None:
                return found, True
            found.append(instant)
        return found[:count], False

    def written(self, instant: int) -> str:
        """Returns an instant in RFC 3339, with the offset of the time zone."""
        seconds, millis = divmod(instant, 1000)
        there = datetime.fromtimestamp(seconds, self.zone).replace(microsecond=millis * 1000)
        return there.isoformat(timespec="milliseconds" if millis else "seconds")


class Walk:
    """A walk over the instants of a calendar."""

    def __init__(self, calendar: Calendar, after_ms: int) -> None:
        self._calendar = calendar
        self._after_ms = after_ms
        self._cron: CronSim | None = None
        if calendar.cron and not calendar.every_ms:
            self._cron = _parse(calendar.cron, datetime.fromtimestamp(max(after_ms, 0) // 1000, calendar.zone))

    def advance(self) -> int | None:
        """Returns the next instant in Unix milliseconds; None: there is no other."""
        calendar = self._calendar
        if self._cron is not None:
            instant = self._next_of_cron(self._cron)
        elif calendar.every_ms:
            least = 0 if calendar.start_ms else 1
            steps = max(least, (self._after_ms - calendar.anchor_ms) // calendar.every_ms + 1)
            instant = calendar.anchor_ms + steps * calendar.every_ms
        else:
            instant = calendar.at_ms if calendar.at_ms > self._after_ms else -1
        if instant < 0 or instant > calendar.end_ms:
            return None
        self._after_ms = instant
        return instant

    def _next_of_cron(self, cron: CronSim) -> int:
        """Returns the next instant of a cron expression; -1: there is none.

        When clocks go back, the library names wall times that were there already; they are left out.
        """
        while True:
            try:
                instant = int(next(cron).timestamp()) * 1000
            except (StopIteration, OverflowError, ValueError):
                return -1
            if instant > self._after_ms:
                return instant


class Search:
    """Computes the instants that follow the stored ones of a schedule, in slices.

    Of missed instants it keeps the latest ones that the misfire policy fires.

    Args:
        row: Row of the schedule.
        after_ms: Instant after which the search begins.
        now_ms: Present time.

    Raises:
        BadCalendar: A field of the definition is malformed.
    """

    def __init__(self, row: rows_pb2.ScheduleRow, after_ms: int, now_ms: int) -> None:
        self._calendar = Calendar(row)
        self._after_ms, self._now_ms = after_ms, now_ms
        self._missed_until_ms = missed_until(row, now_ms)
        self._walk = self._calendar.after(after_ms)
        self._kept = kept_misfires(row)
        self._missed: deque[int] = deque(maxlen=self._kept)
        self._left_out = 0
        self._window_ms = 0
        """How far before the present the search begins after it jumped; 0: it did not jump."""
        self._found: list[int] = []
        self._ahead = 0

    def step(self) -> Instants | None:
        """Computes a slice of instants; returns all that were found when the search is over."""
        for _ in range(STEPS_MAX):
            instant = self._walk.advance()
            if instant is None:
                return self._result(complete=True)
            if instant < self._missed_until_ms:
                self._miss(instant)
            elif self._sees_too_few():
                self._jump()
            else:
                self._found.append(instant)
                self._ahead += instant > self._now_ms
                if self._ahead == AHEAD:
                    return self._result(complete=False)
        return None

    def _miss(self, instant: int) -> None:
        if not self._window_ms:
            self._left_out += len(self._missed) == self._kept
            if self._left_out > MISSED_COUNTED_MAX:
                self._jump()
                return
        self._missed.append(instant)

    def _sees_too_few(self) -> bool:
        """Returns whether the search jumped too far to see as many missed instants as it has to keep."""
        return 0 < self._window_ms < self._now_ms - self._after_ms and len(self._missed) < self._kept

    def _jump(self) -> None:
        self._window_ms = 2 * self._window_ms or _FIRST_WINDOW_MS
        self._missed.clear()
        self._found.clear()
        self._ahead = 0
        self._walk = self._calendar.after(max(self._after_ms, self._now_ms - self._window_ms))

    def _result(self, *, complete: bool) -> Instants:
        return Instants([*self._missed, *self._found], complete, TZDATA, self._left_out)


def zone_of(name: str) -> ZoneInfo:
    """Returns a time zone.

    Raises:
        BadCalendar: There is no zone of this name.
    """
    if name not in _zone_names():
        raise BadCalendar("time_zone", "must be the IANA name of a time zone, such as Europe/Berlin")
    return _load(name)


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(resources.files("tzdata").joinpath("zones").read_text("utf-8").split())


@cache  # bounded by the number of time zones
def _load(name: str) -> ZoneInfo:
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def _parse(cron: str, start: datetime) -> CronSim:
    try:
        return CronSim(cron, start)
    except (CronSimError, ValueError, AssertionError, TypeError) as problem:
        reason = str(problem)[:1].lower() + str(problem)[1:]
        raise BadCalendar("cron", f"is no cron expression of 5 or 6 fields, or never fires: {reason}") from None


def _every_ms(field: str, text: str) -> int:
    parts = _PART.findall(text)
    if "".join(number + unit for number, unit in parts) != text:
        raise BadCalendar(field, 'must be an interval such as "90s" or "1h30m"')
    seconds = sum(int(number) * _UNITS[unit] for number, unit in parts)
    if not 1 <= seconds <= EVERY_SECONDS_MAX:
        raise BadCalendar(field, "must be an interval of 1 second to 3660 days")
    return seconds * 1000
