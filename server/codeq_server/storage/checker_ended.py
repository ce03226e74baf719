"""Checker rules about ended rows: which tasks they list, and in which life of a task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from codeq.v1.task_pb2 import TaskStatus
from codeq_internal.v1 import rows_pb2

from codeq_server.core.history import DELIVERIES_KEPT, deliveries

ENDED: Final[dict[int, str]] = {
    TaskStatus.TASK_STATUS_COMPLETED: "completed",
    TaskStatus.TASK_STATUS_FAILED: "failed",
    TaskStatus.TASK_STATUS_DLQ: "dlq",
    TaskStatus.TASK_STATUS_CANCELLED: "cancelled",
}
"""Statuses of an ended task, with their names in the summary."""
_COMPLETED: Final = 2
"""Bit of an end listed as final."""


class EndedRows:
    """The contents of rows "r" that state rows and homes have yet to confirm.

    A redriven task may still be listed with the ends of earlier lives, even after it was removed.
    """

    def __init__(self) -> None:
        self._listed: dict[int, int] = {}
        """By home: the first end met, as `_entry`."""
        self._more: dict[int, list[int]] = {}
        """By home: further ends of tasks that are listed with several ends."""

    def row(self, lsn: int, homes: Sequence[int], *, dead: bool, completed: bool) -> Iterator[int]:
        """Processes a row; yields the homes already listed with this end."""
        entry = _entry(lsn, dead=dead, completed=completed)
        for home in homes:
            if home not in self._listed:
                self._listed[home] = entry
            elif any(entry | _COMPLETED == other | _COMPLETED for other in self._of(home)):
                yield home
            else:
                self._more.setdefault(home, []).append(entry)

    def state(self, home: int, state: rows_pb2.StateRow) -> Iterator[str]:
        """Processes a state row; yields its problems: its end must be listed, other ends only from earlier lives."""
        listed, status = self._taken(home), state.status
        own = [_entry(state.ended_lsn, dead=status == TaskStatus.TASK_STATUS_DLQ, completed=False)]
        if status == TaskStatus.TASK_STATUS_COMPLETED:
            own.append(own[0] | _COMPLETED)
        if state.ended_lsn and not any(entry in own for entry in listed):
            yield f"has ended in batch {state.ended_lsn}, but no ended row of that batch lists it"
        yield from _history(state)
        for entry in listed:
            # A completed task stays completed; other ends may belong to an earlier life.
            if entry not in own and (entry & _COMPLETED or entry >> 2 >= (state.ended_lsn or state.redriven_lsn)):
                yield _wrong(entry)

    def home(self, home: int) -> Iterator[str]:
        """Processes a home without a state row; yields problems: its task never ended."""
        for entry in self._taken(home):
            yield _wrong(entry)

    def finish(self) -> Iterator[tuple[int, str]]:
        """Yields home and problem of listed tasks without rows; no problem if the task was ever redriven."""
        for home, entry in self._listed.items():
            yield home, _wrong(entry)

    def _of(self, home: int) -> list[int]:
        return [self._listed[home], *self._more.get(home, ())]

    def _taken(self, home: int) -> list[int]:
        """Returns the listed ends of a home, and forgets them."""
        if home not in self._listed:
            return []
        return [self._listed.pop(home), *self._more.pop(home, ())]


def _entry(lsn: int, *, dead: bool, completed: bool) -> int:
    return lsn << 2 | completed * _COMPLETED | dead


def _wrong(entry: int) -> str:
    how = "completed" if entry & _COMPLETED else "ended"
    return f"is listed as {how} in batch {entry >> 2}, but did not end that way then"


def _history(state: rows_pb2.StateRow) -> Iterator[str]:
    """Yields problems of the deliveries in a state row, which must be few and in order."""
    if len(state.deliveries) > DELIVERIES_KEPT:
        yield f"keeps {len(state.deliveries)} deliveries"
    ended = 0
    for each in deliveries(state):
        if not ended <= each.ended_ms <= state.changed_ms or each.started_ms > each.ended_ms:
            yield f"a delivery from {each.started_ms} to {each.ended_ms} is out of order"
        ended = each.ended_ms
