"""How fast requests begin: quickly while the event loop is idle, slowly while calls keep it busy."""

from __future__ import annotations

from typing import Final

FASTEST_MS: Final = 0.25
"""Least mean time between the beginnings of two requests."""
SLOWEST_MS: Final = 3.0
"""Greatest: even while the loop is busy, a request begins every 3 ms, which costs about an eighth of its time
(`bench/callbacks.py drain`)."""
BURST_MS: Final = 4.0
"""Requests that would begin in this time may begin at once."""
START_MS: Final = 1.0
"""Mean time between two requests after a pause: how busy the loop is turns out with the first ones."""
PAUSE_MS: Final = 100.0
"""Time without a request after which the pace starts anew."""
LATE_MS: Final = 2.0
"""Delay of a turn of the loop from which the loop counts as busy."""
SLOWER: Final = 2.0
FASTER: Final = 0.9
"""Factors of the time between two requests after a turn that was late, and after one that was not."""


class Pace:
    """The pace at which the requests of a process begin.

    Attributes:
        spacing_ms: Mean time between the beginnings of two requests at the moment.
    """

    __slots__ = ("_next_ms", "spacing_ms")

    def __init__(self) -> None:
        self.spacing_ms = FASTEST_MS
        self._next_ms = 0.0

    def note_turn(self, late_ms: float) -> None:
        """Adapts the pace to how late a turn of the event loop came."""
        if late_ms > LATE_MS:
            self.spacing_ms = min(SLOWEST_MS, self.spacing_ms * SLOWER)
        else:
            self.spacing_ms = max(FASTEST_MS, self.spacing_ms * FASTER)

    def wait_ms(self, now_ms: float) -> float:
        """Returns the time until the next request may begin; 0: now."""
        return max(0.0, self._next_ms - now_ms)

    def begin(self, now_ms: float) -> None:
        """Notes that a request begins."""
        if now_ms - self._next_ms > PAUSE_MS:
            self.spacing_ms = max(self.spacing_ms, START_MS)
        self._next_ms = max(self._next_ms, now_ms - BURST_MS) + self.spacing_ms
