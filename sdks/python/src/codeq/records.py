"""Public values: tasks to create, and tasks as the server returns them.

Task decodes its fields lazily, so that a delivery decodes only the fields that its handler reads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, cast

from google.protobuf import timestamp_pb2

from codeq import payloads
from codeq.attempts import Attempt
from codeq.errors import FieldViolation, InvalidField, TooLarge
from codeq.outcomes import whole_seconds
from codeq.typed_values import Reader
from codeq.v1 import task_pb2

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    _Payload_co = TypeVarWithDefault("_Payload_co", covariant=True, default=object)
else:
    _Payload_co = TypeVar("_Payload_co", covariant=True)

_Value = TypeVar("_Value")

OrderBy = Literal["oldest", "newest"]
"""Sort order of a list, by age."""


class TaskStatus(StrEnum):
    """Status of a task."""

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
        """Returns the status for a number on the wire; UNSPECIFIED for a number that only a newer server knows."""
        return _STATUS_BY_NUMBER.get(number, cls.UNSPECIFIED)


_STATUS_BY_NUMBER: Final = {
    value.number: TaskStatus(value.name.removeprefix("TASK_STATUS_")) for value in task_pb2.TaskStatus.DESCRIPTOR.values
}


class CancelReason(StrEnum):
    """Why a running handler should stop."""

    LEASE_LOST = "LEASE_LOST"
    """The lease ended, or no server was reachable for a whole lease: the task may run elsewhere."""
    CANCELLED = "CANCELLED"
    """Somebody cancelled the task."""
    SHUTDOWN = "SHUTDOWN"
    """The worker is stopped, and its time to drain is over: the task goes back to the server."""
    TIMEOUT = "TIMEOUT"
    """The handler ran for longer than the timeout of its command. The lease is still held."""


COMMAND_CHARACTERS_MAX: Final = 128
"""Maximum characters of a command."""

NEEDS_ZONE: Final = "needs a time zone"
"""Error of a naive datetime, whose meaning would depend on the machine."""

PROGRESS_BYTES_MAX: Final = 65_536
"""Maximum bytes of a progress value as JSON."""

_lost_guard = threading.Lock()


def _renew_guard() -> None:
    """Gives a forked child a new lock: a thread that exists only in the parent may have held the old one."""
    global _lost_guard  # noqa: PLW0603 - see above
    _lost_guard = threading.Lock()


os.register_at_fork(after_in_child=_renew_guard)


class _Done:
    """A finished awaitable: awaiting it takes no time, and leaving it unawaited causes no warning."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


