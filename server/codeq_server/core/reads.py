"""Reads tasks and queues: the one rule that derives a task's status from its rows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from codeq_internal.v1 import rows_pb2

from . import keys
from .clock import Now
from .errors import CorruptRows
from .history import deliveries
from .lookup import find_home, read_home
from .model import Lane, Queue, TaskKey, id_of
from .parsing import UNREADABLE, unpacked, unreadable
from .rates import Rates
from .shard import Shard
from .status import Outcome, Status
from .task_bytes import created_ms_of
from .windows import load


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """The current state of a task. Times are in Unix milliseconds, or None if they do not apply.

    Attributes:
        key: Key.
        tenant: Tenant.
        raw: Task bytes: a serialised codeq.v1.Task with the fields that never change.
        status: Status of the task.
        attempts: Deliveries so far.
        worker: Worker that holds the lease or ended the task.
        token: Token of the live lease.
        lease_until_ms: End of the live lease.
        due_ms: Due time while SCHEDULED.
        error: Last error.
        changed_ms: Last change of state; None: none since creation.
        finished_ms: End of the task.
        result: Result of a COMPLETED task, if any.
        progress: Progress last reported, if any.
        artifacts: Artifacts of the result.
        deliveries: The last ended deliveries, oldest first.
    """

    key: TaskKey
    tenant: str
    raw: bytes
    status: Status
    attempts: int = 0
    worker: str | None = None
    token: int | None = None
    lease_until_ms: int | None = None
    due_ms: int | None = None
    error: str | None = None
    changed_ms: int | None = None
    finished_ms: int | None = None
    result: bytes | None = None
    progress: bytes | None = None
    artifacts: Sequence[rows_pb2.ArtifactRow] = ()
    deliveries: Sequence[rows_pb2.DeliveryRow] = ()

    @property
    def task_id(self) -> str:
        """Id."""
        return id_of(self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """A queue's counters, and the task bytes at the heads of its lanes, which include its oldest claimable task."""

    command: str
    ready: int
    scheduled: int
    claimed: int
    dlq: int
    paused: bool
    rates: Rates
    purging: bool
    failed_total: int
    heads: list[bytes]


def get_task(shard: Shard, tenant: str, task_id: str, now: Now) -> TaskView:
    """Returns a task.

    Raises:
        Rejection: TASK_NOT_FOUND, also for another tenant's task.
        CorruptRows: The task's rows contradict each other.
    """
    home, position, value = read_home(shard, tenant, task_id)
    return view_at(shard, home, position, value, now)


def view_at(shard: Shard, home: Lane, position: int, value: bytes, now: Now) -> TaskView:
    """Returns the task whose home row is at this position and has this value.

    Raises:
        CorruptRows: The task's rows contradict each other.
    """
    tenant = home.queue.tenant
    key = keys.place_key(home.task_prefix, position)
    try:
        task, raw = home.key_of(position, value), keys.task_bytes(value)
    except UNREADABLE:
        raise unreadable(key) from None
    state = shard.state(home, position)
    delivery = shard.deliveries.get(task)
    error = state.error if state is not None and state.HasField("error") else None
    progress = state.progress if state is not None and state.HasField("progress") else None
    if delivery is not None:
        claim = delivery.claim
        return TaskView(
            key=task,
            tenant=tenant,
            raw=raw,
            status=Status.CLAIMED,
            attempts=delivery.attempts + 1,
            worker=claim.worker,
            token=claim.token,
            lease_until_ms=now.wall_ms + claim.until_of(task) - now.mono_ms,
            error=error,
            changed_ms=claim.claimed_ms,
            progress=progress,
            deliveries=deliveries(state),
        )
    if state is None:
        if value[:1] == keys.PARKED:
            due_ms = unpacked(keys.split_parked, key, value)[0]
            return TaskView(key=task, tenant=tenant, raw=raw, status=Status.SCHEDULED, due_ms=due_ms)
        if position <= home.mark:
            raise CorruptRows(key, "a home behind the mark has neither a state row nor a lease")
        return TaskView(key=task, tenant=tenant, raw=raw, status=Status.PENDING)
    ended = state.ended_lsn > 0
    # A cancellation or an expiry is not an action of the worker that last held the task.
    by_worker = state.status != Status.CANCELLED and (state.status != Status.FAILED or state.outcome == Outcome.FAILED)
    return TaskView(
        key=task,
        tenant=tenant,
        raw=raw,
        status=Status(state.status),
        attempts=state.attempts,
        worker=state.worker if ended and by_worker else None,
        due_ms=state.place_at if state.place == rows_pb2.PLACE_KIND_DUE else None,
        error=error,
        changed_ms=state.changed_ms or None,
        finished_ms=state.changed_ms if ended else None,
        result=state.result if state.HasField("result") else None,
        progress=progress,
        artifacts=state.artifacts,
        deliveries=deliveries(state),
    )


