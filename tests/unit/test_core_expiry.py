"""Expiry: a task waits no longer than its producer allows."""

from __future__ import annotations

import pytest
from codeq.v1.task_pb2 import Task
from codeq_server.core import names, redrive, timers
from codeq_server.core.errors import CorruptRows
from codeq_server.core.names import Created
from codeq_server.core.new_task import Naming, NewTask
from codeq_server.core.status import Outcome
from driven_shard import START_MS, TENANT, DrivenShard


@pytest.fixture
def shard() -> DrivenShard:
    return DrivenShard(retention_ms=10_000, dlq_retention_ms=20_000)


def expired(shard: DrivenShard, task_id: str) -> bool:
    """Returns whether a task has expired with all of its state consistent."""
    view = shard.view(task_id)
    if (view.status.name, view.error) != ("FAILED", "EXPIRED"):
        return False
    assert view.finished_ms == shard.shard.wall_ms
    assert (view.worker, view.due_ms, view.result) == (None, None, None)
    return True


# -- tasks that expire
# -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0, 300])
def test_waiting_task_expires_on_time_without_a_request(shard: DrivenShard, delay: int) -> None:
    task_id = shard.create(delay=delay, expire=1000)
    shard.pass_time(999)
    assert shard.status(task_id) == "PENDING"
    shard.pass_time(1)
    assert expired(shard, task_id)
    assert shard.claim_ids(1) == []
    assert (shard.queue().ready, shard.queue().failed_total, shard.shard.totals.outdated) == (0, 1, 1)
    shard.write()


def test_expiry_during_the_delay_ends_a_scheduled_task(shard: DrivenShard) -> None:
    task_id = shard.create(delay=5000, expire=1000)
    shard.pass_time(1000)
    assert expired(shard, task_id)
    assert shard.queue().scheduled == 0
    shard.write()
    assert shard.keys(b"de") == []


def test_nacked_task_expires_where_it_waits(shard: DrivenShard) -> None:
    at_tail, delayed, given_back = (shard.create(expire=1000) for _ in range(3))
    shard.claim(3)
    shard.nack(at_tail, 0)
    shard.nack(delayed, 5000)
    shard.give_back(given_back)
    shard.write()
    shard.pass_time(1000)
    assert all(expired(shard, task_id) for task_id in (at_tail, delayed, given_back))
    shard.write()
    assert shard.claim_ids(3) == []


def test_expiry_in_the_middle_of_the_window_leaves_other_tasks_alone(shard: DrivenShard) -> None:
    first, middle, last = shard.create(), shard.create(expire=1000), shard.create()
    shard.pass_time(1000)
    assert expired(shard, middle)
    assert shard.claim_ids(3) == [first, last]


# -- tasks that do not expire
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["nack", "lease runs out", "give back", "redrive"])
def test_task_that_runs_at_its_deadline_continues_and_never_expires(shard: DrivenShard, outcome: str) -> None:
    task_id = shard.create(expire=1000)
    shard.claim(1, lease=2000)
    shard.pass_time(1500)
    assert shard.status(task_id) == "CLAIMED"
    assert shard.keys(b"e") == []
    match outcome:
        case "nack":
            shard.nack(task_id, 0)
        case "give back":
            shard.give_back(task_id)
        case "redrive":
            shard.settle(task_id, Outcome.FAILED, error="no")
            redrive.redrive_task(shard.shard, TENANT, task_id, shard.now)
        case _:
            shard.pass_time(500)
    shard.write()
    shard.reopen()
    shard.pass_time(5000)
    assert shard.status(task_id) == "PENDING"


def test_task_that_ended_before_its_deadline_does_not_expire(shard: DrivenShard) -> None:
    task_id = shard.create(expire=1000)
    shard.claim(1)
    shard.settle(task_id, result=b"1")
    shard.write()
    shard.pass_time(1000)
    assert (shard.status(task_id), shard.queue().failed_total) == ("COMPLETED", 0)
    shard.write()
    assert shard.keys(b"e") == []


def test_task_redriven_before_its_deadline_still_expires(shard: DrivenShard) -> None:
    """The deadline counts from creation, whatever happens to the task in between."""
    task_id = shard.create(expire=1000)
    shard.claim(1)
    shard.settle(task_id, Outcome.FAILED, error="no")
    redrive.redrive_task(shard.shard, TENANT, task_id, shard.now)
    shard.pass_time(1000)
    assert expired(shard, task_id)
    shard.write()


