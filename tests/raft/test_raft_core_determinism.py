"""The same calls give the same bytes: twice in a process, and as written down in scripted_life.txt."""

from __future__ import annotations

from pathlib import Path

from scripted_life import life

TRANSCRIPT = Path(__file__).parent / "scripted_life.txt"


def test_two_lives_from_the_same_seeds_are_the_same() -> None:
    assert life(100) == life(100)


def test_lives_from_other_seeds_differ() -> None:
    assert len({tuple(life(seeds)) for seeds in (0, 100, 200, 300)}) > 1


def test_life_is_the_one_written_down() -> None:
    assert life() == TRANSCRIPT.read_text().splitlines()
