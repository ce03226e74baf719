"""What a handler says about a delivery: Completed, Failed, Nack or Abandon, and their form on the wire.

Verdict (an exception, so that a handler may raise it or return it)
├── Failed      the task becomes FAILED and is not tried again
├── Nack        the task is tried again later, or goes to the dead-letter queue after its last delivery
└── Abandon     the delivery is given back unused
Completed       the task becomes COMPLETED (a plain value: success is returned, never raised)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from codeq import payloads
from codeq.artifacts import NewArtifact
from codeq.errors import FieldViolation, InvalidField
from codeq.texts import printable, text_of
from codeq.v1 import task_pb2

NO_ERROR: Final = "no error was given"
"""Error of a Failed without a text: the server wants one."""

_INT32_MAX: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Completed:
    """The work is done.

    Attributes:
        result: Any JSON-able object, bytes or RawJson; None: no result (`RawJson("null")` is the JSON null).
        artifacts: Files that belong to the result.
    """

    result: object = None
    artifacts: Iterable[NewArtifact] = ()


class Verdict(Exception):  # noqa: N818
    """Base of the outcomes that a handler may raise as well as return."""


class Failed(Verdict):
    """The work cannot be done: the task ends as FAILED with this error and is not tried again.

    Attributes:
        error: Text. Made of whatever was given, such as an exception.
        artifacts: Files that tell more, such as a log.
    """

    def __init__(self, error: object, artifacts: Iterable[NewArtifact] = ()) -> None:
        self.error = text_of(error)
        super().__init__(self.error)
        self.artifacts = artifacts


class Nack(Verdict):
    """The delivery failed: the task is tried again.

    Attributes:
        reason: Text kept as the task's error; may be empty. Made of whatever was given, such as an exception.
        delay: Time to wait (a fraction of a second counts as a whole one, at most 12 h); 0: at once; None: by the
            server's backoff policy.
    """

    def __init__(self, reason: object = "", delay: float | timedelta | None = None) -> None:
        self.reason = text_of(reason)
        super().__init__(self.reason)
        self.delay = delay


class Abandon(Verdict):
    """The worker gives the delivery back unused: the task keeps its place and its attempts."""


Outcome = Completed | Failed | Nack | Abandon


def whole_seconds(time: float | timedelta | None, name: str = "delay") -> int | None:
    """Seconds of a time, rounded up; None for None. `name` is the argument's, for errors.

    Raises:
        InvalidField: It is no number, or none that the wire can carry.
    """
    if time is None:
        return None
    try:
        seconds = math.ceil(time.total_seconds() if isinstance(time, timedelta) else time)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidField(f"{name}: {error}", violations=[FieldViolation(f"{name}_seconds", str(error))]) from None
    if not 0 <= seconds <= _INT32_MAX:
        text = "out of range"
        raise InvalidField(f"{name}: {text}", violations=[FieldViolation(f"{name}_seconds", text)])
    return seconds


def of_return_value(value: object) -> Outcome:
    """The outcome that a handler's return value stands for."""
    return value if isinstance(value, Completed | Failed | Nack | Abandon) else Completed(value)


def of_exception(error: BaseException) -> Outcome:
    """The outcome that an exception of a handler stands for: itself if it is one, else a Nack by backoff."""
    if isinstance(error, Failed | Nack | Abandon):
        return error
    return Nack(error)


def to_message(outcome: Outcome, task_id: str, lease_token: int) -> task_pb2.Outcome:
    """The outcome of one delivery on the wire, without its artifacts.

    Raises:
        InvalidField: The result cannot be written as JSON, or the delay is no number of seconds.
        TooLarge: The result is over payloads.VALUE_BYTES_MAX.
    """
    message = task_pb2.Outcome(task_id=task_id, lease_token=lease_token)
    match outcome:
        case Completed(result=result):
            message.kind = task_pb2.OUTCOME_KIND_COMPLETED
            if result is not None:
                message.result = payloads.encode(result, "result")
        case Failed():
            message.kind = task_pb2.OUTCOME_KIND_FAILED
            message.error = error_of(outcome)
        case Nack():
            message.kind = task_pb2.OUTCOME_KIND_NACK
            message.error = printable(outcome.reason)
            if (seconds := whole_seconds(outcome.delay)) is not None:
                message.delay_seconds = seconds
        case Abandon():
            message.kind = task_pb2.OUTCOME_KIND_ABANDON
    return message


def error_of(outcome: Failed) -> str:
    """The error of a failure as the server takes it: never blank."""
    text = printable(outcome.error)
    return text if text.strip() else NO_ERROR
