"""Values that users see: tasks to create, tasks as the server tells them, results.

Task and TaskResult read their fields from the message when asked, so that a delivery costs nothing that a handler does
not look at.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Literal, Self

from google.protobuf import timestamp_pb2

from codeq import payloads
from codeq.artifacts import Artifact
from codeq.attempts import Attempt
from codeq.errors import FieldViolation, InvalidField, TooLarge
from codeq.outcomes import whole_seconds
from codeq.v1 import task_pb2, task_service_pb2

OrderBy = Literal["oldest", "newest"]
"""What comes first in a list."""


class TaskStatus(StrEnum):
    """Where a task is in its life."""

    UNSPECIFIED = "UNSPECIFIED"
    PENDING = "PENDING"
    SCHEDULED = "SCHEDULED"
    CLAIMED = "CLAIMED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    DLQ = "DLQ"
    CANCELLED = "CANCELLED"

    @classmethod
    def from_number(cls, number: int) -> TaskStatus:
        """The status of a number on the wire; one of a newer server is UNSPECIFIED."""
        return _STATUS_BY_NUMBER.get(number, cls.UNSPECIFIED)


_STATUS_BY_NUMBER: Final = {
    value.number: TaskStatus(value.name.removeprefix("TASK_STATUS_")) for value in task_pb2.TaskStatus.DESCRIPTOR.values
}

COMMAND_CHARACTERS_MAX: Final = 128
"""Most characters of a command."""

NEEDS_ZONE: Final = "needs a time zone"
"""What is wrong with a naive datetime: it means another time on another machine."""

PROGRESS_BYTES_MAX: Final = 65_536
"""Most bytes of a progress as JSON."""

_lost_guard = threading.Lock()


def _renew_guard() -> None:
    """Give a forked child a lock of its own: a thread that it does not have may have held it."""
    global _lost_guard  # noqa: PLW0603 - see above
    _lost_guard = threading.Lock()


os.register_at_fork(after_in_child=_renew_guard)


class _Done:
    """What is over already: awaiting it takes no time, and nobody minds when it is not awaited."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


