"""Creates whose answer was lost: those with an idempotency key are sent again. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Sequence

from codeq import errors
from codeq.producer_frames import Result

Item = tuple[bytes, bool]
"""A task on the wire, and whether it has an idempotency key."""

_OF_THE_CONNECTION = (errors.Unauthenticated, errors.PermissionDenied, errors.BadHandshake, errors.Unsupported)
"""Refusals that tell nothing of what became of the task when it was sent before."""


class Attempts:
    """The creates of one call, over as many attempts as they need.

    Attributes:
        waiting: Tasks to send now; none: every one has its result.
        results: Results, in the order of the tasks.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        """Creates to make; all of them wait."""
        self._items = items
        self._indexes: Sequence[int] = range(len(items))
        self._lost: dict[int, Result] = {}
        self.waiting = [data for data, _ in items]
        self.results: list[Result] = []

    def note(self, answers: Sequence[Result], *, may_repeat: bool) -> None:
        """Note the answers of one attempt, and which tasks to send again: keyed ones whose outcome is unknown."""
        again = []
        if not self.results:
            self.results = list(answers)
        for index, answer in zip(self._indexes, answers, strict=True):
            first = self._lost.get(index)
            self.results[index] = answer if first is None or _is_verdict(answer) else first
            if isinstance(answer, errors.OutcomeUnknown) and self._items[index][1]:
                self._lost[index] = self.results[index]
                again.append(index)
        self._indexes = again if may_repeat else ()
        self.waiting = [self._items[index][0] for index in self._indexes]


def _is_verdict(answer: Result) -> bool:
    """Tell whether an answer says what became of a task that was sent before."""
    return isinstance(answer, str) or (
        isinstance(answer, errors.Rejected) and not isinstance(answer, _OF_THE_CONNECTION)
    )
