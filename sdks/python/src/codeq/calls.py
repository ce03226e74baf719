"""Unary calls as values: request, reply type and conversion, shared by the blocking and the async clients."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from codeq import arguments, artifacts, outcomes, payloads, texts
from codeq.artifacts import ArtifactContent
from codeq.audit import AuditFilter, AuditPage, page_of
from codeq.cluster import TOPOLOGY, Topology
from codeq.dead_letters import DeadLetters, RedriveFilter, Redriven
from codeq.errors import CodeqError, FieldViolation, InvalidField
from codeq.outcomes import Completed, Failed, Nack
from codeq.received_errors import from_item
from codeq.records import (
    NEEDS_ZONE,
    NewTask,
    OrderBy,
    Task,
    TaskStatus,
    new_tasks,
    to_datetime,
)
from codeq.server_records import Backup, ConnectedWorker, Queue, ServerInfo
from codeq.task_results import Explanation, Returned, TaskResult
from codeq.tracing import traced
from codeq.v1 import audit_service_pb2 as audit_pb
from codeq.v1 import cluster_service_pb2 as cluster_pb
from codeq.v1 import queue_service_pb2 as queues_pb
from codeq.v1 import server_service_pb2 as server_pb
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as tasks_pb

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Call(Generic[_Value]):
    """One unary call.

    Attributes:
        method: Full name of the method, such as "/codeq.v1.TaskService/GetTask".
        request: The request.
        reply: Type of the reply.
        convert: Turns the reply into the caller's value.
        wait_seconds: Time that the server may wait before it answers.
        repeatable: Whether the call may run twice. If so, it is retried when its answer is lost.
    """

    method: str
    request: Message
    reply: type[Message]
    convert: Callable[[Any], _Value]
    wait_seconds: float = 0.0
    repeatable: bool = False


def create(task: NewTask, *, with_key: bool) -> Call[Task]:
    """Creates a task.

    Args:
        task: The task.
        with_key: Whether a task with neither key nor id gets an idempotency key, so that the call can be retried.
    """
    spec = task_pb2.TaskSpec()
    traced(keyed(task) if with_key else task).fill(spec)
    return create_spec(spec)


def create_spec(spec: task_pb2.TaskSpec) -> Call[Task]:
    """Creates a task that is already encoded."""
    request = tasks_pb.CreateTaskRequest(spec=spec)
    is_keyed = spec.HasField("idempotency_key")
    return Call(_task("CreateTask"), request, tasks_pb.CreateTaskResponse, _task_of, repeatable=is_keyed)


def create_batch(
    tasks: Iterable[NewTask], *, atomic: bool, idempotency_key: str | None, with_keys: bool
) -> Call[list[Task | CodeqError]]:
    """Creates up to 1000 tasks.

    A task that cannot be encoded fails the call; a task that the server rejects fails alone. With `with_keys`, each
    task with neither key nor id gets a key, as in `create`; an atomic batch gets one key for the whole batch.
    """
    tasks = new_tasks(tasks)
    if atomic and with_keys and idempotency_key is None and all(task.task_id is None for task in tasks):
        idempotency_key = new_key()
    elif with_keys and not atomic:
        tasks = [keyed(task) for task in tasks]
    request = filled(tasks_pb.BatchCreateTasksRequest, atomic=atomic, idempotency_key=idempotency_key)
    for task in tasks:
        traced(task).fill(request.tasks.add())
    repeatable = all(task.idempotency_key is not None for task in tasks) if not atomic else idempotency_key is not None

    def convert(reply: tasks_pb.BatchCreateTasksResponse) -> list[Task | CodeqError]:
        return [from_item(each.error) if each.HasField("error") else Task(each.task) for each in reply.results]

    return Call(_task("BatchCreateTasks"), request, tasks_pb.BatchCreateTasksResponse, convert, repeatable=repeatable)


def get(task_id: str) -> Call[Task]:
    """Reads a task."""
    request = filled(tasks_pb.GetTaskRequest, task_id=task_id)
    return Call(_task("GetTask"), request, tasks_pb.GetTaskResponse, _task_of, repeatable=True)


def result(task_id: str, wait: float) -> Call[TaskResult]:
    """Reads a task's result."""
    seconds = outcomes.whole_seconds(wait, "wait") or 0
    return Call(
        _task("GetTaskResult"),
        filled(tasks_pb.GetTaskResultRequest, task_id=task_id, wait_seconds=seconds),
        tasks_pb.GetTaskResultResponse,
        lambda reply: TaskResult(reply.result),
        wait_seconds=seconds,
        repeatable=True,
    )


