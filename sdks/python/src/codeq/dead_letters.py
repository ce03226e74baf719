"""Dead letters, and which ended tasks of a queue get another life."""

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
        tasks: Tasks, those first that came first.
        groups: On the first page: how many tasks have each error, the largest groups first.
        total: Tasks in the dead-letter queue.
        next_page_token: Token of the next page; empty: there is none.
    """

    tasks: list[Task]
    groups: dict[str, int]
    total: int
    next_page_token: str

    @classmethod
    def from_message(cls, message: queues_pb.ListDeadLettersResponse) -> Self:
        """The page of a reply."""
        return cls(
            tasks=[Task(each) for each in message.tasks],
            groups={group.error: group.count for group in message.groups},
            total=message.total,
            next_page_token=message.next_page_token,
        )


@dataclass(frozen=True, slots=True)
class Redriven:
    """What a redrive of a queue did.

    Attributes:
        matched: Tasks that passed the filters.
        redriven: Tasks that have another life now.
        in_background: Whether the work goes on in the background.
        next_page_token: Token to go on with; empty: nothing is left.
    """

    matched: int
    redriven: int
    in_background: bool
    next_page_token: str

    @classmethod
    def from_message(cls, message: queues_pb.RedriveTasksResponse) -> Self:
        """The reply as a value."""
        return cls(message.matched, message.redriven, message.in_background, message.next_page_token)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedriveFilter:
    """Which ended tasks of a queue are meant, and how they are worked; a task must fit everything that is said.

    Attributes:
        status: DLQ, FAILED or CANCELLED.
        error_contains: Text in the error; empty: any.
        ended_from: Ended then or later.
        ended_to: Ended before.
        task_ids: Only these, at most 1000; empty: all of the queue.
        dry_run: Count only.
        limit: Tasks of a call at most, up to 10000; 0: 1000. Not with rate.
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
