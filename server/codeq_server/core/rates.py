"""Tasks created and completed per second in a queue; kept in memory only."""

from __future__ import annotations

from math import exp
from typing import Final

SPAN_MS: Final = 60_000
"""Time constant of the decay: a task of this age counts 1/e, about a third, as much as a new task."""
START_MS: Final = 1000
"""Time during which the first tasks seen are assumed to have arrived."""


class Rates:
    """Decaying averages of a queue's rates. The totals of the queue are noted once for each batch that changed them."""

    __slots__ = ("_at_ms", "_completed", "_completed_total", "_created", "_created_total", "_since_ms")

    def __init__(self, created_total: int = 0, completed_total: int = 0) -> None:
        self._created_total = created_total
        self._completed_total = completed_total
        self._created = 0.0
        self._completed = 0.0
        self._at_ms = -1
        self._since_ms = -1

    def note(self, created_total: int, completed_total: int, mono_ms: int) -> None:
        """Notes the current totals."""
        if self._at_ms < 0:
            self._at_ms = self._since_ms = mono_ms - START_MS
        fade = exp((self._at_ms - mono_ms) / SPAN_MS)
        self._created = self._created * fade + created_total - self._created_total
        self._completed = self._completed * fade + completed_total - self._completed_total
        self._created_total, self._completed_total, self._at_ms = created_total, completed_total, mono_ms

    def now(self, mono_ms: int) -> tuple[float, float]:
        """Returns tasks created, and tasks completed, per second."""
        if self._at_ms < 0:
            return 0.0, 0.0
        fade = exp((self._at_ms - mono_ms) / SPAN_MS)
        # The time before the first tasks were seen does not count.
        seconds = SPAN_MS / 1000 * (1 - exp((self._since_ms - mono_ms) / SPAN_MS))
        return self._created * fade / seconds, self._completed * fade / seconds