_DONE: Final = _Done()


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to create.

    Attributes:
        command: Name of the queue.
        payload: Any JSON-able object, or bytes or RawJson that are sent as they are; at most 1 MiB as JSON.
        priority: 0 to 9; the highest is delivered first.
        delay: Time from acceptance before which the task is not delivered; fractions of a second count as whole ones.
        run_at: Time with a time zone before which the task is not delivered, in milliseconds. Not together with delay.
        max_attempts: Deliveries after which the task goes to the dead-letter queue; None: the server's default.
        idempotency_key: Key under which the same task is made once only, however often it is created; printable ASCII.
        task_id: Id of the task, unique within the tenant; None: the server makes one. Not together with a key.
        expire: Time from acceptance after which the task ends as FAILED with the error EXPIRED if it still waits then;
            fractions of a second count as whole ones. None: it waits for as long as it takes.
    """

    command: str
    payload: object = None
    priority: int = 0
    delay: float | timedelta | None = None
    run_at: datetime | None = None
    max_attempts: int | None = None
    idempotency_key: str | None = None
    task_id: str | None = None
    expire: float | timedelta | None = None

    def fill(self, spec: task_pb2.TaskSpec) -> None:
        """Write the task into a message; the server checks bounds.

        Raises:
            InvalidField: A field has no value of its type.
            TooLarge: The payload is over payloads.VALUE_BYTES_MAX.
        """
        field = "payload"
        spec.payload = payloads.encode(self.payload, field)
        try:
            field = "command"
            if len(self.command) > COMMAND_CHARACTERS_MAX:
                raise ValueError(f"more than {COMMAND_CHARACTERS_MAX} characters")  # noqa: TRY301 - see below
            spec.command = self.command
            field = "priority"
            if self.priority:
                spec.priority = self.priority
            field = "max_attempts"
            if self.max_attempts is not None:
                spec.max_attempts = self.max_attempts
            field = "idempotency_key"
            if self.idempotency_key is not None:
                spec.idempotency_key = self.idempotency_key
            field = "task_id"
            if self.task_id is not None:
                spec.task_id = self.task_id
            field = "run_at"
            self._fill_times(spec)
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            raise InvalidField(f"{field}: {error}", violations=[FieldViolation(field, str(error))]) from None

    def _fill_times(self, spec: task_pb2.TaskSpec) -> None:
        if (seconds := whole_seconds(self.delay)) is not None:
            spec.delay_seconds = seconds
        if (seconds := whole_seconds(self.expire, "expire")) is not None:
            spec.expire_seconds = seconds
        if self.run_at is not None:
            if self.run_at.utcoffset() is None:
                raise ValueError(NEEDS_ZONE)
            spec.run_at.FromDatetime(self.run_at)


def new_tasks(tasks: Iterable[NewTask]) -> list[NewTask]:
    """The tasks of a batch.

    Raises:
        TypeError: One is no NewTask.
    """
    checked = list(tasks)
    for place, task in enumerate(checked):
        if not isinstance(task, NewTask):
            raise TypeError(f"tasks[{place}] must be a NewTask, not {type(task).__name__}")
    return checked


class Task:
    """A task as the server tells it; deliveries and claims carry their lease."""

    __slots__ = ("_is_lost", "_lost_event", "_message", "renew_at", "reporter", "window_bytes")

    def __init__(self, message: task_pb2.Task, window_bytes: int = 0) -> None:
        self._message = message
        self._is_lost = False
        self._lost_event: threading.Event | None = None
        # Owned by the worker's transport: bytes counted against its window, and loop time of the next renewal. The
        # bytes are those of the whole message, not of the payload only: a window must not be given back less than it
        # lent.
        self.window_bytes = window_bytes
        self.renew_at = 0.0
        self.reporter: Callable[[Task, bytes], None] | None = None

    @property
    def id(self) -> str:
        """Id, unique within the tenant."""
        return self._message.id

    @property
    def command(self) -> str:
        """Name of the queue."""
        return self._message.command

    @property
    def payload(self) -> object:
        """Payload as decoded from JSON, anew at each access; an absent one is None.

        Raises:
            ValueError: Python does not read it, such as an integer of over 4300 digits; `payload_bytes` has it.
        """
        data = self._message.payload
        return payloads.decode(data, "payload") if data else None

    @property
    def payload_bytes(self) -> bytes:
        """Payload, byte for byte as created."""
        return self._message.payload

    @property
    def priority(self) -> int:
        """Priority, 0 to 9."""
        return self._message.priority

    @property
    def status(self) -> TaskStatus:
        """Where the task is in its life."""
        return TaskStatus.from_number(self._message.status)

    @property
    def attempts(self) -> int:
        """Deliveries so far, a present one included."""
        return self._message.attempts

    @property
    def max_attempts(self) -> int:
        """Deliveries allowed."""
        return self._message.max_attempts

    @property
    def tenant_id(self) -> str:
        """Tenant; empty in deliveries of a Worker."""
        return self._message.tenant_id

    @property
    def worker_id(self) -> str | None:
        """Worker that holds the lease or ended the task; None in deliveries of a Worker."""
        return self._message.worker_id if self._message.HasField("worker_id") else None

    @property
    def lease_token(self) -> int | None:
        """Token of the present lease."""
        return self._message.lease_token if self._message.HasField("lease_token") else None

    @property
    def lease_until(self) -> datetime | None:
        """End of the lease as it was when the task was delivered or read."""
        return to_datetime(self._message.lease_until) if self._message.HasField("lease_until") else None

    @property
    def error(self) -> str | None:
        """Last error."""
        return self._message.error if self._message.HasField("error") else None

    @property
    def run_at(self) -> datetime | None:
        """Time from which a SCHEDULED task is deliverable."""
        return to_datetime(self._message.run_at) if self._message.HasField("run_at") else None

    @property
    def expire_at(self) -> datetime | None:
        """Time at which the task ends as FAILED if it waits then; None: it does not expire."""
        return to_datetime(self._message.expire_at) if self._message.HasField("expire_at") else None

    @property
    def created_at(self) -> datetime | None:
        """Time of acceptance."""
        return to_datetime(self._message.created_at) if self._message.HasField("created_at") else None

    @property
    def updated_at(self) -> datetime | None:
        """Time of the last change of state; None in deliveries of a Worker."""
        return to_datetime(self._message.updated_at) if self._message.HasField("updated_at") else None

    @property
    def finished_at(self) -> datetime | None:
        """Time of the end."""
        return to_datetime(self._message.finished_at) if self._message.HasField("finished_at") else None

    @property
    def last_progress(self) -> object:
        """Progress as it was when the task was read, decoded from JSON; None where there is none."""
        return payloads.decode(self._message.progress, "progress") if self._message.HasField("progress") else None

    def progress(self, value: object) -> Awaitable[None]:
        """Have a Worker tell the server how far the work is: any JSON-able value of at most 64 KiB.

        Returns at once; of several values told in quick succession the last one counts. Any thread may call it. An
        async handler may await what it returns, and need not.

        Raises:
            InvalidField, TooLarge: The value is no JSON, or larger than it may be.
            Forked: This process is a child of the worker's.
            RuntimeError: The task was not delivered by a Worker; use Client.report_progress.
        """
        data = payloads.encode(value, "progress")
        if isinstance(value, bytes):
            payloads.check_json(data, "progress")
        if len(data) > PROGRESS_BYTES_MAX:
            raise TooLarge(f"progress: {len(data)} bytes, the limit is {PROGRESS_BYTES_MAX}")
        if self.reporter is None:
            raise RuntimeError("the task was not delivered by a Worker")
        self.reporter(self, data)
        return _DONE

    @property
    def attempt_history(self) -> list[Attempt]:
        """The last ten deliveries that have ended, oldest first; told by `Client.get` only."""
        return [Attempt.of(each) for each in self._message.attempt_history]

    @property
    def duplicate(self) -> bool:
        """Whether the create that told the task was carried out before, with the same idempotency key."""
        return self._message.duplicate

    @property
    def lost(self) -> threading.Event:
        """Set when a Worker learns that the lease is no more: stop working, the outcome will be refused."""
        if self._lost_event is None:
            with _lost_guard:
                if self._lost_event is None:
                    self._lost_event = threading.Event()
            if self._is_lost:  # lost between the two reads
                self._lost_event.set()
        return self._lost_event

    def mark_lost(self) -> None:
        """Set `lost`; called by the worker's transport."""
        self._is_lost = True
        if (event := self._lost_event) is not None:
            event.set()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy tells what the task was; it can report no progress, and does not learn that the lease is lost."""
        return _task_of, (self._message.SerializeToString(),)

    def __repr__(self) -> str:
        return f"Task(id={self.id!r}, command={self.command!r}, attempts={self.attempts})"


class TaskResult:
    """The record of a task's end."""

    __slots__ = ("_message",)

    def __init__(self, message: task_pb2.TaskResult) -> None:
        self._message = message

    @property
    def task_id(self) -> str:
        """Id of the task."""
        return self._message.task_id

    @property
    def status(self) -> TaskStatus:
        """COMPLETED, FAILED, DLQ or CANCELLED."""
        return TaskStatus.from_number(self._message.status)

    @property
    def result(self) -> object:
        """Result as decoded from JSON; None where there is none (see result_bytes).

        Raises:
            ValueError: Python does not read it, such as an integer of over 4300 digits; `result_bytes` has it.
        """
        return payloads.decode(self._message.result, "result") if self._message.HasField("result") else None

    @property
    def result_bytes(self) -> bytes | None:
        """Result, byte for byte as the worker sent it; None where it sent none."""
        return self._message.result if self._message.HasField("result") else None

    @property
    def error(self) -> str | None:
        """Error of a task that did not end well."""
        return self._message.error if self._message.HasField("error") else None

    @property
    def artifacts(self) -> list[Artifact]:
        """Files of the result; Client.artifact reads those that the server keeps."""
        return [Artifact.from_message(each) for each in self._message.artifacts]

    @property
    def completed_at(self) -> datetime:
        """Time of the end."""
        return to_datetime(self._message.completed_at)

    def __reduce__(self) -> tuple[Any, ...]:
        return _result_of, (self._message.SerializeToString(),)

    def __repr__(self) -> str:
        return f"TaskResult(task_id={self.task_id!r}, status={self.status.value!r}, error={self.error!r})"


