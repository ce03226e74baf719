"""A validated request for a new task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from codeq_internal.v1 import rows_pb2

from .errors import Rejection


@dataclass(frozen=True, slots=True)
class Naming:
    """The id of a task to create.

    Attributes:
        task_id: The id.
        digest: Digest of the request as sent, if the id derives from an idempotency key; empty: the producer chose the
            id.
        meaning: Digest of the request's meaning; empty in the same case.
    """

    task_id: str
    digest: bytes = b""
    meaning: bytes = b""

    def made(self, row: rows_pb2.NameRow) -> bool:
        """Returns whether a row records this request; rows written by earlier servers have no digest of the meaning."""
        return row.digest == self.digest or (bool(self.meaning) and row.meaning == self.meaning)


class TaskKeys(NamedTuple):
    """The keys of a task; empty: it has no such key.

    Attributes:
        concurrency: Limits how many tasks with this key are leased at a time.
        rate: Limits how fast tasks with this key are delivered.
        ordering: Tasks with this key are delivered one at a time, in the order of their acceptance.
        number: Number within the ordering key, as created; 0 without an ordering key.
    """

    concurrency: str = ""
    rate: str = ""
    ordering: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to create, fully validated.

    Attributes:
        command: Command, which names the queue.
        payload: JSON.
        priority: 0 to 9.
        max_attempts: Deliveries allowed; 0: the shard's default.
        due_ms: Unix milliseconds before which the task is not delivered; 0 or in the past: deliverable at once.
        naming: Id of the task, if the server does not assign one; the id must be free.
        expire_ms: Unix milliseconds, in the future, at which the task ends if it is still waiting; 0: never.
        kept: Fields of codeq.v1.Task, serialised, that are stored as they are; the keys and the webhook are among them.
        misfit: Why the policy of the command does not allow the task, unless an earlier request created it.
        hooked: Whether `kept` has a webhook.
        keys: Keys of the task; None: it has none.
        traceparent: Its trace context; empty: it has none, or the shard records no traces.
    """

    command: str
    payload: bytes
    priority: int = 0
    max_attempts: int = 0
    due_ms: int = 0
    naming: Naming | None = None
    expire_ms: int = 0
    kept: bytes = b""
    misfit: Rejection | None = None
    hooked: bool = False
    keys: TaskKeys | None = None
    traceparent: str = ""
