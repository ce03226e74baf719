"""Checker rules about schedules and their fires."""

from __future__ import annotations

from collections.abc import Iterator

from codeq_internal.v1 import rows_pb2

from codeq_server.core import tenant_keys
from codeq_server.core.firing import ALL, ALLOW, BACKFILL, CANCEL_RUNNING, INSTANT, ONE, QUEUE_ONE, RUNNING_MAX, SKIP
from codeq_server.core.schedules import HISTORY_MAX

_OVERLAPS = frozenset({ALLOW, SKIP, QUEUE_ONE, CANCEL_RUNNING})
_MISFIRES = frozenset({ONE, ALL, "skip"})


class ScheduleRows:
    """The schedules read so far, each with the number of fires that are to follow."""

    def __init__(self) -> None:
        self._fires: dict[bytes, tuple[int, int]] = {}
        """By schedule: the number of the next "f" row, and the number of the last one."""
        self._generations: set[int] = set()

    def row(self, key: bytes, value: bytes) -> Iterator[str]:
        """Processes a schedule; yields its problems."""
        tenant_keys.split_schedule_key(key)
        row = rows_pb2.ScheduleRow.FromString(value)
        if bool(row.cron) + bool(row.every) + bool(row.at_ms) != 1:
            yield "has not exactly one of cron, every and at"
        if row.overlap not in _OVERLAPS or row.misfire not in _MISFIRES:
            yield f"has the unknown policies {row.overlap!r} and {row.misfire!r}"
        instants = list(row.next_ms)
        if instants != sorted(set(instants)) or (instants and instants[0] <= row.after_ms):
            yield f"the next instants do not ascend after {row.after_ms}"
        if row.queued_ms and row.overlap != QUEUE_ONE:
            yield f"an instant waits, although the overlap policy is {row.overlap}"
        if len(row.running) > RUNNING_MAX or len(set(row.running)) < len(row.running):
            yield "lists too many running tasks, or one twice"
        if not row.generation or row.generation in self._generations:
            yield f"another schedule has the generation {row.generation}"
        self._generations.add(row.generation)
        self._fires[key] = (max(0, row.fired_total - HISTORY_MAX) + 1, row.fired_total)

    def fire(self, key: bytes, value: bytes) -> Iterator[str]:
        """Processes a fire; yields its problems. Fires come in the order of schedules and numbers."""
        schedule, number = tenant_keys.split_fire_key(key)
        row = rows_pb2.FireRow.FromString(value)
        wanted, last = self._fires.get(schedule, (0, 0))
        if not wanted <= number <= last or not wanted:
            yield "is no fire that its schedule keeps, or its schedule has no row"
            return
        if number != wanted:
            yield f"fires from {wanted} on are missing"
        self._fires[schedule] = (number + 1, last)
        if not INSTANT <= row.kind <= BACKFILL or not row.task_id:
            yield "has an unknown kind, or names no task"

    def finish(self) -> Iterator[tuple[bytes, str]]:
        """Yields the schedules with missing fires."""
        for key, (wanted, last) in self._fires.items():
            if wanted <= last:
                yield key, f"fires from {wanted} to {last} are missing"
