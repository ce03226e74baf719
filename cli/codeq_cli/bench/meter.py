"""Counts, times and the client's own CPU time, within the measured window only."""

from __future__ import annotations

import math
import resource
import time
from collections import Counter
from typing import Final

PRECISION: Final = 1.02
"""Ratio of two neighbouring bounds of a histogram: a percentile is up to 2 % too high."""
LEAST_SECONDS: Final = 1e-6
LIMIT_CORES: Final = 0.9
"""CPU time per second from which the client is what limits the rate: Python runs on one core."""


class Times:
    """A histogram of durations, whose size does not depend on their number."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._longest = 0.0

    def add(self, seconds: float) -> None:
        """Adds a duration."""
        self._counts[math.ceil(math.log(max(seconds, LEAST_SECONDS), PRECISION))] += 1
        self._longest = max(self._longest, seconds)

    def percentile(self, share: float) -> float | None:
        """Returns the duration in seconds that a share of all does not exceed; None: there are none."""
        rest = share * self._counts.total()
        for bucket in sorted(self._counts):
            rest -= self._counts[bucket]
            if rest <= 0:
                return min(PRECISION**bucket, self._longest)
        return None

    def shown(self, name: str) -> dict[str, float | None]:
        """Returns percentiles and the maximum in milliseconds, by names for the output."""
        shares = {"P50": 0.5, "P99": 0.99, "Max": 1.0}
        found = {key: self.percentile(share) for key, share in shares.items()}
        return {f"{name}{key}Ms": None if each is None else round(each * 1000, 2) for key, each in found.items()}


class Meter:
    """Counts while its window is open.

    Attributes:
        is_open: Whether the window is open.
    """

    def __init__(self) -> None:
        self.is_open = False
        self._created = self._failed = 0
        self._settled = self._settled_before = 0
        self._creates, self._cycles = Times(), Times()
        self._began = self._seconds = self._cpu = 0.0
        self._reasons: Counter[str] = Counter()

    def open(self, settled: int) -> None:
        """Begins to count; `settled` is the number of outcomes that the server has accepted so far."""
        self.is_open, self._settled_before = True, settled
        self._began, self._cpu = time.monotonic(), _cpu_seconds()

    def close(self, settled: int) -> None:
        """Stops counting."""
        self.is_open, self._settled = False, settled - self._settled_before
        self._seconds, self._cpu = time.monotonic() - self._began, _cpu_seconds() - self._cpu

    def created(self, count: int, seconds: float) -> None:
        """Counts tasks that were created by one call, which took a time."""
        if self.is_open:
            self._created += count
            self._creates.add(seconds)

    def failed(self, count: int, reason: str) -> None:
        """Counts tasks that were not created, or perhaps not."""
        if self.is_open:
            self._failed += count
            self._reasons[reason] += count

    def cycled(self, seconds: float) -> None:
        """Counts a task that reached its handler a time after its create began."""
        if self.is_open:
            self._cycles.add(seconds)

    def report(self, *, with_worker: bool) -> dict[str, object]:
        """Returns what was measured, for the output; without figures of a worker if there is none."""
        cores = self._cpu / self._seconds
        shown: dict[str, object] = {
            "seconds": round(self._seconds, 2),
            "created": self._created,
            "createdPerSecond": round(self._created / self._seconds),
            "failed": self._failed,
            "failures": dict(self._reasons),
            **self._creates.shown("create"),
        }
        if with_worker:
            shown |= {
                "completed": self._settled,
                "completedPerSecond": round(self._settled / self._seconds),
                **self._cycles.shown("deliver"),
            }
        return shown | {
            "clientCpuSeconds": round(self._cpu, 2),
            "clientCores": round(cores, 2),
            "clientIsLimit": cores >= LIMIT_CORES,
        }


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
