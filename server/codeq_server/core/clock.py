"""Time in the core: an argument of every decision."""

from __future__ import annotations

from typing import NamedTuple


class Now(NamedTuple):
    """One reading of both clocks.

    Attributes:
        wall_ms: Unix milliseconds; used for schedules, retention and timestamps. Never decreases within a shard.
        mono_ms: Milliseconds of the process's monotonic clock; used for leases, so that clock jumps are harmless.
    """

    wall_ms: int
    mono_ms: int
