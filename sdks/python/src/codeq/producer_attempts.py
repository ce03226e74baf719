"""Retries creates whose answer was lost, if they have an idempotency key. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Sequence

from codeq import errors
from codeq.producer_frames import Result

Item = tuple[bytes, bool]
"""An encoded task, and whether it has an idempotency key."""

_OF_THE_CONNECTION = (errors.Unauthenticated, errors.PermissionDenied, errors.BadHandshake, errors.Unsupported)
"""Rejections that do not say whether an earlier attempt created the task."""


class Attempts:
    """The creates of one call, over as many attempts as they need.

    Attributes:
        waiting: Tasks to send now; empty: every task has its result.
        results: Results, in the order of the tasks.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        """Starts with every task waiting."""
        self._items = items
        self._indexes: Sequence[int] = range(len(items))
        self._lost: dict[int, Result] = {}
        self.waiting = [data for data, _ in items]
        self.results: list[Result] = []

    def note(self, answers: Sequence[Result], *, may_repeat: bool) -> None:
        """Records the answers of an attempt; selects the tasks to retry: those with a key and an unknown outcome."""
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
    """Returns whether an answer is final for a task that an earlier attempt had sent."""
    return isinstance(answer, str) or (
        isinstance(answer, errors.Rejected) and not isinstance(answer, _OF_THE_CONNECTION)
    )
