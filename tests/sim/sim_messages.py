"""Extracts from messages the tasks that the judge of a run needs: those requested, delivered or shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from codeq.v1 import producer_service_pb2, queue_service_pb2, task_pb2, task_service_pb2, worker_service_pb2
from sim_keys import NO_KEYS, TaskKeys


@dataclass(frozen=True)
class Asked:
    """A task that a producer requested; its payload is unique in the run.

    Attributes:
        name: The source of the task's id, unique within the tenant while the task has rows: the idempotency key, with
            the index of the task in a batch, or the id that the producer chose. None: the server assigns the id.
        expire_ms: How long the task may wait; 0: without limit.
        group: Payloads of all tasks of the atomic batch; empty: the task is in no atomic batch.
        keys: Its concurrency key and ordering key.
    """

    tenant: str
    command: str
    priority: int
    max_attempts: int
    name: tuple[str, str, int] | None = None
    expire_ms: int = 0
    group: frozenset[bytes] = frozenset()
    keys: TaskKeys = NO_KEYS


def deliveries(message: Any) -> list[task_pb2.Task]:
    """Returns the tasks that a message delivers."""
    if isinstance(message, worker_service_pb2.WorkResponse | task_service_pb2.ClaimTasksResponse):
        return list(message.tasks)
    return []


def specs(request: Any) -> list[task_pb2.TaskSpec]:
    """Returns the tasks that a request creates."""
    match request:
        case producer_service_pb2.ProduceRequest() | task_service_pb2.BatchCreateTasksRequest():
            return list(request.tasks)
        case task_service_pb2.CreateTaskRequest():
            return [request.spec]
    return []


def tasks_shown(message: Any) -> list[task_pb2.Task]:
    """Returns the tasks that a message shows."""
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
