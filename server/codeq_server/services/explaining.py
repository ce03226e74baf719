"""Explains what a task is waiting for."""

from __future__ import annotations

from typing import Final

from codeq.v1 import task_service_pb2 as pb

from codeq_server.core import keys, lookup, reads, sifting
from codeq_server.core.clock import Now
from codeq_server.core.key_waits import KeyWait, key_wait
from codeq_server.core.model import Queue
from codeq_server.core.policy import MAX_CONSUMERS, RATE_PER_SECOND
from codeq_server.core.reads import TaskView
from codeq_server.core.status import ENDED, Status
from codeq_server.engine.runner import ShardRunner

from .convert import status_number, task_message, timestamp, unix_ms

_WAITING: Final = frozenset({Status.PENDING, Status.SCHEDULED})
_KINDS: Final = {
    keys.CONCURRENCY_GATE: pb.KEY_KIND_CONCURRENCY,
    keys.RATE_GATE: pb.KEY_KIND_RATE,
    keys.ORDERING_GATE: pb.KEY_KIND_ORDERING,
}


def explanation(runner: ShardRunner, view: TaskView, now: Now) -> pb.ExplainTaskResponse:
    """Returns what a task is waiting for.

    Raises:
        CorruptRows: The task's rows contradict each other.
    """
    queue = lookup.find_home(runner.shard, view.tenant, view.task_id)[0].queue
    answer = pb.ExplainTaskResponse(task_id=view.task_id, status=status_number(view.status), paused=queue.paused)
    if view.status in ENDED:
        answer.reason = pb.WAIT_REASON_ENDED
    elif view.status is Status.CLAIMED:
        answer.reason = pb.WAIT_REASON_LEASED
        answer.worker_id = view.worker or ""
        answer.lease_until.CopyFrom(timestamp(view.lease_until_ms or now.wall_ms))
    elif view.status is Status.SCHEDULED:
        answer.reason = pb.WAIT_REASON_DELAYED
        answer.delay_seconds = max(0, (view.due_ms or 0) - now.wall_ms) / 1000
    else:
        _fill_pending(answer, runner, queue, view, now)
    task = task_message(view)
    if view.status in _WAITING and task.HasField("expire_at") and unix_ms(task.expire_at) > now.wall_ms:
        answer.expire_at.CopyFrom(task.expire_at)
    return answer


def _fill_pending(answer: pb.ExplainTaskResponse, runner: ShardRunner, queue: Queue, view: TaskView, now: Now) -> None:
    answer.ahead = reads.count_ahead(runner.shard, view.tenant, view.task_id)
    wait = key_wait(runner.shard, view.tenant, view.task_id, now)
    if queue.purge is not None:
        answer.reason = pb.WAIT_REASON_PURGING
    elif queue.paused:
        answer.reason = pb.WAIT_REASON_PAUSED
    elif wait is not None:
        answer.reason = pb.WAIT_REASON_KEY
        answer.key_wait.CopyFrom(_message(wait, now))
    elif queue.full and queue.policy is not None:
        answer.reason = pb.WAIT_REASON_LIMITED
        answer.limit, answer.limit_max, answer.limit_used = MAX_CONSUMERS, queue.policy.max_consumers, queue.claimed
    elif queue.ring is not None and (wait_ms := sifting.rate_wait_ms(queue, queue.ring, now)):
        answer.reason = pb.WAIT_REASON_LIMITED
        answer.limit, answer.delay_seconds = RATE_PER_SECOND, wait_ms / 1000
    elif queue.claimed or runner.waiting.has_waiter(queue):
        answer.reason = pb.WAIT_REASON_QUEUED
    else:
        answer.reason = pb.WAIT_REASON_NO_WORKER


def _message(wait: KeyWait, now: Now) -> pb.KeyWait:
    return pb.KeyWait(
        kind=_KINDS[wait.kind],
        key=wait.key,
        limit=wait.limit or None,
        holders=wait.holders,
        position=wait.position,
        parked_until=timestamp(now.wall_ms + wait.parked_ms) if wait.parked_ms else None,
    )