def artifact(task_id: str, name: str) -> Call[ArtifactContent]:
    """Reads an artifact."""
    request = filled(tasks_pb.GetTaskArtifactRequest, task_id=task_id, name=name)
    convert = ArtifactContent.from_message
    return Call(_task("GetTaskArtifact"), request, tasks_pb.GetTaskArtifactResponse, convert, repeatable=True)


def tasks(
    command: str,
    statuses: Iterable[str],
    created_from: datetime | None,
    created_to: datetime | None,
    page_size: int,
    page_token: str,
    order_by: OrderBy,
) -> Call[tuple[list[Task], str]]:
    """Reads a page of tasks; the value is the page and the token of the next page."""
    return Call(
        _task("ListTasks"),
        filled(
            tasks_pb.ListTasksRequest,
            command=command,
            status=[f"TASK_STATUS_{status}" for status in arguments.several(statuses, "statuses")],
            created_from=created_from,
            created_to=created_to,
            page_size=page_size,
            page_token=page_token,
            order_by=order_by,
        ),
        tasks_pb.ListTasksResponse,
        lambda reply: ([Task(each) for each in reply.tasks], reply.next_page_token),
        repeatable=True,
    )


def claim(commands: Sequence[str], count: int, lease_seconds: int | None, wait: float) -> Call[list[Task]]:
    """Leases up to `count` tasks. A retry leases other ones; tasks in a lost answer return when their leases expire."""
    seconds = outcomes.whole_seconds(wait, "wait") or 0
    return Call(
        _task("ClaimTasks"),
        filled(
            tasks_pb.ClaimTasksRequest,
            commands=arguments.several(commands, "commands"),
            count=count,
            lease_seconds=lease_seconds,
            wait_seconds=seconds,
        ),
        tasks_pb.ClaimTasksResponse,
        lambda reply: [Task(each) for each in reply.tasks],
        wait_seconds=seconds,
        repeatable=True,
    )


def heartbeat(task: Task | str, lease_token: int | None, extend_seconds: int | None) -> Call[datetime]:
    """Extends a lease; the value is its new end."""
    return Call(
        _task("HeartbeatTask"),
        filled(tasks_pb.HeartbeatTaskRequest, **_lease(task, lease_token), extend_seconds=extend_seconds),
        tasks_pb.HeartbeatTaskResponse,
        lambda reply: to_datetime(reply.lease_until),
        repeatable=True,
    )


def submit(task: Task | str, lease_token: int | None, outcome: Completed | Failed) -> Call[TaskResult]:
    """Ends a claimed task."""
    request = filled(tasks_pb.SubmitResultRequest, **_lease(task, lease_token))
    match outcome:
        case Completed(result=value):
            request.status = task_pb2.TASK_STATUS_COMPLETED
            if value is not None:
                request.result = payloads.encode(value, "result")
        case Failed():
            request.status = task_pb2.TASK_STATUS_FAILED
            request.error = outcomes.error_of(outcome)
    artifacts.fill(request.artifacts, outcome.artifacts)
    return Call(
        _task("SubmitResult"),
        request,
        tasks_pb.SubmitResultResponse,
        lambda reply: TaskResult(reply.result),
        repeatable=_is_fenced(request),
    )


def nack(task: Task | str, lease_token: int | None, verdict: Nack) -> Call[Returned]:
    """Nacks a delivery, so that the task is retried."""
    request = filled(
        tasks_pb.NackTaskRequest,
        **_lease(task, lease_token),
        delay_seconds=outcomes.whole_seconds(verdict.delay),
        reason=texts.printable(verdict.reason),
    )
    return Call(_task("NackTask"), request, tasks_pb.NackTaskResponse, _returned, repeatable=_is_fenced(request))


def abandon(
    task: Task | str, lease_token: int | None, delay: float | timedelta | None, *, park_key: bool
) -> Call[Returned]:
    """Gives a delivery back unused."""
    fields = {"delay_seconds": outcomes.whole_seconds(delay), "park_key": park_key}
    request = filled(tasks_pb.AbandonTaskRequest, **_lease(task, lease_token), **fields)
    return Call(_task("AbandonTask"), request, tasks_pb.AbandonTaskResponse, _returned, repeatable=_is_fenced(request))


def report_progress(
    task: Task | str, lease_token: int | None, progress: object, extend_seconds: int | None
) -> Call[datetime]:
    """Stores the progress of a leased task; the value is the end of the lease."""
    request = filled(
        tasks_pb.ReportProgressRequest,
        **_lease(task, lease_token),
        progress=payloads.encode(progress, "progress"),
        extend_seconds=extend_seconds,
    )
    return Call(
        _task("ReportProgress"),
        request,
        tasks_pb.ReportProgressResponse,
        lambda reply: to_datetime(reply.lease_until),
        repeatable=_is_fenced(request),
    )


