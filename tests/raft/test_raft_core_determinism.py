"""The same calls give the same bytes: twice in a process, and as recorded in scripted_life.txt."""

from __future__ import annotations

from pathlib import Path

from scripted_life import life

TRANSCRIPT = Path(__file__).parent / "scripted_life.txt"


def test_lives_with_the_same_seeds_are_identical() -> None:
    assert life(100) == life(100)


def test_lives_with_different_seeds_differ() -> None:
    assert len({tuple(life(seeds)) for seeds in (0, 100, 200, 300)}) > 1


def test_life_matches_its_recorded_transcript() -> None:
    assert life() == TRANSCRIPT.read_text().splitlines()
