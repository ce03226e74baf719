"""Every unary RPC of the API, for calls that the clients have no method for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import message_factory
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from codeq.calls import Call, new_key
from codeq.v1 import (
    audit_service_pb2,
    cluster_service_pb2,
    queue_service_pb2,
    schedule_service_pb2,
    server_service_pb2,
    subscription_service_pb2,
    task_service_pb2,
    tenant_service_pb2,
    topic_service_pb2,
    webhook_service_pb2,
)

_FILES: Final[tuple[FileDescriptor, ...]] = tuple(
    each.DESCRIPTOR
    for each in (
        audit_service_pb2,
        cluster_service_pb2,
        queue_service_pb2,
        schedule_service_pb2,
        server_service_pb2,
        subscription_service_pb2,
        task_service_pb2,
        tenant_service_pb2,
        topic_service_pb2,
        webhook_service_pb2,
    )
)


def _is_keyed(request: Any) -> bool:
    return bool(request.spec.HasField("idempotency_key"))


def _are_keyed(request: Any) -> bool:
    if request.atomic:
        return bool(request.HasField("idempotency_key"))
    return all(task.HasField("idempotency_key") for task in request.tasks)


def _is_fenced(request: Any) -> bool:
    return bool(request.HasField("lease_token"))


def _are_fenced(request: Any) -> bool:
    return all(each.HasField("lease_token") for each in request.results)


_REPEATABLE: Final = frozenset(
    {
        "ClaimTask",
        "ClaimTasks",
        "HeartbeatTask",
        "CancelTask",
        "PauseQueue",
        "ResumeQueue",
        "UpdateTenant",
        "PutTopic",
        "DeleteTopic",
        "PutSchedule",
        "PauseSchedule",
        "ResumeSchedule",
        "BackfillSchedule",
        "RecomputeSchedule",
        "HeartbeatSubscription",
        "PutWebhookSecrets",
        "DeleteWebhookSecrets",
        "PauseWebhooks",
        "ResumeWebhooks",
    }
)
"""RPCs that may run twice, in addition to those that only read."""

_READING: Final = ("Get", "List", "Explain")

_REPEATABLE_IF: Final[dict[str, Callable[[Any], bool]]] = {
    "CreateTask": _is_keyed,
    "BatchCreateTasks": _are_keyed,
    "SubmitResult": _is_fenced,
    "BatchSubmitResults": _are_fenced,
    "NackTask": _is_fenced,
    "AbandonTask": _is_fenced,
    "ReportProgress": _is_fenced,
    "RedriveTasks": lambda request: bool(request.dry_run),
}
"""RPCs that may run twice with some requests."""


@dataclass(frozen=True, slots=True)
class Rpc:
    """A unary RPC.

    Attributes:
        name: Name, such as "GetTask".
        path: Full name, such as "/codeq.v1.TaskService/GetTask".
        request: Type of the request.
        reply: Type of the reply.
    """

    name: str
    path: str
    request: type[Message]
    reply: type[Message]


@functools.cache
def by_name() -> dict[str, Rpc]:
    """Returns every unary RPC by its name."""
    return {
        method.name: Rpc(
            method.name,
            f"/{service.full_name}/{method.name}",
            message_factory.GetMessageClass(method.input_type),
            message_factory.GetMessageClass(method.output_type),
        )
        for file in _FILES
        for service in file.services_by_name.values()
        for method in service.methods
    }


def call_of(request: Message, *, with_keys: bool = False) -> Call[Message]:
    """Returns the call that a request belongs to; its value is the reply as it is.

    Args:
        request: The request, which is left as it is.
        with_keys: Whether tasks to create with neither key nor id get a key, so that the call may run twice.

    Raises:
        TypeError: The value is not the request of a unary RPC.
    """
    name = type(request).__name__.removesuffix("Request")
    rpc = by_name().get(name)
    if rpc is None or not isinstance(request, rpc.request):
        raise TypeError(
            f"request must be the request of a unary RPC, such as GetTaskRequest, not {type(request).__name__}"
        )
    if with_keys and name in ("CreateTask", "BatchCreateTasks"):
        request = _keyed(request)
    condition = _REPEATABLE_IF.get(name)
    repeatable = condition(request) if condition else name.startswith(_READING) or name in _REPEATABLE
    wait = float(getattr(request, "wait_seconds", 0))
    return Call(rpc.path, request, rpc.reply, _same, wait_seconds=wait, repeatable=repeatable)


def _keyed(request: Any) -> Any:
    """Returns a copy of a create in which each task with neither key nor id has a key; an atomic batch gets one."""
    keyed = type(request)()
    keyed.CopyFrom(request)
    tasks = keyed.tasks if isinstance(request, task_service_pb2.BatchCreateTasksRequest) else [keyed.spec]
    free = [task for task in tasks if not (task.HasField("idempotency_key") or task.HasField("task_id"))]
    if getattr(keyed, "atomic", False):
        if len(free) == len(tasks) and not keyed.HasField("idempotency_key"):
            keyed.idempotency_key = new_key()
    else:
        for task in free:
            task.idempotency_key = new_key()
    return keyed


def _same(reply: Message) -> Message:
    return reply