def explain(task_id: str) -> Call[Explanation]:
    """Reads what a task is waiting for."""
    request = filled(tasks_pb.ExplainTaskRequest, task_id=task_id)
    return Call(_task("ExplainTask"), request, tasks_pb.ExplainTaskResponse, Explanation.from_message, repeatable=True)


def cancel(task: Task | str, reason: object) -> Call[Task]:
    """Cancels a task that has not ended."""
    request = filled(
        tasks_pb.CancelTaskRequest,
        task_id=task.id if isinstance(task, Task) else task,
        reason=texts.printable(reason),
    )
    return Call(_task("CancelTask"), request, tasks_pb.CancelTaskResponse, _task_of, repeatable=True)


def queues(page_size: int, page_token: str, tenant: str = "") -> Call[tuple[list[Queue], str]]:
    """Reads a page of queues; the value is the page and the token of the next page."""
    return Call(
        "/codeq.v1.QueueService/ListQueues",
        filled(queues_pb.ListQueuesRequest, page_size=page_size, page_token=page_token, tenant=tenant),
        queues_pb.ListQueuesResponse,
        lambda reply: ([Queue.from_message(each) for each in reply.queues], reply.next_page_token),
        repeatable=True,
    )


def workers(page_size: int, page_token: str, tenant: str = "") -> Call[tuple[list[ConnectedWorker], str]]:
    """Reads a page of the connected workers; the value is the page and the token of the next page."""
    return Call(
        "/codeq.v1.QueueService/ListWorkers",
        filled(queues_pb.ListWorkersRequest, page_size=page_size, page_token=page_token, tenant=tenant),
        queues_pb.ListWorkersResponse,
        lambda reply: ([ConnectedWorker.from_message(each) for each in reply.workers], reply.next_page_token),
        repeatable=True,
    )


def queue(command: str, tenant: str = "") -> Call[Queue]:
    """Reads a queue."""
    return Call(
        "/codeq.v1.QueueService/GetQueue",
        filled(queues_pb.GetQueueRequest, command=command, tenant=tenant),
        queues_pb.GetQueueResponse,
        lambda reply: Queue.from_message(reply.queue),
        repeatable=True,
    )


def pause_queue(command: str, tenant: str = "") -> Call[Queue]:
    """Pauses the deliveries of a queue."""
    return Call(
        "/codeq.v1.QueueService/PauseQueue",
        filled(queues_pb.PauseQueueRequest, command=command, tenant=tenant),
        queues_pb.PauseQueueResponse,
        lambda reply: Queue.from_message(reply.queue),
        repeatable=True,
    )


def resume_queue(command: str, tenant: str = "") -> Call[Queue]:
    """Resumes the deliveries of a queue."""
    return Call(
        "/codeq.v1.QueueService/ResumeQueue",
        filled(queues_pb.ResumeQueueRequest, command=command, tenant=tenant),
        queues_pb.ResumeQueueResponse,
        lambda reply: Queue.from_message(reply.queue),
        repeatable=True,
    )


def purge_queue(command: str, tenant: str = "") -> Call[Queue]:
    """Ends all tasks waiting in a queue."""
    return Call(
        "/codeq.v1.QueueService/PurgeQueue",
        filled(queues_pb.PurgeQueueRequest, command=command, tenant=tenant),
        queues_pb.PurgeQueueResponse,
        lambda reply: Queue.from_message(reply.queue),
    )


def redrive(task_id: str, tenant: str = "") -> Call[Task]:
    """Requeues an ended task."""
    request = filled(tasks_pb.RedriveTaskRequest, task_id=task_id, tenant=tenant)
    return Call(_task("RedriveTask"), request, tasks_pb.RedriveTaskResponse, _task_of)


def redrive_queue(command: str, wanted: RedriveFilter | None, page_token: str, tenant: str = "") -> Call[Redriven]:
    """Requeues ended tasks of a queue."""
    wanted = wanted or RedriveFilter()
    return Call(
        "/codeq.v1.QueueService/RedriveTasks",
        filled(
            queues_pb.RedriveTasksRequest,
            command=command,
            status=f"TASK_STATUS_{wanted.status}",
            error_contains=wanted.error_contains,
            ended_from=wanted.ended_from,
            ended_to=wanted.ended_to,
            task_ids=list(wanted.task_ids),
            dry_run=wanted.dry_run,
            limit=wanted.limit,
            rate=wanted.rate,
            page_token=page_token,
            tenant=tenant,
        ),
        queues_pb.RedriveTasksResponse,
        Redriven.from_message,
        repeatable=wanted.dry_run,
    )


