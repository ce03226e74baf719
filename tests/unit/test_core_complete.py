"""The fast path by which streams complete tasks has the effects of `settle` and the same access checks."""

from __future__ import annotations

import pytest
from codeq_server.core import heartbeats, names, outcomes
from codeq_server.core.model import Caller
from codeq_server.core.new_task import Naming, NewTask
from codeq_server.core.status import Outcome
from driven_shard import TENANT, WORKER, DrivenShard


def worked(way: str) -> DrivenShard:
    """Returns a shard in which `complete` or `settle` ended deliveries of every kind; the last one stays open."""
    driven = DrivenShard()
    plain, delayed, nacked, abandoned, told, last = (driven.create(delay=delay) for delay in (0, 5, 0, 0, 0, 0))
    driven.pass_time(5)
    driven.claim(6)
    driven.nack(nacked)
    driven.settle(abandoned, Outcome.ABANDON)
    driven.claim(2)
    heartbeats.report_progress(driven.shard, WORKER, told, None, b"50", None, driven.now)
    driven.heartbeat(told, 600_000)
    driven.heartbeat(told, 1_000)
    driven.write()
    for number, task_id in enumerate((told, abandoned, plain, nacked, delayed)):
        result = None if number == 2 else b'{"n":%d}' % number
        token = driven.token(task_id)
        if way == "complete":
            assert outcomes.complete(driven.shard, WORKER, task_id, token, result, driven.now)
        else:
            driven.settle(task_id, token=token, result=result)
    assert driven.status(last) == "CLAIMED"
    return driven


def test_complete_writes_the_same_rows_as_settle() -> None:
    one, other = worked("complete"), worked("settle")
    assert one.shard.batch.rows == other.shard.batch.rows
    assert one.seal().rows == other.seal().rows


@pytest.mark.parametrize(
    "caller",
    [Caller("umbrella", "w", "w"), Caller("umbrella", "w/1", "w"), Caller(TENANT, "w", "v"), Caller(TENANT, "v", "v")],
)
def test_complete_by_another_tenant_or_subject_changes_nothing(caller: Caller) -> None:
    driven = DrivenShard()
    task_id = driven.create()
    driven.claim()
    rows, token = dict(driven.shard.batch.rows), driven.token(task_id)
    assert outcomes.complete(driven.shard, caller, task_id, token, b"1", driven.now) is False
    assert driven.shard.batch.rows == rows
    assert driven.status(task_id) == "CLAIMED"
    assert outcomes.complete(driven.shard, Caller(TENANT, "w/1", "w"), task_id, token, b"1", driven.now)


def test_complete_without_a_matching_lease_changes_nothing() -> None:
    driven = DrivenShard()
    task_id = driven.create()
    driven.claim()
    stale = driven.token(task_id)
    driven.nack(task_id)
    driven.claim()
    names.create(driven.shard, TENANT, NewTask("a", b"1", 0, 0, 0, Naming("mine")), driven.now)
    rows = dict(driven.shard.batch.rows)
    for id_, token in ((task_id, stale), (task_id, stale + 9), ("mine", stale), ("nobody", stale)):
        assert outcomes.complete(driven.shard, WORKER, id_, token, b"1", driven.now) is False
    assert driven.shard.batch.rows == rows