def last_error(shard: Shard, task_id: TaskKey) -> str | None:
    """Returns the error of a claimed task's earlier deliveries."""
    delivery = shard.deliveries[task_id]
    state = shard.state(delivery.home, delivery.position)
    return state.error if state is not None and state.HasField("error") else None


def view_queue(shard: Shard, queue: Queue) -> QueueView:
    """Returns a queue's counters and its oldest claimable tasks."""
    return QueueView(
        command=queue.command,
        ready=queue.ready,
        scheduled=queue.scheduled,
        claimed=queue.claimed,
        dlq=queue.dlq,
        paused=queue.paused,
        rates=queue.rates,
        purging=queue.purge is not None,
        failed_total=queue.failed_total,
        heads=_queue_heads(shard, queue),
    )


def oldest_created_ms(shard: Shard, queue: Queue) -> int | None:
    """Returns when the oldest task at the heads of the lanes was accepted, in Unix milliseconds; None: there is none.

    Raises:
        CorruptRows: A task is unreadable.
    """
    try:
        return min([created_ms_of(raw) for raw in _queue_heads(shard, queue)], default=None)
    except UNREADABLE:
        raise CorruptRows(queue.key, "has an unreadable task at the head of a lane") from None


def _queue_heads(shard: Shard, queue: Queue) -> list[bytes]:
    return [raw for lane in queue.lanes[: keys.LANES] if lane is not None for raw in _heads(shard, lane)]


def _heads(shard: Shard, lane: Lane) -> list[bytes]:
    """Returns the task bytes at a lane's first place and of its first returned task."""
    if not lane.ready:
        return []
    homes = [(home, position) for _, home, position, _ in lane.returned[:1]]
    if lane.window or load(shard, lane, 1):
        entry = lane.window[0]
        homes.append((lane.index, entry.position) if entry.target is None else entry.target[:2])
    found = [keys.place_key(lane.queue.lane(home).task_prefix, position) for home, position in homes]
    values = ((key, shard.get(key)) for key in found)
    return [unpacked(keys.task_bytes, key, value) for key, value in values if value is not None]


def list_queues(
    shard: Shard, tenant: str, after: str, count: int, commands: Iterable[str] | None = None
) -> list[QueueView]:
    """Returns up to `count` queues of a tenant, in the order of commands.

    Args:
        shard: The shard.
        tenant: The tenant.
        after: The first queue is the next one after this command.
        count: Maximum number of queues.
        commands: Commands of the queues; None: all.
    """
    of_tenant = shard.directory.tenants.get(tenant)
    if of_tenant is None:
        return []
    if commands is None:
        names = of_tenant.commands
    else:
        names = sorted(command for command in set(commands) if (tenant, command) in shard.by_name)
    first = bisect_right(names, after)
    names = names[first : first + count]
    return [view_queue(shard, shard.by_name[tenant, command]) for command in names]


def count_ahead(shard: Shard, tenant: str, task_id: str) -> int:
    """Estimates how many tasks of the queue will be delivered before a PENDING task; empty places raise the estimate.

    Raises:
        Rejection: TASK_NOT_FOUND.
    """
    home, place = find_home(shard, tenant, task_id)
    lane, state = home, shard.state(home, place)
    if state is not None:
        lane, place = home.queue.lane(state.place_lane), state.place_at
    ahead = sum(higher.ready for higher in lane.queue.lanes[: lane.index] if higher is not None)
    if place > lane.mark:
        ahead += min(lane.ready - 1, len(lane.returned) + place - lane.mark - 1)
    return ahead