@dataclass(frozen=True, slots=True)
class Returned:
    """What became of a task that a worker gave back.

    Attributes:
        status: PENDING, SCHEDULED or DLQ.
        delay_seconds: Seconds until it is deliverable again.
    """

    status: TaskStatus
    delay_seconds: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a task waits for.

    Attributes:
        status: Where it is.
        reason: What it waits for first of all: QUEUED, PAUSED, PURGING, DELAYED, NO_WORKER, LEASED or ENDED.
        paused: Whether its queue is paused.
        ahead: About how many tasks of its queue go first, while it is PENDING.
        delay_seconds: Time until it is due, while it is SCHEDULED.
        worker_id: Worker that holds it, while it is CLAIMED.
        lease_until: End of the lease, while it is CLAIMED.
        expire_at: Time at which it ends because it waited too long, while it waits and can expire.
    """

    status: TaskStatus
    reason: str
    paused: bool
    ahead: int | None = None
    delay_seconds: float | None = None
    worker_id: str | None = None
    lease_until: datetime | None = None
    expire_at: datetime | None = None

    @classmethod
    def from_message(cls, message: task_service_pb2.ExplainTaskResponse) -> Self:
        """The explanation of a reply; a reason of a newer server is its number."""
        names = task_service_pb2.WaitReason.DESCRIPTOR.values_by_number
        named = names.get(message.reason)
        return cls(
            status=TaskStatus.from_number(message.status),
            reason=named.name.removeprefix("WAIT_REASON_") if named else str(message.reason),
            paused=message.paused,
            ahead=message.ahead if message.HasField("ahead") else None,
            delay_seconds=message.delay_seconds if message.HasField("delay_seconds") else None,
            worker_id=message.worker_id if message.HasField("worker_id") else None,
            lease_until=to_datetime(message.lease_until) if message.HasField("lease_until") else None,
            expire_at=to_datetime(message.expire_at) if message.HasField("expire_at") else None,
        )


def _task_of(data: bytes) -> Task:
    """A task out of its pickle."""
    return Task(task_pb2.Task.FromString(data))


def _result_of(data: bytes) -> TaskResult:
    """A result out of its pickle."""
    return TaskResult(task_pb2.TaskResult.FromString(data))


def to_datetime(timestamp: timestamp_pb2.Timestamp) -> datetime:
    """The UTC time of a timestamp."""
    return timestamp.ToDatetime(tzinfo=UTC)
