"""Dead letters, and the redrive of a queue's ended tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from codeq.records import Task, TaskStatus
from codeq.v1 import queue_service_pb2 as queues_pb


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """A page of a dead-letter queue.

    Attributes:
        tasks: Tasks, in the requested order.
        groups: On the first page: number of tasks by error, largest groups first.
        total: Tasks in the dead-letter queue.
        next_page_token: Token of the next page; empty: none.
    """

    tasks: list[Task]
    groups: dict[str, int]
    total: int
    next_page_token: str

    @classmethod
    def from_message(cls, message: queues_pb.ListDeadLettersResponse) -> Self:
        """Returns the page in a reply."""
        return cls(
            tasks=[Task(each) for each in message.tasks],
            groups={group.error: group.count for group in message.groups},
            total=message.total,
            next_page_token=message.next_page_token,
        )


@dataclass(frozen=True, slots=True)
class Redriven:
    """The outcome of a queue's redrive.

    Attributes:
        matched: Tasks that matched the filter.
        redriven: Tasks requeued.
        in_background: Whether the redrive continues in the background.
        next_page_token: Token for the next call; empty: no tasks are left.
    """

    matched: int
    redriven: int
    in_background: bool
    next_page_token: str

    @classmethod
    def from_message(cls, message: queues_pb.RedriveTasksResponse) -> Self:
        """Returns the outcome in a reply."""
        return cls(message.matched, message.redriven, message.in_background, message.next_page_token)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedriveFilter:
    """Selects ended tasks of a queue, which must match every field, and says how to redrive them.

    Attributes:
        status: DLQ, FAILED or CANCELLED.
        error_contains: Text in the error; empty: any.
        ended_from: Only tasks that ended at or after this time, which needs a time zone.
        ended_to: Only tasks that ended before this time, which needs a time zone.
        task_ids: Only tasks with these ids, at most 1000; empty: all tasks of the queue.
        dry_run: Whether to count the tasks without redriving them.
        limit: Maximum number of tasks per call, up to 10000; 0: 1000. Cannot be combined with `rate`.
        rate: Tasks per second, in the background; 0: at once.
    """

    status: TaskStatus = TaskStatus.DLQ
    error_contains: str = ""
    ended_from: datetime | None = None
    ended_to: datetime | None = None
    task_ids: Sequence[str] = ()
    dry_run: bool = False
    limit: int = 0
    rate: int = 0