def test_redriven_expired_task_waits_without_a_deadline(shard: DrivenShard) -> None:
    task_id = shard.create(expire=1000)
    shard.pass_time(1000)
    shard.write()
    redrive.redrive_task(shard.shard, TENANT, task_id, shard.now)
    assert shard.queue().failed_total == 0
    shard.write()
    shard.pass_time(20_000)
    assert shard.claim_ids(1) == [task_id]
    shard.write()


def test_expiry_may_be_late_but_never_early_when_the_wall_clock_is_set_back(shard: DrivenShard) -> None:
    task_id = shard.create(expire=1000)
    shard.pass_time(900)
    shard.wall -= 3_600_000
    shard.pass_time(199)
    assert shard.status(task_id) == "PENDING"
    shard.pass_time(1)
    assert expired(shard, task_id)


# -- effects of an expiry --------------------------------------------------------------------------------------------


def test_expiry_notifies_callers_waiting_for_the_end(shard: DrivenShard) -> None:
    task_id = shard.create(expire=1000)
    shard.shard.watched.add(task_id)
    shard.pass_time(1000)
    assert shard.shard.affect().ended == [task_id]


@pytest.mark.parametrize("delay", [0, 500])
def test_nack_repeated_after_expiry_gets_its_first_verdict(shard: DrivenShard, delay: int) -> None:
    task_id = shard.create(expire=1000)
    shard.claim(1)
    token = shard.token(task_id)
    first = shard.settle(task_id, Outcome.NACK, token=token, delay=delay)
    shard.pass_time(1000)
    assert expired(shard, task_id)
    again = shard.settle(task_id, Outcome.NACK, token=token, delay=delay)
    assert (again.status, again.delay_ms) == (first.status, first.delay_ms)


def test_task_expires_on_time_after_a_restart(shard: DrivenShard) -> None:
    ids = [shard.create(expire=1000 * n) for n in range(1, 6)]
    shard.write()
    shard.pass_time(2500)
    shard.write()
    shard.reopen()
    shard.pass_time(1500)
    assert [expired(shard, task_id) for task_id in ids[3:]] == [True, False]
    assert shard.queue().expiring == 1
    shard.write()


def test_retention_removes_every_row_of_tasks_that_could_expire(shard: DrivenShard) -> None:
    """Nothing is left of tasks that ended long before their deadline or at it, named tasks included."""
    early, late = shard.create(expire=60_000), shard.create(expire=1000)
    task = NewTask("a", b"1", 0, 0, 0, Naming("mine"), expire_ms=shard.wall + 60_000)
    assert isinstance(names.create(shard.shard, TENANT, task, shard.now), Created)
    shard.claim(1)
    shard.settle(early)
    shard.pass_time(1000)
    assert expired(shard, late)
    (mine,) = shard.claim(1)
    shard.settle("mine")
    shard.write()
    assert len(shard.keys(b"e")) == shard.queue().expiring == 2
    shard.pass_time(10_000)
    shard.write()
    assert shard.keys(b"tsrdei") == []
    assert (shard.queue().expiring, mine.attempts) == (0, 1)


def test_expiry_of_many_tasks_does_not_delay_another_tenants_expiry(
    shard: DrivenShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, "SLICE", 40)
    monkeypatch.setattr(timers, "TURN", 10)
    for _ in range(300):
        shard.create(expire=1000)
    shard.create(tenant="globex", expire=1001)
    shard.wall += 2000
    assert timers.run_due(shard.shard, shard.now) is True
    assert shard.shard.by_name["globex", "a"].failed_total == 1
    assert 0 < shard.queue().failed_total <= 40
    shard.run_due()
    assert shard.queue().failed_total == 300
    shard.write()


def test_expiry_row_without_a_home_is_corruption(shard: DrivenShard) -> None:
    shard.create(expire=1000)
    (home,) = (key for key in shard.shard.batch.rows if key[:1] == b"t")
    shard.shard.batch.rows[home] = None
    shard.wall += 1000
    with pytest.raises(CorruptRows):
        timers.run_due(shard.shard, shard.now)


def test_task_bytes_contain_the_expiry(shard: DrivenShard) -> None:
    task_id = shard.create(expire=1500, priority=7, size=300)
    task = Task.FromString(shard.view(task_id).raw)
    assert (task.expire_at.seconds * 1000 + task.expire_at.nanos // 1_000_000) == START_MS + 1500
    assert task.payload == b"1" * 300
