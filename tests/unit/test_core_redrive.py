"""Redrive of ended tasks, and their removal before their retention ends."""

from __future__ import annotations

import pytest
from codeq_server.core import keys, names
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.heartbeats import report_progress
from codeq_server.core.lookup import find_home
from codeq_server.core.new_task import Naming, NewTask
from codeq_server.core.redrive import cleanup, redrive_task
from codeq_server.core.status import Outcome
from codeq_server.core.withdrawal import cancel
from driven_shard import TENANT, WORKER, DrivenShard


def redrive(driven: DrivenShard, task_id: str) -> None:
    redrive_task(driven.shard, TENANT, task_id, driven.now)


def buried(driven: DrivenShard, **more: int) -> str:
    """Returns a task in the dead-letter queue."""
    task_id = driven.create(attempts=1, **more)
    driven.pass_time(more.get("delay", 0))
    driven.claim()
    driven.nack(task_id)
    driven.write()
    return task_id


@pytest.mark.parametrize("delay", [0, 1000])
def test_redriven_dead_letter_starts_over_at_the_tail(delay: int) -> None:
    driven = DrivenShard()
    task_id = buried(driven, delay=delay)
    other = driven.create()
    redrive(driven, task_id)
    driven.write()
    assert driven.keys(b"z") == []
    queue = driven.queue()
    assert (queue.ready, queue.dlq) == (2, 0)
    assert (driven.view(task_id).attempts, driven.status(task_id)) == (0, "PENDING")
    driven.reopen()
    assert driven.claim_ids(2) == [other, task_id]


def test_redrive_leaves_nothing_of_the_previous_run() -> None:
    driven = DrivenShard()
    task_id = driven.create()
    driven.claim()
    report_progress(driven.shard, WORKER, task_id, None, b"50", None, driven.now)
    driven.settle(task_id, Outcome.ABANDON)
    driven.claim()
    driven.settle(task_id, Outcome.FAILED, error="broken")
    driven.write()
    redrive(driven, task_id)
    driven.write()
    view = driven.view(task_id)
    assert (view.error, view.result, view.progress, view.finished_ms, view.worker) == (None,) * 5
    home, position = find_home(driven.shard, TENANT, task_id)
    state = driven.shard.state(home, position)
    assert state is not None
    assert (state.abandons, state.worker, driven.queue().failed_total) == (0, "", 0)
    [delivered] = driven.claim()
    assert (delivered.task_id, delivered.attempts) == (task_id, 1)


@pytest.mark.parametrize("delay", [0, 1000])
@pytest.mark.parametrize("reopened", [False, True])
def test_redriven_task_that_was_cancelled_while_waiting_is_delivered_once(delay: int, reopened: bool) -> None:
    driven = DrivenShard()
    first, cancelled, last = driven.create(), driven.create(delay=delay), driven.create()
    driven.write()
    cancel(driven.shard, TENANT, cancelled, "", driven.now)
    driven.write()
    redrive(driven, cancelled)
    driven.write()
    if reopened:
        driven.reopen()
    assert driven.claim_ids(5) == [first, last, cancelled]
    driven.write()
    driven.pass_time(2000)
    assert driven.claim_ids(5) == []
    driven.settle(cancelled)
    driven.write()


def test_old_worker_of_a_cancelled_and_redriven_task_is_rejected() -> None:
    driven = DrivenShard()
    task_id = driven.create()
    driven.claim()
    token = driven.token(task_id)
    cancel(driven.shard, TENANT, task_id, "", driven.now)
    redrive(driven, task_id)
    driven.write()
    driven.reopen()
    with pytest.raises(Rejection) as refused:
        driven.settle(task_id, token=token)
    assert refused.value.reason is Reason.TASK_NOT_CLAIMED
    assert driven.claim_ids() == [task_id]


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.NACK])
def test_old_lease_tokens_stay_rejected_after_a_redrive(outcome: Outcome) -> None:
    driven = DrivenShard()
    task_id = driven.create(attempts=1)
    driven.claim()
    token = driven.token(task_id)
    driven.settle(task_id, outcome, error="no", delay=0)
    driven.write()
    redrive(driven, task_id)
    driven.write()
    for claimed in (False, True):
        with pytest.raises(Rejection) as refused:
            driven.settle(task_id, outcome, token=token, error="no", delay=0)
        assert refused.value.reason is (Reason.STALE_LEASE_TOKEN if claimed else Reason.TASK_NOT_CLAIMED)
        driven.claim()
    driven.settle(task_id)
    driven.write()
    assert driven.status(task_id) == "COMPLETED"


def test_redrive_of_an_unfinished_or_completed_task_is_rejected() -> None:
    driven = DrivenShard()
    task_id = driven.create()
    for step in (driven.claim, lambda: driven.settle(task_id), lambda: None):
        with pytest.raises(Rejection) as refused:
            redrive(driven, task_id)
        assert refused.value.reason is Reason.TASK_NOT_REDRIVABLE
        step()


