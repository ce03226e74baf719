"""Purge: waiting tasks end and later tasks stay, even across restarts."""

from __future__ import annotations

import pytest
from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys, names, purging
from codeq_server.core.lookup import find_home
from codeq_server.core.model import Name
from codeq_server.core.new_task import Naming, NewTask
from codeq_server.core.purging import purge
from codeq_server.core.redrive import redrive_task
from codeq_server.core.withdrawal import cancel
from driven_shard import TENANT, DrivenShard


def begin(driven: DrivenShard) -> None:
    """Requests a purge, and writes the request."""
    purge(driven.shard, driven.queue(), driven.now)
    driven.write()


def finish(driven: DrivenShard) -> None:
    driven.run_due()
    driven.write()
    assert driven.queue().purge is None


def statuses(driven: DrivenShard, *task_ids: str) -> list[str]:
    return [driven.status(task_id) for task_id in task_ids]


def waiting_everywhere(driven: DrivenShard) -> list[str]:
    """Returns five waiting tasks: never delivered, nacked, returned, nacked with a delay, and created with a delay."""
    nacked, returned, delayed, home = (driven.create() for _ in range(4))
    driven.claim(3)
    driven.nack(nacked)
    driven.give_back(returned)
    driven.nack(delayed, 5000)
    return [home, nacked, returned, delayed, driven.create(delay=7000), driven.create(priority=9)]


@pytest.mark.parametrize("reopened", [False, True])
def test_purge_ends_waiting_tasks_and_keeps_running_and_dead_ones(reopened: bool) -> None:
    driven = DrivenShard()
    dead, running, ended = driven.create(attempts=1), driven.create(), driven.create()
    driven.claim(3)
    driven.nack(dead)
    driven.settle(ended)
    waiting = waiting_everywhere(driven)
    begin(driven)
    if reopened:
        driven.reopen()
    finish(driven)
    assert statuses(driven, *waiting) == ["CANCELLED"] * 6
    assert {driven.view(task_id).error for task_id in waiting} == {"PURGED"}
    assert statuses(driven, dead, running, ended) == ["DLQ", "CLAIMED", "COMPLETED"]
    queue = driven.queue()
    assert (queue.ready, queue.scheduled, queue.claimed, queue.dlq) == (0, 0, 1, 1)
    assert driven.keys(b"du") == []
    driven.pass_time(10_000)
    assert driven.claim_ids(9) == []


@pytest.mark.parametrize("reopened", [False, True])
def test_purge_keeps_tasks_queued_after_the_request(reopened: bool) -> None:
    driven = DrivenShard()
    nacked, returned, delayed = (driven.create() for _ in range(3))
    driven.claim(3)
    gone = driven.create()
    begin(driven)
    created, later = driven.create(), driven.create(delay=7000)
    driven.nack(nacked)
    driven.give_back(returned)
    driven.nack(delayed, 5000)
    cancel(driven.shard, TENANT, gone, "", driven.now)
    redrive_task(driven.shard, TENANT, gone, driven.now)
    driven.write()
    if reopened:
        driven.reopen()
    finish(driven)
    kept = [nacked, returned, created, gone, later, delayed]
    assert statuses(driven, *kept) == ["PENDING"] * 4 + ["SCHEDULED"] * 2
    driven.pass_time(10_000)
    assert sorted(driven.claim_ids(9)) == sorted(kept)


def test_purge_keeps_a_task_whose_lease_expires_after_the_request() -> None:
    driven = DrivenShard()
    task_id = driven.create()
    driven.claim(lease=100)
    driven.create()
    begin(driven)
    driven.wall, driven.mono = driven.wall + 100, driven.mono + 100
    finish(driven)
    assert driven.claim_ids(9) == [task_id]


def test_purging_queue_delivers_nothing_and_wakes_waiters_at_the_end() -> None:
    driven = DrivenShard()
    driven.create()
    driven.write()
    purge(driven.shard, driven.queue(), driven.now)
    later = driven.create()
    assert driven.claim_ids(9) == []
    driven.write()
    driven.reopen()
    assert driven.claim_ids(9) == []
    finish(driven)
    assert list(driven.shard.affect().woken) == [driven.queue()]
    assert driven.claim_ids(9) == [later]


def test_purge_does_not_begin_before_its_request_is_written() -> None:
    driven = DrivenShard()
    task_id = driven.create()
    purge(driven.shard, driven.queue(), driven.now)
    driven.run_due()
    assert driven.status(task_id) == "PENDING"
    sealed = driven.seal()
    driven.run_due()
    assert driven.status(task_id) == "PENDING"
    driven.write(sealed)
    finish(driven)
    assert driven.status(task_id) == "CANCELLED"


def test_purge_and_pause_stop_deliveries_independently() -> None:
    driven = DrivenShard()
    driven.create()
    driven.shard.pause(driven.queue())
    begin(driven)
    driven.shard.resume(driven.queue())
    kept = driven.create()
    assert driven.claim_ids(9) == []
    driven.shard.pause(driven.queue())
    finish(driven)
    assert driven.claim_ids(9) == []
    driven.shard.resume(driven.queue())
    assert driven.claim_ids(9) == [kept]


