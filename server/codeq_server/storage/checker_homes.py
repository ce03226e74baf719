"""Homes and places as the checker stores them: as one number, taken from their key."""

from __future__ import annotations

from collections.abc import Sequence


def pack(queue: int, lane: int, position: int) -> int:
    """Returns a home or a place as one number."""
    return queue << 56 | lane << 48 | position


def listed_homes(queues: Sequence[int], homes: Sequence[int]) -> list[int]:
    """Returns the packed homes that a row lists, with one queue for all homes, or one for each."""
    if len(queues) == 1:
        queues = [queues[0]] * len(homes)
    return [queue << 56 | home for queue, home in zip(queues, homes, strict=False)]


def queues_match(queues: Sequence[int], homes: Sequence[int]) -> bool:
    """Returns whether a row names as many queues as `listed_homes` needs."""
    return len(queues) in {1, len(homes)}
