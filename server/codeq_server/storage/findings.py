"""Findings of a check of a store."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that contradicts the others.

    Attributes:
        key: Key of the row.
        problem: What is wrong with the row.
    """

    key: bytes
    problem: str

    def __str__(self) -> str:
        return f"{self.key[:1].decode('ascii', 'backslashreplace')} {self.key[1:].hex()}: {self.problem}"


@dataclass(slots=True)
class Summary:
    """Counts of a check: rows, queues, lease rows, tasks by state and differences; and the LSN of the last batch."""

    rows: int = 0
    queues: int = 0
    leases: int = 0
    pending: int = 0
    scheduled: int = 0
    claimed: int = 0
    completed: int = 0
    failed: int = 0
    dlq: int = 0
    cancelled: int = 0
    differences: int = 0
    lsn: int = 0