def test_second_purge_includes_tasks_created_since_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "SLICE", 2)
    driven = DrivenShard()
    tasks = [driven.create() for _ in range(5)]
    begin(driven)
    purging.work(driven.shard, driven.now)
    tasks += [driven.create(), driven.create(delay=5000)]
    begin(driven)
    kept = driven.create()
    driven.write()
    finish(driven)
    assert statuses(driven, *tasks) == ["CANCELLED"] * 7
    assert driven.claim_ids(9) == [kept]


def test_purge_of_a_queue_without_waiting_tasks_finishes_at_once() -> None:
    driven = DrivenShard()
    task_id = driven.create()
    driven.claim()
    purge(driven.shard, driven.queue(), driven.now)
    assert driven.queue().purge is None
    driven.nack(task_id)
    assert driven.claim_ids() == [task_id]


def test_task_that_falls_due_during_a_purge_ends_unless_it_was_created_later() -> None:
    driven = DrivenShard()
    parked, nacked = driven.create(delay=50), driven.create()
    driven.claim()
    driven.nack(nacked, 50)
    driven.write()
    purge(driven.shard, driven.queue(), driven.now)
    later = driven.create(delay=50)
    driven.pass_time(60)
    assert statuses(driven, parked, nacked, later) == ["CANCELLED", "CANCELLED", "PENDING"]
    driven.write()
    finish(driven)
    assert driven.claim_ids(9) == [later]


def test_purge_notifies_watchers_and_starts_the_retention_of_ended_tasks() -> None:
    driven = DrivenShard(retention_ms=1000)
    plain = driven.create()
    naming = Naming("mine")
    names.create(driven.shard, TENANT, NewTask("a", b"1", 0, 0, 0, naming), driven.now)
    parked = driven.create(delay=9000)
    watched = {plain, Name(TENANT, "mine"), parked}
    driven.shard.watched |= watched
    begin(driven)
    finish(driven)
    assert set(driven.shard.affect().ended) == watched
    driven.pass_time(998)
    assert driven.status(plain) == "CANCELLED"
    driven.pass_time(10)
    driven.write()
    assert driven.keys(b"tsirdu") == []


def test_purge_runs_in_slices_with_turns_for_every_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "SLICE", 20)
    monkeypatch.setattr(purging, "TURN", 4)
    driven = DrivenShard()
    many = [driven.create(size=300) for _ in range(50)]
    naming = Naming("x")
    names.create(driven.shard, "globex", NewTask("a", b"1", 0, 0, 0, naming), driven.now)
    queue, other = driven.queue(), driven.shard.by_name["globex", "a"]
    for each in (queue, other):
        purge(driven.shard, each, driven.now)
    driven.write()
    slices = 0
    while purging.work(driven.shard, driven.now):
        slices += 1
        assert other.purge is None or slices < 4
        assert sum(driven.status(task_id) == "CANCELLED" for task_id in many) <= slices * 20
    assert (queue.ready, other.ready, slices > 3) == (0, 0, True)
    driven.write()


def test_purge_interrupted_by_restarts_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SLICE", 4), ("TURN", 2), ("TURN_COST", 1)):
        monkeypatch.setattr(purging, name, value)
    driven = DrivenShard(window_bytes_max=500)
    tasks = [driven.create(priority=n % 3, delay=n % 2 * 5000) for n in range(40)]
    for task_id in driven.claim_ids(6):
        driven.give_back(task_id)
    begin(driven)
    while driven.queue().purge is not None:
        purging.work(driven.shard, driven.now)
        driven.write()
        driven.reopen()
    assert statuses(driven, *tasks) == ["CANCELLED"] * 40


def test_purged_task_is_redriven_and_delivered_once() -> None:
    driven = DrivenShard()
    task_id = driven.create()
    begin(driven)
    finish(driven)
    home, position = find_home(driven.shard, TENANT, task_id)
    value = driven.shard.get(keys.place_key(home.task_prefix, position))
    assert value is not None
    assert (home.mark, value[:1]) == (position, keys.HOME)
    redrive_task(driven.shard, TENANT, task_id, driven.now)
    driven.write()
    driven.reopen()
    assert driven.claim_ids(9) == [task_id]
    driven.settle(task_id)
    driven.write()


def test_task_returned_after_a_purge_in_the_same_millisecond_is_kept() -> None:
    driven = DrivenShard()
    before, after = driven.create(), driven.create()
    driven.claim(2)
    driven.give_back(before)
    now = driven.now
    purge(driven.shard, driven.queue(), now)
    driven.give_back(after)
    assert driven.now.wall_ms == now.wall_ms + 1
    driven.write()
    finish(driven)
    assert statuses(driven, before, after) == ["CANCELLED", "PENDING"]


def test_queue_row_stores_the_purge_request() -> None:
    driven = DrivenShard()
    driven.create(priority=4)
    driven.create(delay=5)
    wall = driven.now.wall_ms
    purge(driven.shard, driven.queue(), driven.now)
    row = rows_pb2.QueueRow.FromString(driven.queue().row())
    tails = [keys.pack_home(5, 1), keys.pack_home(keys.PARKED_LANE, 1)]
    assert row.purge == rows_pb2.PurgeState(at_ms=wall, tails=tails)
