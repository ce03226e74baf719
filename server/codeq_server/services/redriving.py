"""Redrives many tasks: within the call, in bounded steps, or in the background at a limited rate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from codeq.v1 import queue_service_pb2 as pb
from codeq_internal.v1 import rows_pb2

from codeq_server.core import keys
from codeq_server.core.errors import CorruptRows, Reason, Rejection
from codeq_server.core.listing import Walk
from codeq_server.core.lookup import find_home
from codeq_server.core.model import Lane, Queue
from codeq_server.core.redrive import redrive
from codeq_server.core.status import Status
from codeq_server.engine.runner import ShardRunner

from .auditing import Act
from .convert import unix_ms
from .listing import PAGE_ROWS_MAX, SLICE_DEAD, corrupt, dead_letters
from .page_tokens import last_key, page_token

LIMIT_DEFAULT: Final = 1000
"""Maximum tasks of a call without a limit."""
BACKGROUND_MAX: Final = 100
"""Maximum number of concurrent background redrives; each queue has at most one."""
STEPS_PER_SECOND: Final = 10
"""Steps per second of a background redrive; the rate is kept per step."""


class Redriver:
    """Redrives tasks of queues.

    Background redrives are kept only in memory: a server shutdown ends them, but tasks already redriven stay redriven.
    """

    def __init__(self, runner: ShardRunner) -> None:
        self._runner = runner
        self._background: dict[Queue, asyncio.Task[None]] = {}

    async def redrive(self, queue: Queue, request: pb.RedriveTasksRequest, act: Act | None) -> pb.RedriveTasksResponse:
        """Redrives the matching tasks of a queue, or starts to do so in the background.

        Args:
            queue: The queue.
            request: The request.
            act: The act to record; None for a dry run.

        Raises:
            Rejection: INVALID_PAGE_TOKEN, LIMIT_REACHED.
        """
        status = Status(request.status or Status.DLQ)
        of = ("redrive", queue.tenant, queue.command, status, *_said(request))
        step = _Step(self._runner, queue, request, status, act)
        if request.page_token:
            last = last_key(request.page_token, step.key_bytes, *of)
            step.walk.go_on(last)
        if request.rate:
            self._begin(queue, step, request.rate)
            await self._runner.wait_durable()
            return pb.RedriveTasksResponse(in_background=True)
        try:
            if step.task_ids:
                for first in range(0, len(step.task_ids), SLICE_DEAD):
                    await step.named(step.task_ids[first : first + SLICE_DEAD])
            else:
                limit = PAGE_ROWS_MAX if request.dry_run else request.limit or LIMIT_DEFAULT
                await step.work(limit, PAGE_ROWS_MAX)
            if not step.matched:
                step.record()
            await self._runner.wait_durable()
        except Rejection as refusal:
            raise self._runner.refused(refusal, decided=step.matched > 0 and not request.dry_run) from None
        return pb.RedriveTasksResponse(
            matched=step.matched,
            redriven=0 if request.dry_run else step.matched,
            next_page_token="" if step.walk.done or request.task_ids else page_token(step.last, *of),
        )

    def _begin(self, queue: Queue, step: _Step, rate: int) -> None:
        earlier = self._background.pop(queue, None)
        if earlier is not None:
            earlier.cancel()
        if len(self._background) >= BACKGROUND_MAX:
            raise Rejection(Reason.LIMIT_REACHED, f"{BACKGROUND_MAX} queues are redriven in the background, the limit")
        step.record()
        task = asyncio.create_task(self._run(step, rate), name="redrive")
        self._background[queue] = task

        def forget(done: asyncio.Task[None]) -> None:
            if self._background.get(queue) is done:
                del self._background[queue]

        task.add_done_callback(forget)

    async def _run(self, step: _Step, rate: int) -> None:
        count = max(1, rate // STEPS_PER_SECOND)
        loop = asyncio.get_running_loop()
        at = loop.time()
        try:
            if step.task_ids:
                count = min(count, SLICE_DEAD)
                for first in range(0, len(step.task_ids), count):
                    await step.named(step.task_ids[first : first + count])
                    at = max(at + count / rate, loop.time())
                    await asyncio.sleep(at - loop.time())
                return
            while not step.walk.done:
                before = step.matched
                await step.work(before + count, step.walk.examined + PAGE_ROWS_MAX)
                at = max(at + (step.matched - before) / rate, loop.time())
                await asyncio.sleep(at - loop.time())
        except Rejection:
            return  # shutdown or corrupt rows; tasks already redriven stay redriven


class _Step:
    """Position of a redrive in its queue, and its filter."""

    def __init__(
        self, runner: ShardRunner, queue: Queue, request: pb.RedriveTasksRequest, status: Status, act: Act | None
    ) -> None:
        self._runner = runner
        self._queue = queue
        self._act = act
        self._background = bool(request.rate)
        self._wants = _filter(request, status, runner.now().wall_ms)
        self.task_ids = list(dict.fromkeys(request.task_ids))
        self.matched = 0
        self.last = b""
        """Last key examined."""
        if status is Status.DLQ:
            self.walk, self._home = dead_letters(queue), _home_of_dead
            self.key_bytes = keys.KEY_BYTES[keys.DEAD_LETTERS]
        else:
            walk = Walk(*keys.queue_rows(keys.STATES, queue.number), SLICE_DEAD)
            self.walk, self._home, self.key_bytes = walk, _home_of_state, keys.KEY_BYTES[keys.STATES]

    async def work(self, matched_max: int, examined_max: int) -> None:
        """Continues until the number of matched or examined rows reaches its limit, or to the end of the queue."""
        walk = self.walk
        while not walk.done and self.matched < matched_max and walk.examined < examined_max:
            await self._runner.room(self._queue.tenant, SLICE_DEAD)
            before = self.matched
            try:
                for key, _ in walk.read(self._runner.shard, examined_max - walk.examined):
                    self.last = key
                    self._try(*self._home_of(key))
                    if self.matched >= matched_max:
                        walk.start, walk.done = key + b"\0", False
                        break
            finally:
                self._end_slice(before)
            await asyncio.sleep(0)

    async def named(self, task_ids: Sequence[str]) -> None:
        """Redrives a slice of tasks by id; skips tasks that do not exist or belong to another queue."""
        await self._runner.room(self._queue.tenant, len(task_ids))
        before = self.matched
        try:
            for task_id in task_ids:
                self._try_named(task_id)
        finally:
            self._end_slice(before)
        await asyncio.sleep(0)

    def record(self) -> None:
        """Records the act with the tasks redriven so far."""
        if self._act is not None:
            background = {"inBackground": True} if self._background else {}
            self._act.record(self._runner, after={"redriven": self.matched, **background})

    def _end_slice(self, before: int) -> None:
        """Has the changes of a slice committed, and with them the record of the act if the slice redrove any task.

        So even if a corrupt row ends the slice: the tasks before it are redriven.
        """
        if self.matched > before:
            self.record()
        self._runner.changed()

    def _try_named(self, task_id: str) -> None:
        try:
            home, position = find_home(self._runner.shard, self._queue.tenant, task_id)
        except Rejection:
            return
        except CorruptRows as problem:
            raise corrupt(problem) from None
        if home.queue is self._queue:
            self._try(home, position)

    def _home_of(self, key: bytes) -> tuple[Lane, int]:
        lane, position = self._home(key)
        try:
            return self._runner.shard.lane_named(key, self._queue.number, lane), position
        except CorruptRows as problem:
            raise corrupt(problem) from None

    def _try(self, home: Lane, position: int) -> None:
        runner = self._runner
        now = runner.now()
        try:
            state = runner.shard.state(home, position)
        except CorruptRows as problem:
            raise corrupt(problem) from None
        if state is None or not self._wants(state):
            return
        self.matched += 1
        if self._act is not None:
            try:
                redrive(runner.shard, home, position, state, now)
            except Exception as defect:  # another name than above: compiled, a name has one type
                raise runner.fail(defect) from defect


def _home_of_dead(key: bytes) -> tuple[int, int]:
    return keys.split_time_key(key)[2:]


def _home_of_state(key: bytes) -> tuple[int, int]:
    return keys.split_place_key(key)[1:]


def _said(request: pb.RedriveTasksRequest) -> tuple[object, ...]:
    """Returns the filters of a request; its page tokens are bound to them."""
    times = (request.ended_from.SerializeToString(), request.ended_to.SerializeToString())
    return (request.error_contains, *times)


def _filter(request: pb.RedriveTasksRequest, status: Status, started_ms: int) -> Callable[[rows_pb2.StateRow], bool]:
    """Returns the request's filter. It never matches tasks that ended after its start: they may have been redriven."""
    text = request.error_contains
    since = unix_ms(request.ended_from) if request.HasField("ended_from") else 0
    until = unix_ms(request.ended_to) if request.HasField("ended_to") else started_ms + 1
    until = min(until, started_ms + 1)

    def wants(state: rows_pb2.StateRow) -> bool:
        return (
            state.status == status and state.ended_lsn > 0 and since <= state.changed_ms < until and text in state.error
        )

    return wants
