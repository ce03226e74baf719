"""The outcome of a delivery: Completed, Failed, Nack, Abandon or Snooze, and its encoding.

Verdict (an exception, so that a handler may raise it or return it)
├── Failed      the task becomes FAILED and is not retried; NonRetryable is one
├── Nack        the task is retried later, or goes to the dead-letter queue after its last delivery; RetryAfter is one
└── Abandon     the delivery is given back unused
    ├── Snooze  the same, and the task waits for a while
    └── ParkKey  the same, and so do all tasks with its key
Completed       the task becomes COMPLETED (a plain value: success is returned, never raised)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from codeq import payloads
from codeq.artifacts import NewArtifact
from codeq.errors import FieldViolation, InvalidField
from codeq.texts import printable, text_of
from codeq.v1 import task_pb2

NO_ERROR: Final = "no error was given"
"""Error of a Failed without a text: the server requires one."""

_INT32_MAX: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Completed:
    """The work is done.

    Attributes:
        result: Any JSON-serialisable object, bytes or RawJson; None: no result (`RawJson("null")` is the JSON null).
        artifacts: Files that belong to the result.
    """

    result: object = None
    artifacts: Iterable[NewArtifact] = ()


class Verdict(Exception):  # noqa: N818
    """Base of the outcomes that a handler may raise as well as return."""


class Failed(Verdict):
    """The work cannot be done: the task ends as FAILED with this error and is not retried.

    Attributes:
        error: Text of the given object, such as an exception.
        artifacts: Files with details, such as a log.
    """

    def __init__(self, error: object, artifacts: Iterable[NewArtifact] = ()) -> None:
        self.error = text_of(error)
        super().__init__(self.error)
        self.artifacts = artifacts


class NonRetryable(Failed):
    """A Failed by the name that says what raising it means: the task must not be retried."""


class Nack(Verdict):
    """The delivery failed: the task is retried.

    Attributes:
        reason: Text of the given object, such as an exception; stored as the task's error; may be empty.
        delay: Time to wait, rounded up to whole seconds, at most 12 h; 0: at once; None: by the server's backoff
            policy.
    """

    def __init__(self, reason: object = "", delay: float | timedelta | None = None) -> None:
        self.reason = text_of(reason)
        super().__init__(self.reason)
        self.delay = delay


class RetryAfter(Nack):
    """A Nack by the name that says what raising it means: the task is retried after a delay."""

    def __init__(self, delay: float | timedelta, reason: object = "") -> None:
        super().__init__(reason, delay)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.delay, self.reason)


class Abandon(Verdict):
    """The worker gives the delivery back unused: the task keeps its attempts.

    Attributes:
        delay: Time to wait before the task is delivered again, rounded up to whole seconds, at most 12 h; None or 0:
            the task keeps its place.
    """

    def __init__(self, delay: float | timedelta | None = None) -> None:
        super().__init__(*(() if delay is None else (delay,)))
        self.delay = delay


class Snooze(Abandon):
    """The worker gives the delivery back unused, to be delivered again after a delay: an Abandon that needs one."""

    def __init__(self, delay: float | timedelta) -> None:
        super().__init__(delay)


class ParkKey(Abandon):
    """The worker met a rate limit: the task goes back, and no task with its rate or concurrency key runs for a while.

    It costs no attempt. A task without such a key waits alone.
    """

    def __init__(self, delay: float | timedelta) -> None:
        super().__init__(delay)


Outcome = Completed | Failed | Nack | Abandon


def whole_seconds(time: float | timedelta | None, name: str = "delay", *, field: str = "") -> int | None:
    """Returns a time in seconds, rounded up; None for None.

    Args:
        time: The time.
        name: Name of the argument, for errors.
        field: Field of the request, for errors; empty: the name and `_seconds`.

    Raises:
        InvalidField: The time is not a number, is negative, or exceeds int32.
    """
    if time is None:
        return None
    violated = field or f"{name}_seconds"
    try:
        seconds = math.ceil(time.total_seconds() if isinstance(time, timedelta) else time)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidField(f"{name}: {error}", violations=[FieldViolation(violated, str(error))]) from None
    if not 0 <= seconds <= _INT32_MAX:
        text = "out of range"
        raise InvalidField(f"{name}: {text}", violations=[FieldViolation(violated, text)])
    return seconds


def of_return_value(value: object) -> Outcome:
    """Returns the outcome that a handler's return value stands for."""
    return value if isinstance(value, Completed | Failed | Nack | Abandon) else Completed(value)


def of_exception(error: BaseException) -> Outcome:
    """Returns the outcome that a handler's exception stands for: itself if it is one, else a Nack by backoff."""
    if isinstance(error, Failed | Nack | Abandon):
        return error
    return Nack(error)


def name_of(outcome: Outcome) -> str:
    """Returns the name of an outcome on the wire, such as COMPLETED."""
    match outcome:
        case Completed():
            return "COMPLETED"
        case Failed():
            return "FAILED"
        case Nack():
            return "NACK"
        case _:
            return "ABANDON"


def to_message(outcome: Outcome, task_id: str, lease_token: int) -> task_pb2.Outcome:
    """Encodes the outcome of one delivery, without its artifacts.

    Raises:
        InvalidField: The result cannot be encoded as JSON, or the delay is not a valid number of seconds.
        TooLarge: The result exceeds payloads.VALUE_BYTES_MAX.
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
            message.park_key = isinstance(outcome, ParkKey)
            if (seconds := whole_seconds(outcome.delay)) is not None:
                message.delay_seconds = seconds
    return message


def error_of(outcome: Failed) -> str:
    """Returns the error of a failure in a form that the server accepts: never blank."""
    text = printable(outcome.error)
    return text if text.strip() else NO_ERROR