def test_redriven_task_outlives_the_retention_of_its_earlier_end() -> None:
    driven = DrivenShard(retention_ms=1000, dlq_retention_ms=5000)
    first, second = buried(driven), buried(driven)
    redrive(driven, first)
    redrive(driven, second)
    driven.write()
    driven.claim(1)
    driven.settle(first)
    driven.write()
    driven.pass_time(1000)
    driven.write()
    with pytest.raises(Rejection):
        driven.view(first)
    driven.pass_time(10_000)
    driven.write()
    assert driven.status(second) == "PENDING"
    assert driven.keys(b"r") == []


def test_redrive_in_the_same_batch_as_the_end_lists_the_task_once() -> None:
    driven = DrivenShard(retention_ms=1000, dlq_retention_ms=1000)
    task_id = driven.create(attempts=1)
    driven.claim()
    driven.nack(task_id)
    redrive(driven, task_id)
    driven.claim()
    driven.settle(task_id, Outcome.FAILED, error="no")
    driven.write()
    assert len(driven.keys(b"r")) == 1
    driven.pass_time(2000)
    driven.write()
    assert driven.keys(b"tsrz") == []


def test_cleanup_removes_tasks_that_ended_earlier_and_keeps_the_rest_listed() -> None:
    driven = DrivenShard()
    ids = [driven.create() for _ in range(5)]
    driven.claim(5)
    for task_id in ids[:4]:
        driven.settle(task_id)
    driven.write()
    [key] = driven.keys(b"r")
    now = driven.now.wall_ms
    assert cleanup(driven.shard, key, TENANT, now, 0, 10) == (0, 4, None)
    assert cleanup(driven.shard, key, "globex", now + 1, 0, 10) == (0, 4, None)
    assert cleanup(driven.shard, key, TENANT, now + 1, 0, 3) == (3, 3, 0)
    driven.write()
    assert len(driven.keys(b"t")) == 2
    assert cleanup(driven.shard, key, TENANT, now + 1, 0, 3) == (1, 1, None)
    driven.write()
    assert driven.keys(b"rs") == []
    assert [key[:1] for key in driven.keys(b"t")] == [b"t"]


def test_cleanup_of_dead_letters_decrements_their_count() -> None:
    driven = DrivenShard()
    buried(driven)
    [key] = driven.keys(b"r")
    assert keys.split_ended_key(key)[2] & 1
    assert cleanup(driven.shard, key, TENANT, driven.now.wall_ms + 1, 0, 3) == (1, 1, None)
    driven.write()
    assert driven.queue().dlq == 0
    assert driven.keys(b"trsz") == []


def test_cleanup_of_named_tasks_removes_their_name_rows() -> None:
    driven = DrivenShard()
    for number in range(3):
        naming = Naming(f"n{number}")
        names.create(driven.shard, TENANT, NewTask("a", b"1", 0, 0, 0, naming), driven.now)
        driven.claim()
        driven.settle(naming.task_id)
    driven.write()
    [key] = driven.keys(b"r")
    assert cleanup(driven.shard, key, TENANT, driven.now.wall_ms + 1, 1, 1) == (1, 1, 1)
    driven.write()
    assert driven.queue().named == 2
    assert [key[-2:] for key in driven.keys(b"i")] == [b"n0", b"n2"]
    names.create(driven.shard, TENANT, NewTask("a", b"1", 0, 0, 0, Naming("n1")), driven.now)
    driven.write()


def test_cleanup_processes_a_list_slice_by_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codeq_server.core.redrive.CLEANUP_SLICE", 2)
    driven = DrivenShard()
    for _ in range(5):
        driven.complete_one()
    driven.write()
    [key] = driven.keys(b"r")
    late = driven.now.wall_ms
    assert [cleanup(driven.shard, key, TENANT, late, start, 9) for start in (0, 2, 4)] == [
        (0, 2, 2),
        (0, 2, 4),
        (0, 1, None),
    ]
    assert cleanup(driven.shard, key, TENANT, late + 1, 2, 9) == (2, 2, 2)
    assert cleanup(driven.shard, key, TENANT, late + 1, 2, 9) == (1, 1, None)
    assert cleanup(driven.shard, key, TENANT, late + 1, 0, 9) == (2, 2, None)
    assert cleanup(driven.shard, key, TENANT, late + 1, 0, 9) == (0, 0, None)
    driven.write()
    assert driven.keys(b"rst") == []


def test_sweep_after_an_unwritten_cleanup_removes_each_task_once() -> None:
    driven = DrivenShard(retention_ms=1000)
    for _ in range(3):
        driven.complete_one()
    driven.write()
    [key] = driven.keys(b"r")
    driven.wall += 1000
    assert cleanup(driven.shard, key, TENANT, driven.now.wall_ms, 0, 2).removed == 2
    driven.run_due()
    driven.write()
    assert (driven.shard.totals.removed, driven.keys(b"rst")) == (3, [])
