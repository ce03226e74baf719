"""However a task ends, its end is listed once, counted once, and reported once to waiting callers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from codeq_server.core import outcomes, purging
from codeq_server.core.status import Outcome, Status
from codeq_server.core.withdrawal import cancel
from driven_shard import TENANT, WORKER, DrivenShard


def _completed(driven: DrivenShard) -> str:
    (task_id,) = (driven.create(), *driven.claim_ids())[:1]
    assert outcomes.complete(driven.shard, WORKER, task_id, driven.token(task_id), b"1", driven.now)
    return task_id


def _settled(outcome: Outcome) -> Callable[[DrivenShard], str]:
    def end(driven: DrivenShard) -> str:
        task_id = driven.create(attempts=1)
        assert driven.claim_ids() == [task_id]
        driven.settle(task_id, outcome, error="no")
        return task_id

    return end


def _lease_expired(driven: DrivenShard) -> str:
    task_id = driven.create(attempts=1)
    assert driven.claim_ids(lease=1000) == [task_id]
    driven.pass_time(1000)
    return task_id


def _cancelled(driven: DrivenShard) -> str:
    task_id = driven.create()
    cancel(driven.shard, TENANT, task_id, "", driven.now)
    return task_id


def _cancelled_while_running(driven: DrivenShard) -> str:
    task_id = driven.create()
    assert driven.claim_ids() == [task_id]
    cancel(driven.shard, TENANT, task_id, "", driven.now)
    return task_id


def _outdated(driven: DrivenShard) -> str:
    task_id = driven.create(expire=1000)
    driven.pass_time(1000)
    return task_id


def _purged(driven: DrivenShard, task_id: str) -> str:
    driven.write_unchecked()
    purging.purge(driven.shard, driven.queue(), driven.now)
    driven.write_unchecked()
    driven.run_due()
    return task_id


def _purged_at_home(driven: DrivenShard) -> str:
    return _purged(driven, driven.create())


def _purged_elsewhere(driven: DrivenShard) -> str:
    task_id = driven.create()
    assert driven.claim_ids() == [task_id]
    driven.nack(task_id)
    return _purged(driven, task_id)


def _purged_while_scheduled(driven: DrivenShard) -> str:
    return _purged(driven, driven.create(delay=60_000))


WAYS: dict[str, tuple[Callable[[DrivenShard], str], Status]] = {
    "completed": (_completed, Status.COMPLETED),
    "settled as completed": (_settled(Outcome.COMPLETED), Status.COMPLETED),
    "failed": (_settled(Outcome.FAILED), Status.FAILED),
    "nacked for the last time": (_settled(Outcome.NACK), Status.DLQ),
    "lease expired for the last time": (_lease_expired, Status.DLQ),
    "cancelled": (_cancelled, Status.CANCELLED),
    "cancelled while running": (_cancelled_while_running, Status.CANCELLED),
    "outdated": (_outdated, Status.FAILED),
    "purged": (_purged_at_home, Status.CANCELLED),
    "purged at a later place": (_purged_elsewhere, Status.CANCELLED),
    "purged while scheduled": (_purged_while_scheduled, Status.CANCELLED),
}


@pytest.mark.parametrize(("end", "status"), WAYS.values(), ids=WAYS.keys())
def test_task_end_of_any_kind_is_listed_counted_and_reported_once(
    end: Callable[[DrivenShard], str], status: Status
) -> None:
    task_id = end(DrivenShard())  # ids are deterministic: the next call creates a task with the same id
    driven = DrivenShard()
    driven.shard.watched = {task_id}
    assert end(driven) == task_id
    view = driven.view(task_id)
    assert (view.status, view.finished_ms) == (status, driven.now.wall_ms)
    assert driven.shard.affect().ended == [task_id]
    queue, totals = driven.queue(), driven.shard.totals
    batch, done = driven.shard.batch, status is Status.COMPLETED
    assert (len(batch.completed), [dead for _, _, dead in batch.ended]) == (
        done,
        [] if done else [status is Status.DLQ],
    )
    counted = [totals.completed, totals.failed, totals.dead, totals.cancelled]
    assert counted == [int(status is each) for each in (Status.COMPLETED, Status.FAILED, Status.DLQ, Status.CANCELLED)]
    assert [queue.completed_total, queue.failed_total, queue.dlq] == counted[:3]
    driven.write()