_DONE: Final = _Done()


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to create.

    Attributes:
        command: Name of the queue.
        payload: Any JSON-serialisable object, or bytes or RawJson to send as is; at most 1 MiB as JSON.
        priority: 0 to 9; the highest is delivered first.
        delay: Time from acceptance to the first delivery, rounded up to whole seconds.
        run_at: Time of the earliest delivery, with a time zone, to the millisecond. Cannot be combined with delay.
        max_attempts: Deliveries after which the task goes to the dead-letter queue; None: the server's default.
        idempotency_key: Key, in printable ASCII, that makes the create idempotent: repeated creates make one task.
        task_id: Id of the task, unique within the tenant; None: the server assigns one. Cannot be combined with a key.
        expire: Time from acceptance after which the task, if still waiting, ends as FAILED with the error EXPIRED;
            rounded up to whole seconds. None: it never expires.
        traceparent: Trace context that the worker gets with the task (W3C traceparent); it is not compared when a
            create is repeated.
        tracestate: Vendor part of the trace context (W3C tracestate), at most 512 printable ASCII characters.
        webhook: URL (http or https) to which the server reports the end of the task; see `codeq.webhooks`. None: none.
        concurrency_key: Tasks of the command with the same key run at most as many at a time as its policy allows.
        rate_key: Tasks of the command with the same key are delivered no faster than its policy allows.
        ordering_key: Tasks of the command with the same key run one at a time, in the order of acceptance.
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
    traceparent: str | None = None
    tracestate: str | None = None
    webhook: str | None = None
    concurrency_key: str | None = None
    rate_key: str | None = None
    ordering_key: str | None = None

    def fill(self, spec: task_pb2.TaskSpec) -> None:
        """Writes the task into a message; the server checks ranges.

        Raises:
            InvalidField: A field has a value of the wrong type, or a value that cannot be encoded.
            TooLarge: The payload exceeds payloads.VALUE_BYTES_MAX.
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
            for field, value in self._options():
                if value is not None:
                    setattr(spec, field, value)
            field = "run_at"
            self._fill_times(spec)
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            raise InvalidField(f"{field}: {error}", violations=[FieldViolation(field, str(error))]) from None

    def _options(self) -> Iterator[tuple[str, object]]:
        """Yields name and value of each field that is sent as it is, if it is set."""
        yield "max_attempts", self.max_attempts
        yield "idempotency_key", self.idempotency_key
        yield "task_id", self.task_id
        yield "traceparent", self.traceparent
        yield "tracestate", self.tracestate
        yield "webhook", self.webhook
        yield "concurrency_key", self.concurrency_key
        yield "rate_key", self.rate_key
        yield "ordering_key", self.ordering_key

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
    """Returns the tasks of a batch as a list.

    Raises:
        TypeError: An item is not a NewTask.
    """
    checked = list(tasks)
    for place, task in enumerate(checked):
        if not isinstance(task, NewTask):
            raise TypeError(f"tasks[{place}] must be a NewTask, not {type(task).__name__}")
    return checked


class Task(Generic[_Payload_co]):
    """A task as the server returned it; deliveries and claims carry their lease.

    A handler whose argument is annotated with `Task[Order]` gets payloads of the type Order.
    """

    __slots__ = (
        "_cancel_reason",
        "_is_lost",
        "_lost_event",
        "_message",
        "_typed",
        "renew_at",
        "reporter",
        "window_bytes",
    )

    def __init__(self, message: task_pb2.Task, window_bytes: int = 0) -> None:
        self._message = message
        self._is_lost = False
        self._lost_event: threading.Event | None = None
        self._cancel_reason: CancelReason | None = None
        self._typed: tuple[object, ...] = ()  # the payload, once it was read as a value of its type
        # Owned by the worker's transport: bytes counted against its window, and loop time of the next renewal. The
        # bytes are those of the whole message, not only of its payload, so that the window never gets back less than
        # was taken from it.
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
    def payload(self) -> _Payload_co:
        """Payload: a value of the handler's type; without one, decoded from JSON on each access, None if absent.

        Raises:
            ValueError: Python cannot read the JSON, such as an integer of over 4300 digits; use `payload_bytes`.
        """
        if self._typed:
            return cast("_Payload_co", self._typed[0])
        data = self._message.payload
        return cast("_Payload_co", payloads.decode(data, "payload") if data else None)

    def payload_as(self, kind: type[_Value]) -> _Value:
        """Reads the payload as a dataclass, pydantic model, msgspec struct, or container of them.

        Raises:
            InvalidField: The payload does not fit; `violations` names the place.
            TypeError: Values of the type cannot be read from JSON.
        """
        return Reader(kind).read(self._message.payload, "payload")

    def read_payload(self, reader: Reader[Any]) -> None:
        """Makes `payload` a value of a type; called by the worker. Raises InvalidField."""
        self._typed = (reader.read(self._message.payload, "payload"),)

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
        """Status of the task."""
        return TaskStatus.from_number(self._message.status)

    @property
    def attempts(self) -> int:
        """Deliveries so far, including the current one."""
        return self._message.attempts

    @property
    def max_attempts(self) -> int:
        """Deliveries allowed."""
        return self._message.max_attempts

    @property
    def tenant_id(self) -> str:
        """Tenant; empty in deliveries to a Worker."""
        return self._message.tenant_id

    @property
    def worker_id(self) -> str | None:
        """Worker that holds the lease or ended the task; None in deliveries to a Worker."""
        return self._message.worker_id if self._message.HasField("worker_id") else None

    @property
    def lease_token(self) -> int | None:
        """Token of the current lease."""
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
        """Time from which a SCHEDULED task can be delivered."""
        return to_datetime(self._message.run_at) if self._message.HasField("run_at") else None

    @property
    def expire_at(self) -> datetime | None:
        """Time at which the task ends as FAILED if it is still waiting; None: it does not expire."""
        return to_datetime(self._message.expire_at) if self._message.HasField("expire_at") else None

    @property
    def traceparent(self) -> str | None:
        """Trace context of the task's producer (W3C traceparent); None if it gave none."""
        return self._message.traceparent if self._message.HasField("traceparent") else None

    @property
    def tracestate(self) -> str | None:
        """Vendor part of the trace context (W3C tracestate); None if the producer gave none."""
        return self._message.tracestate if self._message.HasField("tracestate") else None

    @property
    def webhook(self) -> str | None:
        """URL to which the end of the task is reported; None if it has none."""
        return self._message.webhook if self._message.HasField("webhook") else None

    @property
    def concurrency_key(self) -> str | None:
        """Key that limits how many tasks run at a time; None: it has none."""
        return self._message.concurrency_key if self._message.HasField("concurrency_key") else None

    @property
    def rate_key(self) -> str | None:
        """Key that limits how fast tasks are delivered; None: it has none."""
        return self._message.rate_key if self._message.HasField("rate_key") else None

    @property
    def ordering_key(self) -> str | None:
        """Key that keeps tasks in order; None: it has none."""
        return self._message.ordering_key if self._message.HasField("ordering_key") else None

    @property
    def ordering_number(self) -> int | None:
        """Place among the tasks of its ordering key, from 1; None: it has no such key."""
        return self._message.ordering_number if self._message.HasField("ordering_number") else None

    @property
    def created_at(self) -> datetime | None:
        """Time of acceptance."""
        return to_datetime(self._message.created_at) if self._message.HasField("created_at") else None

    @property
    def updated_at(self) -> datetime | None:
        """Time of the last change of status; None in deliveries to a Worker."""
        return to_datetime(self._message.updated_at) if self._message.HasField("updated_at") else None

    @property
    def finished_at(self) -> datetime | None:
        """Time at which the task ended."""
        return to_datetime(self._message.finished_at) if self._message.HasField("finished_at") else None

    @property
    def last_progress(self) -> object:
        """Progress at the time the task was read, decoded from JSON; None if there is none."""
        return payloads.decode(self._message.progress, "progress") if self._message.HasField("progress") else None

    def progress(self, value: object) -> Awaitable[None]:
        """Reports progress through the Worker: any JSON-serialisable value of at most 64 KiB.

        Returns at once. Of several values in quick succession, only the last one is sent. Thread-safe. Awaiting the
        return value is optional.

        Raises:
            InvalidField, TooLarge: The value is not JSON, or exceeds 64 KiB.
            Forked: This process is a child of the worker's process.
            RuntimeError: The task was not delivered by a Worker; use Client.report_progress.
        """
        data = payloads.encode(value, "progress")
        if isinstance(value, bytes):
            payloads.check_json(data, "progress")
        if len(data) > PROGRESS_BYTES_MAX:
            raise TooLarge(f"progress has {len(data)} bytes; the limit is {PROGRESS_BYTES_MAX}")
        if self.reporter is None:
            raise RuntimeError("the task was not delivered by a Worker")
        self.reporter(self, data)
        return _DONE

    @property
    def origin_task_id(self) -> str | None:
        """Id of the dead letter for which the server created the task."""
        return self._message.origin_task_id if self._message.HasField("origin_task_id") else None

    @property
    def origin_command(self) -> str | None:
        """Command of the dead letter for which the server created the task."""
        return self._message.origin_command if self._message.HasField("origin_command") else None

    @property
    def attempt_history(self) -> list[Attempt]:
        """The last ten ended deliveries, oldest first; filled only by `Client.get`."""
        return [Attempt.of(each) for each in self._message.attempt_history]

    @property
    def duplicate(self) -> bool:
        """Whether the create that returned this task repeated an earlier one with the same idempotency key."""
        return self._message.duplicate

    @property
    def lost(self) -> threading.Event:
        """Set when a Worker learns that the lease is lost. Stop working on the task: the outcome will be rejected."""
        if self._lost_event is None:
            with _lost_guard:
                if self._lost_event is None:
                    self._lost_event = threading.Event()
            if self._is_lost:  # lost between the two checks
                self._lost_event.set()
        return self._lost_event

    @property
    def is_lost(self) -> bool:
        """Whether `lost` is set."""
        return self._is_lost

    @property
    def cancel_reason(self) -> CancelReason | None:
        """Why the handler should stop, or was cancelled; None: it should go on."""
        return self._cancel_reason

    def mark_late(self) -> None:
        """Records that the handler exceeded its timeout; called by the worker's transport."""
        if self._cancel_reason is None:
            self._cancel_reason = CancelReason.TIMEOUT

    def mark_lost(self, reason: CancelReason = CancelReason.LEASE_LOST) -> None:
        """Sets `lost`; called by the worker's transport."""
        if not self._is_lost:
            self._cancel_reason = reason
        self._is_lost = True
        if (event := self._lost_event) is not None:
            event.set()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the record only: a copy cannot report progress and does not notice a lost lease."""
        return _task_of, (self._message.SerializeToString(),)

    def __repr__(self) -> str:
        return f"Task(id={self.id!r}, command={self.command!r}, attempts={self.attempts})"


def _task_of(data: bytes) -> Task:
    """Rebuilds a task from its pickle."""
    return Task(task_pb2.Task.FromString(data))


def to_datetime(timestamp: timestamp_pb2.Timestamp) -> datetime:
    """Returns the UTC time of a timestamp."""
    return timestamp.ToDatetime(tzinfo=UTC)
