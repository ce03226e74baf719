"""What the judge of a run reads in messages: tasks that are asked for, handed out or told of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from codeq.v1 import producer_service_pb2, queue_service_pb2, task_pb2, task_service_pb2, worker_service_pb2


@dataclass(frozen=True)
class Asked:
    """A task that a producer asked for; its payload is unique in the run.

    Attributes:
        name: What its id follows from, which no other task of the tenant has as long as this one has rows: the
            idempotency key, with the index of a task of a batch, or the id that the producer chose. None: nothing.
        expire_ms: How long it may wait; 0: for as long as it takes.
        group: Payloads of the tasks that are accepted together with it or not at all; empty: it stands alone.
    """

    tenant: str
    command: str
    priority: int
    max_attempts: int
    name: tuple[str, str, int] | None = None
    expire_ms: int = 0
    group: frozenset[bytes] = frozenset()


def deliveries(message: Any) -> list[task_pb2.Task]:
    """Returns the tasks that a message hands out."""
    if isinstance(message, worker_service_pb2.WorkResponse | task_service_pb2.ClaimTasksResponse):
        return list(message.tasks)
    return []


def specs(request: Any) -> list[task_pb2.TaskSpec]:
    """Returns the tasks that a request asks for."""
    match request:
        case producer_service_pb2.ProduceRequest() | task_service_pb2.BatchCreateTasksRequest():
            return list(request.tasks)
        case task_service_pb2.CreateTaskRequest():
            return [request.spec]
    return []


def tasks_shown(message: Any) -> list[task_pb2.Task]:
    """Returns the tasks that a message tells of."""
    match message:
        case task_service_pb2.BatchCreateTasksResponse():
            return [item.task for item in message.results if item.HasField("task")]
        case task_service_pb2.ListTasksResponse() | queue_service_pb2.ListDeadLettersResponse():
            return list(message.tasks)
        case (
            task_service_pb2.CreateTaskResponse()
            | task_service_pb2.GetTaskResponse()
            | task_service_pb2.GetTaskResultResponse()
            | task_service_pb2.CancelTaskResponse()
            | task_service_pb2.RedriveTaskResponse()
        ):
            return [message.task]
    return []
