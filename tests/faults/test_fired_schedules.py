"""The judge of schedules notices every kind of broken promise about instants."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest
from cluster_client import Follower
from cluster_ledger import Ledger
from codeq.v1 import schedule_service_pb2 as pb
from fired_schedules import Schedules

START = 1_800_000_000


def problems(instants: list[int], fired: int, missed: int, following: int, *, clocks_agree: bool = True) -> list[str]:
    """Judges a schedule with tasks of these instants and these counts; times are seconds since its start."""
    ledger = Ledger(clocks_agree=clocks_agree)
    schedules = Schedules(Follower([], ""), ledger, 1)
    schedules._starts["tick-0"] = START
    due = datetime.fromtimestamp(START + following, UTC).isoformat()
    schedule = pb.Schedule(name="tick-0", fired_total=fired, missed_total=missed, next=[due])
    schedules._judge(schedule, Counter(START + instant for instant in instants))
    return ledger.problems


def test_judge_accepts_one_task_per_instant() -> None:
    assert problems([0, 1, 2], 3, 0, 3) == []


def test_judge_accepts_counted_misses_only_if_a_clock_was_set() -> None:
    assert problems([0, 2], 2, 1, 3, clocks_agree=False) == []
    assert "although it was down for seconds only" in " ".join(problems([0, 2], 2, 1, 3))


@pytest.mark.parametrize(
    ("instants", "fired", "missed", "following", "problem"),
    [
        ([0, 1, 1], 3, 0, 2, "I5: tick-0 fired 1 instants twice"),
        ([0, 1], 3, 0, 2, "I1: tick-0 has 2 tasks and fired 3 times"),
        ([], 0, 0, 0, "I1: tick-0 never fired"),
        ([0, 2], 2, 0, 3, "I1: tick-0 fired 2 of 3 instants and missed 0"),
        ([1, 2], 2, 0, 3, "I1: tick-0 fired 2 of 3 instants and missed 0"),
        ([-1, 1], 2, 0, 2, "I1: tick-0 fired 2 of 2 instants and missed 0"),
        ([0, 1], 2, 0, 3, "and 1800000003.0 is next"),
    ],
)
def test_judge_notices_every_broken_promise_about_instants(
    instants: list[int], fired: int, missed: int, following: int, problem: str
) -> None:
    assert problem in " ".join(problems(instants, fired, missed, following))
