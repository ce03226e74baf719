"""The outbox of a queue in memory: where its callbacks are in their lane, and how many wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codeq_internal.v1 import rows_pb2

if TYPE_CHECKING:
    from .model import Queue, Timeline


class Outbox:
    """The callbacks of a queue's tasks, at positions in the order in which the tasks ended.

    First attempts are made in this order. A callback that needs another attempt waits in the index of retries instead,
    so the mark passes it.

    Attributes:
        queue: The queue.
        tenant: Its tenant.
        mark: Last position up to which a first attempt was made for every callback, or it was put off.
        tail: Last position assigned.
        taken: Last position up to which every callback was taken for its first attempt since the shard was opened.
        open: Positions of callbacks taken for their first attempt, which has not ended.
        pending: Number of callbacks to deliver.
        gave_up: Number of callbacks that will not be delivered unless they are replayed.
    """

    __slots__ = ("gave_up", "mark", "open", "pending", "queue", "tail", "taken", "tenant")

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.tenant = queue.tenant
        self.mark = self.tail = self.taken = self.pending = self.gave_up = 0
        self.open: set[int] = set()

    def row(self, retries: Timeline | None) -> rows_pb2.OutboxState:
        """Returns the part of the queue's row; `retries` are the callbacks that wait for another attempt."""
        return rows_pb2.OutboxState(
            mark=self.mark,
            tail=self.tail,
            pending=self.pending,
            gave_up=self.gave_up,
            retries=retries.count if retries is not None else 0,
            retry_mark=retries.mark if retries is not None else b"",
        )

    def move_mark(self) -> bool:
        """Moves the mark past callbacks whose first attempt has ended; returns whether it moved."""
        before = self.mark
        self.mark = min(self.open) - 1 if self.open else self.taken
        return self.mark != before
