"""Counts of what a shard did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Totals:
    """Counts since the shard was opened, for metrics."""

    created: int = 0
    claimed: int = 0
    completed: int = 0
    failed: int = 0
    nacked: int = 0
    abandoned: int = 0
    dead: int = 0
    expired: int = 0
    outdated: int = 0
    matured: int = 0
    cancelled: int = 0
    removed: int = 0
    redriven: int = 0
    fired: int = 0
    missed: int = 0
    overlapped: int = 0
    late_ms: int = 0
    sifted: int = 0
    rows: int = 0
