"""Checker rules about callbacks: each has a task that lists it, and the index of retries lists those that wait."""

from __future__ import annotations

from collections.abc import Iterator

from codeq.v1.task_pb2 import Task
from codeq_internal.v1 import rows_pb2

from codeq_server.core import keys, tenant_keys
from codeq_server.core.callbacks import ATTEMPTS_KEPT, CALLBACKS_KEPT

from .checker_ended import ENDED

_PENDING = {rows_pb2.CALLBACK_STATE_UNSPECIFIED, rows_pb2.CALLBACK_STATE_WAITING}


class OutboxRows:
    """Rows "o" that state rows, and retries that rows "y", have yet to confirm."""

    def __init__(self) -> None:
        self._homes: dict[tuple[int, int], tuple[int, int]] = {}
        """By queue and position of a callback: its task's home, and the batch of the end; 0: the task was redriven."""
        self._waiting: dict[tuple[int, int], int] = {}
        """By queue and position of a callback that waits: its due time."""
        self._new: dict[int, int] = {}
        """First position without an attempt, by queue."""
        self._last: dict[int, int] = {}
        self._counts: dict[int, list[int]] = {}
        """Callbacks that are pending, wait, or were given up, by queue."""
        self._retry_marks: dict[int, bytes] = {}
        self._hooked: set[int] = set()
        """Queues with webhooks."""
        self._silent: set[int] = set()
        """Homes of ended tasks in such queues that list no callback."""

    def row(self, key: bytes, value: bytes) -> Iterator[str]:
        """Processes a callback; yields the problems that it shows by itself."""
        queue, position = keys.split_outbox_key(key)
        row = rows_pb2.OutboxRow.FromString(value)
        self._homes[queue, position] = (queue << 56 | row.home, row.ended_lsn)
        self._last[queue] = position
        waits = row.state == rows_pb2.CALLBACK_STATE_WAITING
        if waits:
            self._waiting[queue, position] = row.due_ms
        elif row.due_ms:
            yield f"does not wait, yet is due at {row.due_ms}"
        if row.state == rows_pb2.CALLBACK_STATE_UNSPECIFIED:
            self._new.setdefault(queue, position)
            if row.attempts_total:
                yield "is new, yet was attempted"
        counts = self._counts.setdefault(queue, [0, 0, 0])
        counts[0] += row.state in _PENDING
        counts[1] += waits
        counts[2] += row.state == rows_pb2.CALLBACK_STATE_GAVE_UP
        if row.status not in ENDED:
            yield f"reports the status {row.status}"
        if len(row.attempts) != min(row.attempts_total, ATTEMPTS_KEPT) or row.tries > row.attempts_total:
            yield f"keeps {len(row.attempts)} of {row.attempts_total} attempts, of which {row.tries} count"

    def queue(self, number: int, row: rows_pb2.QueueRow) -> Iterator[str]:
        """Processes a queue; yields contradictions with its callbacks."""
        outbox = row.outbox
        if row.hooked:
            self._hooked.add(number)
        self._retry_marks[number] = outbox.retry_mark
        if outbox.mark > outbox.tail or self._last.get(number, 0) > outbox.tail:
            yield f"the outbox ends at {outbox.tail}, before its mark or its last callback"
        if self._new.get(number, outbox.tail + 1) <= outbox.mark:
            yield f"callback {self._new[number]} was not attempted, yet is not above the mark, {outbox.mark}"
        stored = [outbox.pending, outbox.retries, outbox.gave_up]
        found = self._counts.get(number, [0, 0, 0])
        for name, said, count in zip(("pending", "waiting", "given up"), stored, found, strict=True):
            if said != count:
                yield f"{said} callbacks are {name}, but {count} were found"

    def state(self, home: int, state: rows_pb2.StateRow) -> Iterator[str]:
        """Processes a state row; yields contradictions with the callbacks that it lists."""
        queue = home >> 56
        if len(state.callbacks) > CALLBACKS_KEPT:
            yield f"lists {len(state.callbacks)} callbacks"
        ends = [self._homes.pop((queue, position), None) for position in state.callbacks]
        if list(state.callbacks) != sorted(set(state.callbacks)):
            yield "lists callbacks out of order"
        for end in ends:
            if end is None or end[0] != home:
                yield "lists a callback that does not exist, or belongs to another task"
        lsns = [end[1] for end in ends if end is not None]
        if any(lsns[:-1]) or (lsns and lsns[-1] != state.ended_lsn):
            yield f"ended in batch {state.ended_lsn}, but its callbacks report ends in {lsns}"
        if state.ended_lsn and not ends and queue in self._hooked:
            self._silent.add(home)

    def home(self, home: int, task: Task) -> Iterator[str]:
        """Processes the home of a task; yields its contradictions with its callbacks."""
        silent = home in self._silent
        self._silent.discard(home)
        if silent and task.HasField("webhook"):
            yield "has ended, but its webhook has no callback"

    def retry(self, key: bytes, value: bytes) -> Iterator[str]:
        """Processes a row of the index of retries; yields its contradictions with the callback."""
        queue, due_ms, lane, position = keys.split_time_key(key)
        if self._waiting.pop((queue, position), None) != due_ms or lane != keys.OUTBOX_LANE or value:
            yield "leads to no callback that waits for this time, or has a value"
        if key[5:] <= self._retry_marks.get(queue, b""):
            yield "lies before the mark of the index"

    def finish(self) -> Iterator[tuple[bytes, str]]:
        """Yields key and problem of callbacks that nothing confirmed."""
        for queue, position in self._homes:
            yield keys.outbox_key(queue, position), "is listed by no task"
        for (queue, position), due_ms in self._waiting.items():
            yield keys.outbox_key(queue, position), f"waits for {due_ms}, but is not in the index of retries"
        for home in self._silent:
            yield keys.packed_key(keys.STATES, home), "has no home"


def endpoint_problems(key: bytes, value: bytes) -> Iterator[str]:
    """Yields the problems of a tenant's settings for an endpoint."""
    tenant, _ = tenant_keys.split_endpoint_key(key)
    row = rows_pb2.EndpointRow.FromString(value)
    if not tenant or not (row.secrets or row.paused or row.failing_since_ms):
        yield "names no tenant, or sets nothing"
