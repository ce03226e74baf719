"""Converts between the core's values and protobuf messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from codeq.v1 import error_pb2, queue_service_pb2, task_pb2
from codeq_internal.v1 import rows_pb2
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from codeq_server.core.claims import Delivered
from codeq_server.core.clock import Now
from codeq_server.core.deliveries import Claim
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.model import id_of
from codeq_server.core.outcomes import Verdict
from codeq_server.core.reads import QueueView, TaskView
from codeq_server.core.status import Status

RATE_DIGITS: Final = 3
"""Digits of shown rates after the decimal point."""


def timestamp(unix_ms: int) -> Timestamp:
    """Returns a time as a Timestamp message."""
    seconds, millis = divmod(unix_ms, 1000)
    return Timestamp(seconds=seconds, nanos=millis * 1_000_000)


def unix_ms(time: Timestamp) -> int:
    """Returns a time in Unix milliseconds, rounded up so that nothing happens before it."""
    return time.seconds * 1000 + -(-time.nanos // 1_000_000)


def set_time(time: Timestamp, unix_ms: int) -> None:
    """Sets a Timestamp field in place, which is cheaper than copying a message into it."""
    seconds, millis = divmod(unix_ms, 1000)
    time.seconds = seconds
    time.nanos = millis * 1_000_000


def fill_new_task(task: task_pb2.Task, task_id: str, tenant: str, raw: bytes, due_ms: int | None) -> None:
    """Fills an empty message with a task just created."""
    task.ParseFromString(raw)
    task.id = task_id
    task.tenant_id = tenant
    if due_ms is None:
        task.status = task_pb2.TASK_STATUS_PENDING
    else:
        task.status = task_pb2.TASK_STATUS_SCHEDULED
        set_time(task.run_at, due_ms)
    created, updated = task.created_at, task.updated_at
    updated.seconds = created.seconds
    updated.nanos = created.nanos


def fill_claimed_task(task: task_pb2.Task, delivered: Delivered, claim: Claim, tenant: str, error: str | None) -> None:
    """Fills an empty message with a task just claimed."""
    task_id, raw, attempts = delivered
    task.ParseFromString(raw)
    task.id = id_of(task_id)
    task.tenant_id = tenant
    task.status = task_pb2.TASK_STATUS_CLAIMED
    task.attempts = attempts
    task.worker_id = claim.worker
    task.lease_token = claim.token
    set_time(task.lease_until, claim.claimed_ms + claim.lease_ms)
    set_time(task.updated_at, claim.claimed_ms)
    if error is not None:
        task.error = error


def task_message(view: TaskView) -> task_pb2.Task:
    """Returns the message of a task.

    Raises:
        Rejection: CORRUPT_DATA.
    """
    try:
        task = task_pb2.Task.FromString(view.raw)
    except DecodeError:
        raise Rejection(Reason.CORRUPT_DATA, f"the stored task {view.task_id} is unreadable") from None
    task.id = view.task_id
    task.tenant_id = view.tenant
    task.status = status_number(view.status)
    task.attempts = view.attempts
    if view.worker is not None:
        task.worker_id = view.worker
    if view.token is not None:
        task.lease_token = view.token
    if view.lease_until_ms is not None:
        task.lease_until.CopyFrom(timestamp(view.lease_until_ms))
    if view.due_ms is not None:
        task.run_at.CopyFrom(timestamp(view.due_ms))
    if view.error is not None:
        task.error = view.error
    if view.progress is not None:
        task.progress = view.progress
    if view.changed_ms is None:
        task.updated_at.CopyFrom(task.created_at)
    else:
        task.updated_at.CopyFrom(timestamp(view.changed_ms))
    if view.finished_ms is not None:
        task.finished_at.CopyFrom(timestamp(view.finished_ms))
    return task


def add_history(task: task_pb2.Task, view: TaskView) -> None:
    """Adds the ended deliveries of a task."""
    for row in view.deliveries:
        attempt = task.attempt_history.add(worker_id=row.worker, end=cast("task_pb2.AttemptEnd", row.end))
        set_time(attempt.started_at, row.started_ms)
        set_time(attempt.ended_at, row.ended_ms)
        if row.error:
            attempt.error = row.error


def result_message(view: TaskView) -> task_pb2.TaskResult:
    """Returns the record of a task's end."""
    assert view.finished_ms is not None
    record = task_pb2.TaskResult(
        task_id=view.task_id, status=status_number(view.status), completed_at=timestamp(view.finished_ms)
    )
    if view.result is not None:
        record.result = view.result
    if view.error is not None:
        record.error = view.error
    add_artifacts(record, view.artifacts)
    return record


def add_artifacts(record: task_pb2.TaskResult, artifacts: Sequence[rows_pb2.ArtifactRow]) -> None:
    """Adds artifacts to the record of a task's end."""
    for row in artifacts:
        told = record.artifacts.add(name=row.name)
        if row.content_type:
            told.content_type = row.content_type
        if row.url:
            told.url = row.url
        else:
            told.size = row.size
            told.sha256 = row.sha256.hex()


def fill_outcome(
    record: task_pb2.TaskResult,
    task_id: str,
    verdict: Verdict,
    result: bytes | None,
    error: str,
    artifacts: Sequence[rows_pb2.ArtifactRow] = (),
) -> None:
    """Fills an empty message with the record of a task's end that was just decided."""
    record.task_id = task_id
    record.status = status_number(verdict.status)
    set_time(record.completed_at, verdict.at_ms)
    if result is not None:
        record.result = result
    if error:
        record.error = error
    if artifacts:
        add_artifacts(record, artifacts)


def queue_message(view: QueueView, now: Now) -> queue_service_pb2.Queue:
    """Returns the message of a queue."""
    try:
        created = [unix_ms(task_pb2.Task.FromString(raw).created_at) for raw in view.heads]
    except DecodeError:
        raise Rejection(Reason.CORRUPT_DATA, f"a stored task of the queue {view.command} is unreadable") from None
    created_rate, completed_rate = view.rates.now(now.mono_ms)
    return queue_service_pb2.Queue(
        command=view.command,
        ready=view.ready,
        scheduled=view.scheduled,
        claimed=view.claimed,
        dlq=view.dlq,
        paused=view.paused,
        created_rate=round(created_rate, RATE_DIGITS),
        completed_rate=round(completed_rate, RATE_DIGITS),
        purging=view.purging,
        failed_total=view.failed_total,
        oldest_age_seconds=max(0, now.wall_ms - min(created)) / 1000 if created else 0,
    )


def status_number(status: Status) -> task_pb2.TaskStatus:
    """Returns a status as the proto's number, which is the same."""
    return cast("task_pb2.TaskStatus", int(status))


def reason_number(rejection: Rejection) -> error_pb2.ErrorReason:
    """Returns the reason of a rejection as the proto's number, which is the same."""
    return cast("error_pb2.ErrorReason", rejection.reason.value)


def item_error(index: int, rejection: Rejection) -> error_pb2.ItemError:
    """Returns a rejection as the error of one item."""
    return error_pb2.ItemError(index=index, reason=reason_number(rejection), message=rejection.message)