def dead_letters(
    command: str, page_size: int, page_token: str, order_by: OrderBy, tenant: str = ""
) -> Call[DeadLetters]:
    """Reads a page of dead letters."""
    return Call(
        "/codeq.v1.QueueService/ListDeadLetters",
        filled(
            queues_pb.ListDeadLettersRequest,
            command=command,
            page_size=page_size,
            page_token=page_token,
            order_by=order_by,
            tenant=tenant,
        ),
        queues_pb.ListDeadLettersResponse,
        DeadLetters.from_message,
        repeatable=True,
    )


def cleanup(before: datetime, limit: int, page_token: str, tenant: str = "") -> Call[tuple[int, str]]:
    """Deletes ended tasks; the value is their number and the token of the next call."""
    return Call(
        _task("CleanupTasks"),
        filled(tasks_pb.CleanupTasksRequest, before=before, limit=limit, page_token=page_token, tenant=tenant),
        tasks_pb.CleanupTasksResponse,
        lambda reply: (reply.deleted, reply.next_page_token),
    )


def audit(wanted: AuditFilter | None, page_token: str, tenant: str) -> Call[AuditPage]:
    """Reads a page of audit records, and the token of the next page."""
    fields = (wanted or AuditFilter()).fields()
    request = filled(audit_pb.ListAuditRecordsRequest, page_token=page_token, tenant=tenant, **fields)
    name = "/codeq.v1.AuditService/ListAuditRecords"
    return Call(name, request, audit_pb.ListAuditRecordsResponse, page_of, repeatable=True)


def back_up(name: str) -> Call[Backup]:
    """Makes a backup on the server."""
    return Call(
        "/codeq.v1.ServerService/BackUp",
        filled(server_pb.BackUpRequest, name=name),
        server_pb.BackUpResponse,
        lambda reply: Backup.from_message(reply.backup),
    )


def server_info() -> Call[ServerInfo]:
    """Reads the server's version, mode and limits."""
    return Call(
        "/codeq.v1.ServerService/GetServerInfo",
        server_pb.GetServerInfoRequest(),
        server_pb.GetServerInfoResponse,
        lambda reply: ServerInfo.from_message(reply.server),
        repeatable=True,
    )


def topology() -> Call[Topology]:
    """Reads the members of the cluster."""
    return Call(
        TOPOLOGY,
        cluster_pb.GetTopologyRequest(),
        cluster_pb.GetTopologyResponse,
        lambda reply: Topology.from_message(reply.topology),
        repeatable=True,
    )


def new_key() -> str:
    """Returns a new, unique idempotency key."""
    return uuid.uuid4().hex


def keyed(task: NewTask) -> NewTask:
    """Returns the task, with a new key if it has neither key nor id."""
    if task.idempotency_key is not None or task.task_id is not None:
        return task
    return replace(task, idempotency_key=new_key())


_Request = TypeVar("_Request", bound=Message)


def filled(kind: type[_Request], **fields: object) -> _Request:
    """Returns a request with these fields; None leaves one absent. A value of the wrong type raises InvalidField."""
    request = kind()
    for field, value in fields.items():
        if value is None:
            continue
        try:
            if isinstance(value, datetime) and value.utcoffset() is None:
                raise ValueError(NEEDS_ZONE)  # noqa: TRY301 - reported as an error of the field, below
            request.MergeFrom(kind(**{field: value}))
        except (TypeError, ValueError, OverflowError) as error:
            is_text = isinstance(getattr(request, field, None), str)
            problem = f"must be text, not {type(value).__name__}" if is_text and type(value) is not str else str(error)
            raise InvalidField(f"{field}: {problem}", violations=[FieldViolation(field, problem)]) from None
    return request


def _lease(task: Task | str, lease_token: int | None) -> dict[str, object]:
    if isinstance(task, Task):
        return {"task_id": task.id, "lease_token": task.lease_token if lease_token is None else lease_token}
    return {"task_id": task, "lease_token": lease_token}


def _is_fenced(request: Message) -> bool:
    """Returns whether a request names its lease, which makes it idempotent."""
    return request.HasField("lease_token")


def _task_of(reply: Any) -> Task:
    return Task(reply.task)


def _returned(reply: tasks_pb.NackTaskResponse | tasks_pb.AbandonTaskResponse) -> Returned:
    return Returned(TaskStatus.from_number(reply.status), reply.delay_seconds)


def _task(name: str) -> str:
    return f"/codeq.v1.TaskService/{name}"
