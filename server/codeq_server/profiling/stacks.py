"""Profiles: stacks with values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class Frame(NamedTuple):
    """A place in the code.

    Attributes:
        function: Name of the function; empty: unknown.
        file: Path of the source file.
        line: Line number.
    """

    function: str
    file: str
    line: int


class Measure(NamedTuple):
    """One of the values of each stack: its type and its unit, as pprof names them."""

    name: str
    unit: str


Stack = tuple[Frame, ...]
"""Frames, the innermost first."""


class Ending(Protocol):
    """What may end a profile early, such as a `threading.Event`."""

    def wait(self, timeout: float) -> bool:
        """Waits for some seconds; returns whether the profile ends."""
        ...


@dataclass(slots=True)
class Profile:
    """Values by stack.

    Attributes:
        measures: What the values are; the last one matters most.
        unix_ns: When it was begun, in Unix nanoseconds.
        seconds: How long it took.
        period_ns: Time between two samples in nanoseconds; 0: every event was recorded.
        stacks: The values of each stack, in the order of the measures.
    """

    measures: Sequence[Measure]
    unix_ns: int
    seconds: float
    period_ns: int = 0
    stacks: dict[Stack, list[int]] = field(default_factory=dict)

    def add(self, stack: Stack, *values: int) -> None:
        """Adds values to a stack."""
        have = self.stacks.get(stack)
        if have is None:
            self.stacks[stack] = list(values)
            return
        for index, value in enumerate(values):
            have[index] += value
