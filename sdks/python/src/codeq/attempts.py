"""The history of a task's deliveries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from codeq.v1 import task_pb2


class AttemptEnd(StrEnum):
    """How a delivery ended."""

    UNSPECIFIED = "UNSPECIFIED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    NACKED = "NACKED"
    ABANDONED = "ABANDONED"
    LEASE_EXPIRED = "LEASE_EXPIRED"
    RETURNED = "RETURNED"
    CANCELLED = "CANCELLED"

    @classmethod
    def from_number(cls, number: int) -> AttemptEnd:
        """Returns the end for a number on the wire; UNSPECIFIED for a number that only a newer server knows."""
        return _END_BY_NUMBER.get(number, cls.UNSPECIFIED)


_END_BY_NUMBER: Final = {
    value.number: AttemptEnd(value.name.removeprefix("ATTEMPT_END_")) for value in task_pb2.AttemptEnd.DESCRIPTOR.values
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """A delivery that has ended.

    Attributes:
        worker_id: Worker that held the task.
        started_at: When it received the task.
        ended_at: When the delivery ended.
        end: How it ended.
        error: Error of a failure or reason of a nack, truncated to 512 characters; None: no error.
    """

    worker_id: str
    started_at: datetime
    ended_at: datetime
    end: AttemptEnd
    error: str | None

    @classmethod
    def of(cls, message: task_pb2.Attempt) -> Attempt:
        """Returns the attempt in a message."""
        return cls(
            worker_id=message.worker_id,
            started_at=message.started_at.ToDatetime(UTC),
            ended_at=message.ended_at.ToDatetime(UTC),
            end=AttemptEnd.from_number(message.end),
            error=message.error if message.HasField("error") else None,
        )
