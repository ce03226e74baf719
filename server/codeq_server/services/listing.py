"""Lists of tasks, oldest first, and of dead letters: in pages, each read in slices."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from codeq.v1 import queue_service_pb2 as queues_pb
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq_internal.v1 import rows_pb2

from codeq_server.core import keys
from codeq_server.core.errors import CorruptRows, Reason, Rejection
from codeq_server.core.listing import Walk, next_queue, view_home
from codeq_server.core.model import Queue
from codeq_server.core.reads import TaskView
from codeq_server.core.status import Status
from codeq_server.engine.runner import ShardRunner

from .convert import status_number, task_message, unix_ms
from .page_tokens import last_key, page_token

PAGE_DEFAULT: Final = 100
PAGE_ROWS_MAX = 10_000
"""Maximum rows examined for one page."""
PAGE_BYTES_MAX = 2 << 20
"""Approximate maximum bytes of a page; its first task is always included, whatever its size."""
SLICE_DEAD: Final = 128
"""Dead letters examined in one step; each has a state row to read, and perhaps to change."""
NEWEST: Final = "newest"
"""Value of `order_by` for newest first."""
GROUPS_MAX: Final = 100
"""Maximum groups of dead letters in a reply."""


class Page:
    """Collects the tasks of one page until it is full."""

    def __init__(self, tasks_max: int) -> None:
        self.tasks: list[task_pb2.Task] = []
        self._left = tasks_max
        self._bytes = 0

    def add(self, task: task_pb2.Task) -> None:
        """Adds a task."""
        self.tasks.append(task)
        self._left -= 1
        self._bytes += task.ByteSize()

    @property
    def full(self) -> bool:
        """Whether the page is full."""
        return self._left <= 0 or self._bytes >= PAGE_BYTES_MAX


async def list_tasks(
    runner: ShardRunner, tenant: str, request: pb.ListTasksRequest, seen: frozenset[str] | None = None
) -> pb.ListTasksResponse:
    """Returns a page of a tenant's tasks.

    Args:
        runner: Runner of the shard.
        tenant: The tenant.
        request: The request.
        seen: Commands that a request for all of them shows; None: all.

    Raises:
        Rejection: INVALID_PAGE_TOKEN, CORRUPT_DATA.
    """
    wanted = Filter(request, seen)
    of = ("tasks", tenant, request.command, *wanted.said)
    page, last, examined = Page(request.page_size or PAGE_DEFAULT), b"", 0
    if request.page_token:
        last = last_key(request.page_token, keys.KEY_BYTES[keys.TASKS], *of)
    number = next_queue(runner.shard, tenant, wanted.commands, keys.queue_of(last) or 1)
    while number is not None:
        start, end = keys.queue_rows(keys.TASKS, number)
        walk = Walk(max(start, last + b"\0"), end)
        while not walk.done:
            for key, _ in walk.read(runner.shard, PAGE_ROWS_MAX - examined):
                last = key
                examined += 1
                _look(runner, key, wanted, page)
                if page.full:
                    break
            if page.full or examined >= PAGE_ROWS_MAX:
                await runner.wait_durable()
                return pb.ListTasksResponse(tasks=page.tasks, next_page_token=page_token(last, *of))
            await asyncio.sleep(0)
        number = next_queue(runner.shard, tenant, wanted.commands, number + 1)
    await runner.wait_durable()
    return pb.ListTasksResponse(tasks=page.tasks)


async def list_dead_letters(
    runner: ShardRunner, queue: Queue, request: queues_pb.ListDeadLettersRequest
) -> queues_pb.ListDeadLettersResponse:
    """Returns a page of a queue's dead letters; the first page includes the groups.

    Raises:
        Rejection: INVALID_PAGE_TOKEN, CORRUPT_DATA.
    """
    newest = request.order_by == NEWEST
    of = ("dlq", queue.tenant, queue.command, *([NEWEST] if newest else ()))
    first = not request.page_token
    walk, page, last = dead_letters(queue), Page(request.page_size or PAGE_DEFAULT), b""
    walk.back = newest
    if not first:
        last = last_key(request.page_token, keys.KEY_BYTES[keys.DEAD_LETTERS], *of)
        walk.go_on(last)
    errors: Counter[str] = Counter()
    more = False
    while not walk.done and not more:
        for key, _ in walk.read(runner.shard, PAGE_ROWS_MAX - walk.examined):
            state = _dead_letter(runner, key)
            if state is None:
                continue
            errors[state.error] += 1
            if not page.full:
                view = view_of(runner, _home_key(key))
                if view is not None:
                    page.add(task_message(view))
                last = key
            elif not first:
                more = True
                break
        more = more or walk.examined >= PAGE_ROWS_MAX
        await asyncio.sleep(0)
    await runner.wait_durable()
    if page.full or more:
        last = last if page.full else walk.last
    return queues_pb.ListDeadLettersResponse(
        tasks=page.tasks,
        next_page_token=page_token(last, *of) if page.full or more else "",
        groups=[
            queues_pb.DeadLetterGroup(error=error, count=count)
            for error, count in (errors.most_common(GROUPS_MAX) if first else ())
        ],
        total=queue.dlq,
    )


def dead_letters(queue: Queue) -> Walk:
    """Returns a walk over a queue's dead letters."""
    return Walk(*keys.queue_rows(keys.DEAD_LETTERS, queue.number), SLICE_DEAD)


