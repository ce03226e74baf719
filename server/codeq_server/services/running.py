"""What a worker stream says of running tasks: heartbeats, which extend leases, and progress."""

from __future__ import annotations

from collections.abc import Iterable

from codeq.v1 import worker_service_pb2 as pb

from codeq_server.core import heartbeats
from codeq_server.core.errors import Rejection
from codeq_server.core.model import Caller
from codeq_server.engine.runner import ShardRunner

from .claiming import Lease
from .convert import reason_number, timestamp
from .validation import check_json, check_message


def extend(
    runner: ShardRunner, caller: Caller, items: Iterable[pb.Heartbeat], lease: Lease, answer: pb.WorkResponse
) -> None:
    """Extends the leases of tasks, and adds to the answer which were extended and which are lost.

    Raises:
        Rejection: The runner no longer decides.
    """
    now, own_ms = runner.now(), None if lease.is_default else lease.ms
    for item in items:
        try:
            check_message(item)
            ms = item.extend_seconds * 1000 or own_ms
            token, until_ms = heartbeats.heartbeat(runner.shard, caller, item.task_id, item.lease_token, ms, now)
            answer.extended.add(task_id=item.task_id, lease_token=token, lease_until=timestamp(until_ms))
        except Rejection as rejection:
            _lose(answer, item.task_id, item.lease_token, rejection)
        except Exception as problem:
            raise runner.fail(problem) from problem


def keep_progress(runner: ShardRunner, caller: Caller, items: Iterable[pb.Progress], answer: pb.WorkResponse) -> bool:
    """Keeps the progress of tasks, and adds lost ones to the answer; returns whether there are any.

    Raises:
        Rejection: The runner no longer decides.
    """
    now, lost = runner.now(), False
    for item in items:
        try:
            check_message(item)
            progress = item.progress or b"null"
            check_json(progress, "progress")
            heartbeats.report_progress(runner.shard, caller, item.task_id, item.lease_token, progress, None, now)
        except Rejection as rejection:
            _lose(answer, item.task_id, item.lease_token, rejection)
            lost = True
        except Exception as problem:
            raise runner.fail(problem) from problem
    return lost


def _lose(answer: pb.WorkResponse, task_id: str, token: int, rejection: Rejection) -> None:
    answer.lost.add(task_id=task_id[:64], lease_token=token, reason=reason_number(rejection))
