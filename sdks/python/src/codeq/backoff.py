"""Delays between attempts to connect: exponential with full jitter, to spread out the clients of a restarted server."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

FACTOR: Final = 2.0
"""Growth of the upper bound with each failed attempt."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """A random delay between 0 and an upper bound that doubles with each failed attempt.

    Attributes:
        base_seconds: Upper bound of the first delay.
        max_seconds: Highest upper bound.
        random: Source of numbers in [0, 1).
    """

    base_seconds: float = 0.2
    max_seconds: float = 10.0
    random: Callable[[], float] = random.random

    def delay(self, attempt: int) -> float:
        """Returns the seconds to wait after a number of failed attempts in a row, 1 or more."""
        exponent = min(attempt - 1, 30)  # 2**30 is beyond any bound and keeps the float finite
        return self.random() * min(self.max_seconds, self.base_seconds * FACTOR**exponent)
