"""Work driven by time alone: due tasks, expired leases, retention."""

from __future__ import annotations

from dataclasses import replace

import pytest
from codeq_server.core import shard as shard_module
from codeq_server.core import sweep, time_index, timers
from codeq_server.core.model import Caller
from driven_shard import DrivenShard


@pytest.fixture
def shard() -> DrivenShard:
    return DrivenShard(retention_ms=10_000, dlq_retention_ms=20_000)


def test_maturing_continues_when_a_slice_ends_together_with_the_window(
    shard: DrivenShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of due tasks is a multiple of slice and window; the rest must not wait for another timer."""
    monkeypatch.setattr(timers, "SLICE", 2)
    monkeypatch.setattr(time_index, "HEAD_MAX", 4)
    herd = [shard.create(delay=1000) for _ in range(10)]
    shard.pass_time(1000)
    assert {shard.status(task_id) for task_id in herd} == {"PENDING"}


# -- scheduled tasks -----------------------------------------------------------------------------------------------


def test_maturing_queues_tasks_in_order_of_their_due_times(shard: DrivenShard) -> None:
    late, early, middle = shard.create(delay=300), shard.create(delay=100), shard.create(delay=200)
    shard.pass_time(99)
    assert shard.claim_ids(3) == []
    shard.pass_time(300)
    assert shard.claim_ids(3) == [early, middle, late]


def test_maturing_queues_each_task_once_when_several_are_due_together(shard: DrivenShard) -> None:
    tasks = [shard.create(delay=100) for _ in range(5)]
    nacked = shard.create()
    shard.claim(1)
    shard.nack(nacked, delay=100)
    shard.pass_time(100)
    assert sorted(shard.claim_ids(10)) == sorted([*tasks, nacked])


def test_maturing_queues_tasks_behind_those_already_waiting(shard: DrivenShard) -> None:
    delayed, plain = shard.create(delay=100), shard.create()
    shard.pass_time(100)
    assert shard.claim_ids(2) == [plain, delayed]


@pytest.mark.parametrize("written", [False, True])
def test_maturing_beyond_the_window_keeps_the_order(
    shard: DrivenShard, monkeypatch: pytest.MonkeyPatch, *, written: bool
) -> None:
    """The window is trimmed while tasks arrive in any order; trimmed entries are read again, whether written or not."""
    monkeypatch.setattr(time_index, "HEAD_MAX", 8)
    monkeypatch.setattr(time_index, "PAGE", 3)
    tasks = {delay: shard.create(delay=delay) for delay in sorted(range(1, 60), key=lambda n: n * 37 % 61)}
    if written:
        shard.write()
    shard.pass_time(60)
    assert shard.claim_ids(100) == [tasks[delay] for delay in sorted(tasks)]


def test_maturing_with_a_batch_in_flight_queues_its_tasks_once(
    shard: DrivenShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_index, "HEAD_MAX", 2)
    monkeypatch.setattr(time_index, "PAGE", 2)
    tasks = [shard.create(delay=100 + n) for n in range(6)]
    first = shard.seal()
    tasks += [shard.create(delay=106 + n) for n in range(6)]
    second = shard.seal()
    shard.pass_time(103)
    shard.store.write(first.rows)
    shard.pass_time(4)
    shard.shard.settled(first.lsn)
    shard.write(second)
    shard.pass_time(10)
    shard.write()
    assert shard.claim_ids(100) == tasks
    assert shard.keys(b"d") == []


def test_maturing_resumes_where_it_stopped_after_a_restart(shard: DrivenShard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_index, "PAGE", 2)
    tasks = [shard.create(delay=n * 100) for n in range(1, 8)]
    shard.write()
    shard.pass_time(350)
    shard.write()
    shard.pass_time(100)
    shard.reopen()
    assert [shard.status(task_id) for task_id in tasks] == ["PENDING"] * 3 + ["SCHEDULED"] * 4
    shard.pass_time(1000)
    assert shard.claim_ids(100) == tasks
    shard.write()
    assert shard.keys(b"d") == []


def test_maturing_resumes_after_a_restart_amid_tasks_due_together(
    shard: DrivenShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, "SLICE", 2)
    tasks = [shard.create(delay=100) for _ in range(5)]
    shard.wall += 100
    assert timers.run_due(shard.shard, shard.now) is True
    shard.write()
    shard.reopen()
    shard.run_due()
    assert shard.claim_ids(10) == tasks


def test_delayed_task_keeps_its_priority_when_it_matures_or_is_nacked(shard: DrivenShard) -> None:
    delayed, plain = shard.create(delay=100, priority=5), shard.create(priority=4)
    shard.pass_time(100)
    for _ in range(2):
        assert shard.claim_ids(1) == [delayed]
        shard.nack(delayed)
    assert shard.claim_ids(2) == [delayed, plain]


@pytest.mark.parametrize("others", [("acme", "b"), ("globex", "a")])
def test_maturing_many_tasks_does_not_delay_another_queue(
    shard: DrivenShard, monkeypatch: pytest.MonkeyPatch, others: tuple[str, str]
) -> None:
    """This holds for queues of the same tenant and of others, even for a task that was created last and is due last."""
    monkeypatch.setattr(timers, "SLICE", 40)
    monkeypatch.setattr(timers, "TURN", 10)
    for _ in range(1000):
        shard.create(delay=1000)
    tenant, command = others
    shard.create(command, tenant=tenant, delay=1001)
    shard.wall += 2000
    assert timers.mature(shard.shard, shard.now) is True
    assert shard.shard.by_name[others].ready == 1
    assert 0 < shard.queue().ready <= 40


def test_maturing_after_a_restart_scans_all_queues_in_slices(
    shard: DrivenShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening does not read the due index; the timers read it, one slice at a time, and find all due tasks."""
    monkeypatch.setattr(timers, "SLICE", 16)
    for number in range(50):
        shard.create(f"c{number}", delay=1000 if number == 49 else 5000)
    shard.write()
    shard.wall += 1000
    shard.reopen()
    slices = 1
    while timers.run_due(shard.shard, shard.now):
        slices += 1
    assert slices > 10
    assert shard.queue("c49").ready == 1
    assert timers.next_wake(shard.shard, shard.now) == 4000


def test_maturing_may_be_late_but_never_early_when_the_wall_clock_is_set_back(shard: DrivenShard) -> None:
    task_id = shard.create(delay=1000)
    shard.pass_time(900)
    shard.wall -= 3_600_000
    shard.pass_time(199)
    assert shard.status(task_id) == "SCHEDULED"
    shard.pass_time(1)
    assert shard.status(task_id) == "PENDING"


def test_maturing_is_never_early_when_the_wall_clock_is_set_back_at_a_restart(shard: DrivenShard) -> None:
    """A task that was due before the restart is not scheduled again: time resumes at the last batch."""
    task_id = shard.create(delay=1000)
    shard.pass_time(1000)
    shard.write()
    shard.wall -= 3_600_000
    shard.reopen()
    assert shard.now.wall_ms == shard.wall + 3_600_000
    assert shard.status(task_id) == "PENDING"


def test_next_wake_is_none_when_nothing_is_pending(shard: DrivenShard) -> None:
    shard.create()
    assert timers.next_wake(shard.shard, shard.now) is None


# -- leases --------------------------------------------------------------------------------------------------------


def test_expired_lease_returns_the_task_to_the_tail_at_once(shard: DrivenShard) -> None:
    first, second = shard.create(), shard.create()
    shard.claim(1, lease=1000)
    shard.pass_time(999)
    assert shard.status(first) == "CLAIMED"
    shard.pass_time(1)
    view = shard.view(first)
    assert (view.status.name, view.attempts, view.error) == ("PENDING", 1, "LEASE_EXPIRED")
    assert shard.claim_ids(2) == [second, first]


def test_lease_that_expires_on_the_last_attempt_ends_the_task(shard: DrivenShard) -> None:
    task_id = shard.create(attempts=2)
    for _ in range(2):
        shard.claim(1, lease=1000)
        shard.pass_time(1000)
    view = shard.view(task_id)
    assert (view.status.name, view.attempts, view.error) == ("DLQ", 2, "LEASE_EXPIRED")
    assert (shard.queue().dlq, shard.queue().ready) == (1, 0)
    shard.write()
    assert len(shard.keys(b"z")) == 1


def test_leases_that_expire_together_do_not_delay_another_tenants_leases(
    shard: DrivenShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, "SLICE", 40)
    monkeypatch.setattr(timers, "TURN", 10)
    for _ in range(300):
        shard.create()
        shard.claim(1, lease=1000)
    shard.mono += 1
    shard.create("a", tenant="globex")
    assert shard.claim(1, by=Caller("globex", "w", "w"), lease=1000)
    shard.mono += 2000
    assert timers.expire_leases(shard.shard, shard.now) is True
    assert shard.shard.by_name["globex", "a"].ready == 1
    assert 0 < shard.queue().ready <= 40
    shard.run_due()
    assert shard.queue().ready == 300


def test_lease_holds_until_its_expiry_is_decided(shard: DrivenShard) -> None:
    task_id = shard.create()
    shard.claim(1, lease=1000)
    shard.mono += 5000
    assert shard.settle(task_id).status.name == "COMPLETED"


def test_lease_is_unchanged_when_the_wall_clock_jumps(shard: DrivenShard) -> None:
    task_id = shard.create()
    shard.claim(1, lease=1000)
    shard.wall += 3_600_000
    shard.pass_time(999)
    assert shard.status(task_id) == "CLAIMED"
    shard.wall -= 7_200_000
    shard.pass_time(1)
    assert shard.status(task_id) == "PENDING"


def test_lease_restarts_at_full_length_after_a_restart(shard: DrivenShard) -> None:
    task_id = shard.create()
    shard.claim(1, lease=1000)
    shard.pass_time(900)
    shard.write()
    shard.mono = 5
    shard.reopen()
    shard.pass_time(999)
    assert shard.status(task_id) == "CLAIMED"
    shard.pass_time(1)
    assert shard.status(task_id) == "PENDING"


def test_one_long_lease_does_not_make_the_claim_lists_grow(shard: DrivenShard) -> None:
    """A twelve-hour lease must not retain an entry for each claim that has ended since."""
    shard.create()
    shard.claim(1, lease=43_200_000)
    for _ in range(5000):
        shard.complete_one()
        shard.write_unchecked()
    assert shard.shard.lease_ends.count + len(shard.shard.claim_order) < 2500


def test_every_live_lease_expires_after_the_claim_lists_are_cleaned(shard: DrivenShard) -> None:
    """Cleaning keeps the expiry times of live claims."""
    kept = []
    for number in range(100):
        kept.append(shard.create())
        shard.claim(1, lease=1000 + number)
        for _ in range(15):
            shard.complete_one()
    shard.seal()
    assert shard.shard.lease_ends.count == 100
    shard.pass_time(1100)
    assert {shard.status(task_id) for task_id in kept} == {"PENDING"}


# -- retention -----------------------------------------------------------------------------------------------------


def test_sweep_removes_every_row_of_ended_tasks_on_time(shard: DrivenShard) -> None:
    completed, dead = shard.create(attempts=1), shard.create(attempts=1)
    shard.claim(2)
    shard.settle(completed, result=b"{}")
    shard.nack(dead)
    shard.write()
    shard.pass_time(9_999)
    assert (shard.status(completed), shard.status(dead)) == ("COMPLETED", "DLQ")
    shard.pass_time(1)
    shard.write()
    assert [key[:1] for key in shard.keys(b"tsrz")] == [b"r", b"s", b"t", b"z"]
    shard.pass_time(10_000)
    shard.write()
    assert shard.keys(b"tsrzlxdu") == []
    assert shard.queue().dlq == 0
    assert shard.shard.sweep_at is None


def test_sweep_of_a_task_requeued_several_times_leaves_nothing(shard: DrivenShard) -> None:
    task_id = shard.create(delay=10)
    shard.pass_time(10)
    for delay in (0, 50):
        shard.claim(1)
        shard.nack(task_id, delay)
        shard.write()
        shard.pass_time(delay)
    shard.claim(1)
    shard.give_back(task_id)
    shard.write()
    shard.claim(1)
    shard.settle(task_id)
    shard.write()
    shard.pass_time(10_000)
    shard.write()
    assert shard.keys(b"tsrzlxdu") == []


def test_sweep_keeps_a_sibling_that_is_still_leased(shard: DrivenShard) -> None:
    """The claim's lease row lists both tasks; the removed task must not reappear after a restart."""
    ended, slow = shard.create(), shard.create()
    shard.claim(2, lease=3_600_000)
    shard.settle(ended)
    shard.write()
    shard.pass_time(10_000)
    shard.write()
    assert len(shard.keys(b"ts")) == 1
    shard.reopen()
    assert list(shard.shard.deliveries) == [slow]
    assert shard.queue().claimed == 1
    shard.settle(slow)
    shard.write()
    shard.pass_time(10_000)
    shard.write()
    assert shard.keys(b"tsrzlx") == []


def test_sweep_waits_until_the_batch_that_ended_the_task_is_written(shard: DrivenShard) -> None:
    """Nothing may be skipped, and the timer must not spin while the disk is slow."""
    shard.complete_one()
    sealed = shard.seal()
    shard.wall, shard.mono = shard.wall + 10_000, shard.mono + 10_000
    assert sweep.sweep(shard.shard, shard.now) is False
    assert timers.next_wake(shard.shard, shard.now) == 50_000  # the lease expires
    shard.write(sealed)
    assert timers.next_wake(shard.shard, shard.now) == 0
    shard.run_due()
    shard.write()
    assert shard.keys(b"tsr") == []


def test_sweep_finds_an_earlier_list_even_if_a_later_one_is_written_first(shard: DrivenShard) -> None:
    """A list with a dead letter, due in days, is in the store; the list that is due next is still in flight."""
    dead = shard.create(attempts=1)
    shard.claim(1)
    shard.nack(dead)
    shard.write()
    shard.complete_one()
    sealed = shard.seal()
    shard.wall, shard.mono = shard.wall + 10_000, shard.mono + 10_000
    shard.run_due()
    shard.write(sealed)
    shard.run_due()
    shard.write()
    assert len(shard.keys(b"r")) == len(shard.keys(b"t")) == 1


def test_sweep_does_not_skip_a_list_in_flight(shard: DrivenShard) -> None:
    """A list that is due earlier is written after a list that is due later; the mark must not skip it."""
    dead = shard.create(attempts=1)
    shard.claim(1)
    shard.nack(dead)
    shard.write()
    shard.pass_time(5_000)
    shard.complete_one()
    sealed = shard.seal()
    shard.wall, shard.mono = shard.wall + 16_000, shard.mono + 16_000
    shard.run_due()
    shard.write(sealed)
    shard.run_due()
    shard.write()
    assert shard.keys(b"tsrz") == []


def test_sweep_removes_all_ended_tasks_even_if_they_fill_several_lists(
    shard: DrivenShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_module, "ENDED_ROW_MAX", 2)
    for number in range(10):
        shard.create("ab"[number % 2], attempts=1)
    for number, task_id in enumerate(shard.claim_ids(10)):
        if number % 2:
            shard.settle(task_id)
        else:
            shard.nack(task_id)
    shard.write()
    assert len(shard.keys(b"r")) == 6
    shard.pass_time(20_000)
    shard.write()
    assert shard.keys(b"tsrz") == []


def test_sweep_continues_after_a_restart(shard: DrivenShard) -> None:
    for _ in range(3):
        shard.complete_one()
        shard.write()
        shard.pass_time(1000)
    shard.pass_time(7_000)
    shard.write()
    shard.reopen()
    assert len(shard.keys(b"r")) == 2
    shard.pass_time(2000)
    shard.write()
    assert shard.keys(b"tsr") == []


def test_sweep_keeps_the_promised_retention_after_a_restart_with_a_shorter_one(shard: DrivenShard) -> None:
    kept = shard.complete_one()
    shard.write()
    shard.settings = replace(shard.settings, retention_ms=1000)
    shard.reopen()
    shard.complete_one()
    shard.write()
    shard.pass_time(1000)
    shard.write()
    assert len(shard.keys(b"r")) == 1
    assert shard.status(kept) == "COMPLETED"
