"""Encodes the tasks of a create, and merges their results. Shared by both producers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final, TypedDict

from codeq import arguments
from codeq.calls import keyed
from codeq.errors import CodeqError
from codeq.producer_attempts import Item
from codeq.producer_frames import Result
from codeq.records import NewTask, new_tasks
from codeq.tracing import traced
from codeq.v1 import producer_service_pb2

TIMEOUT_SECONDS: Final = 30.0
"""Default timeout of a create."""

CREATE_ALL_IN_FLIGHT: Final = 1024
"""Default number of creates that `create_all` has in flight."""


class CreateOptions(TypedDict, total=False):
    """Options of a create besides command, payload and priority; see AsyncProducer.create."""

    delay: float | timedelta | None
    run_at: datetime | None
    expire: float | timedelta | None
    max_attempts: int | None
    idempotency_key: str | None
    task_id: str | None
    traceparent: str | None
    tracestate: str | None
    webhook: str | None
    concurrency_key: str | None
    rate_key: str | None
    ordering_key: str | None


def to_item(task: NewTask, *, with_key: bool) -> Item:
    """Encodes a task.

    Args:
        task: The task.
        with_key: Whether a task with neither key nor id gets a key, so that its create can be retried.

    Raises:
        InvalidField, TooLarge: The task cannot be encoded.
    """
    if with_key:
        task = keyed(task)
    request = producer_service_pb2.ProduceRequest()
    traced(task).fill(request.tasks.add())
    return request.SerializeToString(), task.idempotency_key is not None


def to_batch(tasks: Iterable[NewTask], *, with_key: bool) -> tuple[list[Result | None], list[Item]]:
    """Returns the errors of tasks that cannot be encoded, each at its index, and the other tasks encoded."""
    results: list[Result | None] = []
    items: list[Item] = []
    for task in new_tasks(tasks):
        try:
            items.append(to_item(task, with_key=with_key))
            results.append(None)
        except CodeqError as error:
            results.append(error)
    return results, items


def merge(results: Sequence[Result | None], answers: Iterable[Result]) -> list[Result]:
    """Fills the gaps in the results with the answers."""
    following = iter(answers)
    return [next(following) if result is None else result for result in results]


def id_of(result: Result) -> str:
    """Returns the id of a created task, or raises why it was not created."""
    if isinstance(result, CodeqError):
        raise result
    return result


def timeout_of(given: float | None, default: float) -> float:
    """Returns the timeout of a call in seconds."""
    return default if given is None else arguments.seconds(given, "timeout_seconds")
