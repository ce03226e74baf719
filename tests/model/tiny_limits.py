"""Limits of the core, lowered so that random work of about fifty steps reaches them."""

from __future__ import annotations

import pytest
from codeq_server.core import (
    claims,
    gate_recovery,
    gates,
    ordering,
    outcomes,
    purging,
    recovery,
    redrive,
    sifting,
    sweep,
    time_index,
    timers,
    windows,
)
from codeq_server.core import shard as shard_module
from reference import ABANDONS_MAX

CLAIM_MAX = 5


def make_limits_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lowers limits so that pages end, windows overflow and rows are split within lives of fifty steps."""
    for module, name, value in (
        (claims, "CLAIM_MAX", CLAIM_MAX),
        (windows, "PAGE_MAX", CLAIM_MAX),
        (time_index, "HEAD_MAX", 4),
        (time_index, "PAGE", 2),
        (time_index, "ENTRIES_MAX", 12),
        (timers, "SLICE", 2),
        (sweep, "SWEEP_READS", 3),
        (sweep, "SCAN_READS", 2),
        (sweep, "SCAN_MAX", 2),
        (sweep, "LISTS_MAX", 2),
        (purging, "SLICE", 4),
        (purging, "TURN", 2),
        (purging, "TURN_COST", 1),
        (redrive, "CLEANUP_SLICE", 2),
        (outcomes, "ABANDONS_MAX", ABANDONS_MAX),
        (outcomes, "SHRINK_FROM", 2),
        (shard_module, "ENDED_ROW_MAX", 2),
        (recovery, "PAGE", 2),
        (gate_recovery, "PAGE", 2),
        (gates, "OPEN_MAX", 1),
        (ordering, "GAPS", 1),
        (ordering, "PAGE", 2),
        (sifting, "SIFT_MAX", 2),
        (sifting, "SLICE", 4),
        (sifting, "TURN", 2),
    ):
        monkeypatch.setattr(module, name, value)
