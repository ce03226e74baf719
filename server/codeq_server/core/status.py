"""Statuses of tasks, and outcomes of deliveries."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Status(IntEnum):
    """Status of a task; the numbers are those of codeq.v1.TaskStatus."""

    PENDING = 1
    SCHEDULED = 2
    CLAIMED = 3
    COMPLETED = 4
    FAILED = 5
    DLQ = 6
    CANCELLED = 7


ENDED: Final = frozenset({Status.COMPLETED, Status.FAILED, Status.DLQ, Status.CANCELLED})
"""Statuses of tasks that have ended."""


class Outcome(IntEnum):
    """How a delivery ended; the numbers are those of codeq.v1.OutcomeKind, 0 is the server's own action."""

    BY_SERVER = 0
    COMPLETED = 1
    FAILED = 2
    NACK = 3
    ABANDON = 4
