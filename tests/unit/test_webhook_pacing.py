"""Requests begin fast while the event loop is idle, and slowly while it is busy."""

from __future__ import annotations

from codeq_server.webhooks.pacing import BURST_MS, FASTEST_MS, LATE_MS, SLOWEST_MS, START_MS, Pace

SECOND_MS = 1000


def begun(pace: Pace, from_ms: float, late_ms: float) -> int:
    """Returns how many requests begin in a second of turns that are this late, one after the other."""
    now_ms, count = from_ms, 0
    while now_ms < from_ms + SECOND_MS:
        pace.note_turn(late_ms)
        while pace.wait_ms(now_ms) == 0:
            pace.begin(now_ms)
            count += 1
        now_ms += pace.wait_ms(now_ms) + late_ms
    return count


def test_idle_loop_begins_requests_at_the_fastest_pace() -> None:
    assert abs(begun(Pace(), 5_000, 0.1) - SECOND_MS / FASTEST_MS) < 3 * BURST_MS / FASTEST_MS


def test_busy_loop_begins_few_requests_but_never_none() -> None:
    pace = Pace()
    begun(pace, 5_000, LATE_MS + 1)
    assert pace.spacing_ms == SLOWEST_MS
    assert 100 < begun(pace, 6_000, LATE_MS + 1) <= SECOND_MS / SLOWEST_MS + 2


def test_pace_recovers_once_the_loop_is_idle() -> None:
    pace = Pace()
    begun(pace, 5_000, LATE_MS + 1)
    begun(pace, 6_000, 0.1)
    assert pace.spacing_ms == FASTEST_MS


def test_requests_that_begin_at_once_are_few_after_a_pause() -> None:
    pace = Pace()
    pace.begin(0)
    count = 0
    while pace.wait_ms(60_000) == 0:
        pace.begin(60_000)
        count += 1
    assert 0 < count <= BURST_MS / START_MS + 1