def _dead_letter(runner: ShardRunner, key: bytes) -> rows_pb2.StateRow | None:
    """Returns the state row of a dead-letter index row; None: the task was redriven or removed."""
    number, ended_ms, lane, position = keys.split_time_key(key)
    queue = runner.shard.queues.get(number)
    try:
        state = None if queue is None else runner.shard.state(runner.shard.lane_named(key, number, lane), position)
    except CorruptRows as problem:
        raise corrupt(problem) from None
    if state is None or state.status != Status.DLQ or state.changed_ms != ended_ms:
        return None
    return state


def _home_key(dead_key: bytes) -> bytes:
    number, _, lane, position = keys.split_time_key(dead_key)
    return keys.place_key(keys.lane_prefix(keys.TASKS, number, lane), position)


class Filter:
    """Filter of a list request.

    Args:
        request: The request.
        seen: Commands that a request for all of them shows; None: all.

    Attributes:
        commands: Commands whose queues are listed; None: all.
        said: What the request says about tasks, by which page tokens of other requests are told apart.
    """

    def __init__(self, request: pb.ListTasksRequest, seen: frozenset[str] | None) -> None:
        self.commands = frozenset({request.command}) if request.command else seen
        self._status = frozenset(request.status)
        self._from = unix_ms(request.created_from) if request.HasField("created_from") else None
        self._to = unix_ms(request.created_to) if request.HasField("created_to") else None
        self.said = (sorted(self._status), self._from, self._to)

    def status(self, status: task_pb2.TaskStatus) -> bool:
        """Returns whether tasks of a status match."""
        return not self._status or status in self._status

    def task(self, task: task_pb2.Task) -> bool:
        """Returns whether a task of a matching status matches."""
        created_ms = unix_ms(task.created_at)
        return (self._from is None or created_ms >= self._from) and (self._to is None or created_ms < self._to)


def _look(runner: ShardRunner, key: bytes, wanted: Filter, page: Page) -> None:
    view = view_of(runner, key)
    if view is not None and wanted.status(status_number(view.status)):
        task = task_message(view)
        if wanted.task(task):
            page.add(task)


def view_of(runner: ShardRunner, key: bytes) -> TaskView | None:
    """Returns the task with this home key; None: the task was removed, or the row is a pointer.

    Raises:
        Rejection: CORRUPT_DATA.
    """
    try:
        return view_home(runner.shard, key, runner.now())
    except CorruptRows as problem:
        raise corrupt(problem) from None


def corrupt(problem: CorruptRows) -> Rejection:
    """Returns the rejection of a read that found a corrupt row."""
    return Rejection(Reason.CORRUPT_DATA, f"the stored data of a task contradict each other: {problem}")
