"""Public values: results of tasks, and answers about waiting and returned tasks.

TaskResult decodes its fields lazily.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self, TypeVar

from codeq import payloads
from codeq.artifacts import Artifact
from codeq.records import TaskStatus, to_datetime
from codeq.typed_values import Reader
from codeq.v1 import task_pb2, task_service_pb2

_Value = TypeVar("_Value")


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
        """Result, decoded from JSON; None if there is none (see result_bytes).

        Raises:
            ValueError: Python cannot read the JSON, such as an integer of over 4300 digits; use `result_bytes`.
        """
        return payloads.decode(self._message.result, "result") if self._message.HasField("result") else None

    @property
    def result_bytes(self) -> bytes | None:
        """Result, byte for byte as the worker sent it; None if it sent none."""
        return self._message.result if self._message.HasField("result") else None

    @property
    def error(self) -> str | None:
        """Error of a task that did not complete."""
        return self._message.error if self._message.HasField("error") else None

    @property
    def artifacts(self) -> list[Artifact]:
        """Files of the result; Client.artifact reads the files that the server stores."""
        return [Artifact.from_message(each) for each in self._message.artifacts]

    @property
    def completed_at(self) -> datetime:
        """Time at which the task ended."""
        return to_datetime(self._message.completed_at)

    def result_as(self, kind: type[_Value]) -> _Value:
        """Reads the result as a dataclass, pydantic model, msgspec struct, or container of them.

        Raises:
            InvalidField: The result does not fit; `violations` names the place.
            TypeError: Values of the type cannot be read from JSON.
        """
        return Reader(kind).read(self._message.result, "result")

    def __reduce__(self) -> tuple[Any, ...]:
        return _result_of, (self._message.SerializeToString(),)

    def __repr__(self) -> str:
        return f"TaskResult(task_id={self.task_id!r}, status={self.status.value!r}, error={self.error!r})"


@dataclass(frozen=True, slots=True)
class Returned:
    """New state of a task that a worker gave back.

    Attributes:
        status: PENDING, SCHEDULED or DLQ.
        delay_seconds: Seconds until the task can be delivered again.
    """

    status: TaskStatus
    delay_seconds: int


@dataclass(frozen=True, slots=True)
class KeyWait:
    """The key that a task waits for.

    Attributes:
        kind: CONCURRENCY, RATE or ORDERING.
        key: The key.
        limit: Tasks leased at a time, or deliveries per second; None: no limit.
        holders: Tasks with the key that are leased or about to be.
        position: Approximate position among those that wait for the key, from 1.
        parked_until: Time until which a worker has parked the key; None: it is not parked.
    """

    kind: str
    key: str
    limit: float | None
    holders: int
    position: int
    parked_until: datetime | None = None

    @classmethod
    def from_message(cls, message: task_service_pb2.KeyWait) -> Self:
        """Returns the key in a reply; a kind that only a newer server knows becomes its number."""
        named = task_service_pb2.KeyKind.DESCRIPTOR.values_by_number.get(message.kind)
        kind = named.name.removeprefix("KEY_KIND_") if named else str(message.kind)
        limit = message.limit if message.HasField("limit") else None
        parked = to_datetime(message.parked_until) if message.HasField("parked_until") else None
        return cls(kind, message.key, limit, message.holders, message.position, parked)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a task is waiting.

    Attributes:
        status: Status of the task.
        reason: The main reason: QUEUED, PAUSED, PURGING, DELAYED, LIMITED, KEY, NO_WORKER, LEASED or
            ENDED.
        paused: Whether its queue is paused.
        ahead: Approximate number of tasks ahead of it in its queue, if PENDING.
        delay_seconds: Time until it is due, if SCHEDULED, or until the rate allows a delivery, if LIMITED by the rate.
        worker_id: Worker that holds it, if CLAIMED.
        lease_until: End of the lease, if CLAIMED.
        expire_at: Time at which it expires, if it is waiting and can expire.
        limit: Limit for which it waits, if LIMITED: maxConsumers or ratePerSecond.
        limit_max: Value of maxConsumers.
        limit_used: Number of tasks that count for maxConsumers.
        key_wait: The key that it waits for, if the reason is KEY.
    """

    status: TaskStatus
    reason: str
    paused: bool
    ahead: int | None = None
    delay_seconds: float | None = None
    worker_id: str | None = None
    lease_until: datetime | None = None
    expire_at: datetime | None = None
    limit: str | None = None
    limit_max: int | None = None
    limit_used: int | None = None
    key_wait: KeyWait | None = None

    @classmethod
    def from_message(cls, message: task_service_pb2.ExplainTaskResponse) -> Self:
        """Returns the explanation in a reply; a reason that only a newer server knows becomes its number."""
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
            limit=message.limit if message.HasField("limit") else None,
            limit_max=message.limit_max if message.HasField("limit_max") else None,
            limit_used=message.limit_used if message.HasField("limit_used") else None,
            key_wait=KeyWait.from_message(message.key_wait) if message.HasField("key_wait") else None,
        )


def _result_of(data: bytes) -> TaskResult:
    """Rebuilds a result from its pickle."""
    return TaskResult(task_pb2.TaskResult.FromString(data))
