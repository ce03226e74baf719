"""Tasks with keys: limits of concurrency and rate, strict order, and no delay for tasks behind one that waits."""

from __future__ import annotations

from typing import Any

import pytest
from codeq.v1.task_pb2 import Task
from codeq_server.core import keys, names, purging, redrive, sifting, timers, withdrawal
from codeq_server.core.errors import CorruptRows
from codeq_server.core.key_rings import AtLimit, KeyPolicy
from codeq_server.core.key_waits import KeyWait, key_wait
from codeq_server.core.new_task import NewTask, TaskKeys
from codeq_server.core.outcomes import settle
from codeq_server.core.status import Outcome
from driven_shard import TENANT, WORKER, DrivenShard
from key_limits import limit_keys


@pytest.fixture
def shard() -> DrivenShard:
    return DrivenShard(backoff_base_seconds=1)


def create(
    shard: DrivenShard, concurrency: str = "", *, rate: str = "", order: str = "", delay: int = 0, **fields: Any
) -> str:
    of = TaskKeys(concurrency, rate, order)
    kept = Task(concurrency_key=concurrency or None, rate_key=rate or None, ordering_key=order or None)
    now = shard.now
    due = now.wall_ms + delay if delay else 0
    task = NewTask("a", b"1", due_ms=due, kept=kept.SerializeToString(), keys=of if any(of) else None, **fields)
    made = names.create(shard.shard, TENANT, task, now)
    assert isinstance(made, names.Created)
    return made.task_id


def limit(shard: DrivenShard, concurrency: int = 0, **fields: Any) -> None:
    limit_keys(shard.shard, TENANT, "a", KeyPolicy(concurrency, **fields), shard.now)


def wait_of(shard: DrivenShard, task_id: str) -> KeyWait | None:
    return key_wait(shard.shard, TENANT, task_id, shard.now)


# -- concurrency -----------------------------------------------------------------------------------------------------


def test_claim_takes_no_more_tasks_of_a_key_than_its_limit_and_skips_to_others(shard: DrivenShard) -> None:
    limit(shard, 2)
    of_key = [create(shard, "k") for _ in range(4)]
    other = create(shard, "l")
    plain = create(shard)
    assert shard.claim_ids(9) == [*of_key[:2], other, plain]
    assert shard.claim_ids(9) == []
    assert [shard.status(task) for task in of_key] == ["CLAIMED", "CLAIMED", "PENDING", "PENDING"]
    assert shard.queue().ready == 2
    shard.write()


def test_slot_that_becomes_free_goes_to_the_first_task_that_waits(shard: DrivenShard) -> None:
    limit(shard, 1)
    first, second, third = (create(shard, "k") for _ in range(3))
    assert shard.claim_ids(9) == [first]
    newcomer = create(shard, "k")
    shard.settle(first)
    newest = create(shard, "k")
    shard.write()
    for task in (second, third, newcomer, newest):
        assert shard.claim_ids(9) == [task]
        shard.settle(task)
        shard.write()
    assert not shard.keys(b"b")
    ring = shard.queue().ring
    assert ring is not None
    assert not ring.gates
    assert not ring.slots


@pytest.mark.parametrize("end", ["failed", "nack", "expiry", "cancel", "abandon with a delay"])
def test_every_end_of_a_delivery_frees_its_slot(shard: DrivenShard, end: str) -> None:
    limit(shard, 1)
    first, second = create(shard, "k"), create(shard, "k")
    assert shard.claim_ids(9, lease=1000) == [first]
    match end:
        case "failed":
            shard.settle(first, Outcome.FAILED, error="x")
        case "nack":
            shard.nack(first, 5000)
        case "expiry":
            shard.pass_time(1000)
        case "cancel":
            withdrawal.cancel(shard.shard, TENANT, first, "", shard.now)
        case _:
            shard.settle(first, Outcome.ABANDON, delay=5000)
    shard.write()
    assert shard.claim_ids(9) == [second]


def test_returned_task_keeps_its_slot(shard: DrivenShard) -> None:
    limit(shard, 1)
    first, second = create(shard, "k"), create(shard, "k")
    assert shard.claim_ids(9) == [first]
    shard.give_back(first)
    shard.write()
    assert shard.claim_ids(9) == [first]
    shard.give_back(first)
    withdrawal.cancel(shard.shard, TENANT, first, "", shard.now)
    assert shard.claim_ids(9) == [second]


def test_lowered_limit_admits_none_until_drained_and_a_raised_one_lets_tasks_through(shard: DrivenShard) -> None:
    limit(shard, 3)
    tasks = [create(shard, "k") for _ in range(8)]
    assert shard.claim_ids(9) == tasks[:3]
    limit(shard, 1)
    shard.settle(tasks[0])
    shard.settle(tasks[1])
    shard.pass_time(0)
    assert shard.claim_ids(9) == []
    shard.settle(tasks[2])
    assert shard.claim_ids(9) == [tasks[3]]
    limit(shard, 3)
    shard.pass_time(0)
    assert shard.claim_ids(9) == tasks[4:6]
    limit_keys(shard.shard, TENANT, "a", None, shard.now)
    shard.pass_time(0)
    assert shard.claim_ids(9) == tasks[6:]
    shard.write()


def test_returned_tasks_beyond_a_lowered_limit_wait_again_at_the_front(shard: DrivenShard) -> None:
    limit(shard, 2)
    tasks = [create(shard, "k") for _ in range(3)]
    assert shard.claim_ids(9) == tasks[:2]
    for task in tasks[:2]:
        shard.give_back(task)
    limit(shard, 1)
    assert shard.claim_ids(9) == [tasks[0]]
    shard.write()
    for before, after in ((0, 1), (1, 2)):
        shard.settle(tasks[before])
        assert shard.claim_ids(9) == [tasks[after]]


def test_slots_and_waiting_tasks_survive_a_restart(shard: DrivenShard) -> None:
    limit(shard, 2)
    tasks = [create(shard, "k") for _ in range(4)]
    assert shard.claim_ids(9) == tasks[:2]
    shard.give_back(tasks[1])
    shard.write()
    shard.reopen()
    limit(shard, 2)
    shard.pass_time(0)
    create(shard, "k")
    assert shard.claim_ids(9) == [tasks[1]]
    shard.settle(tasks[0])
    assert shard.claim_ids(9) == [tasks[2]]


def test_tasks_that_wait_for_their_key_are_cancelled_expired_purged_and_redriven(shard: DrivenShard) -> None:
    limit(shard, 1)
    running = create(shard, "k")
    cancelled = create(shard, "k")
    outdated = create(shard, "k", expire_ms=shard.now.wall_ms + 1000)
    purged = [create(shard, "k", priority=priority) for priority in (0, 0, 0)]
    assert shard.claim_ids(9) == [running]
    withdrawal.cancel(shard.shard, TENANT, cancelled, "", shard.now)
    shard.pass_time(1000)
    shard.write()
    assert (shard.status(cancelled), shard.status(outdated)) == ("CANCELLED", "FAILED")
    purging.purge(shard.shard, shard.queue(), shard.now)
    shard.write()
    shard.settle(running)
    shard.pass_time(0)
    shard.write()
    assert {shard.status(task) for task in purged} == {"CANCELLED"}
    assert not shard.keys(b"b")
    redrive.redrive_task(shard.shard, TENANT, cancelled, shard.now)
    redrive.redrive_task(shard.shard, TENANT, outdated, shard.now)
    assert shard.claim_ids(9) == [cancelled]
    shard.write()
    assert wait_of(shard, outdated) == KeyWait(keys.CONCURRENCY_GATE, "k", 1, 1, 1)


def test_busy_key_at_the_head_delays_others_by_a_bounded_number_of_tasks(
    shard: DrivenShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sifting, "SIFT_MAX", 10)
    limit(shard, 1)
    busy = [create(shard, "k") for _ in range(100)]
    other = create(shard, "l")
    assert shard.claim_ids(1) == [busy[0]]
    rows = len(shard.shard.batch.rows)
    assert shard.claim_ids(1) == []
    assert len(shard.shard.batch.rows) - rows <= 3 * 10 + 3
    assert shard.shard.take_effects() is not None
    assert timers.next_wake(shard.shard, shard.now) == 0
    shard.pass_time(0)
    effects = shard.shard.take_effects()
    assert effects is not None
    assert list(effects.woken) == [shard.queue()]
    assert shard.claim_ids(1) == [other]
    shard.write()


def test_newest_task_is_dropped_at_the_limit_if_the_policy_says_so(shard: DrivenShard) -> None:
    limit(shard, 1, at_limit=AtLimit.DROP_NEWEST)
    first, second = create(shard, "k"), create(shard, "k", order="o")
    assert shard.claim_ids(9) == [first]
    assert shard.status(second) == "CANCELLED"
    assert shard.view(second).error == "KEY_AT_LIMIT"
    shard.write()
    assert not shard.keys(b"b")


def test_running_task_is_cancelled_for_a_later_one_if_the_policy_says_so(shard: DrivenShard) -> None:
    limit(shard, 1, at_limit=AtLimit.CANCEL_RUNNING)
    first, second, third = (create(shard, "k") for _ in range(3))
    for task, previous in ((first, None), (second, first), (third, second)):
        assert shard.claim_ids(9) == [task]
        shard.pass_time(0)
        shard.write()
        if previous is not None:
            assert (shard.status(previous), shard.view(previous).error) == ("CANCELLED", "REPLACED")
    shard.settle(third)
    assert shard.claim_ids(9) == []


def test_cancellation_that_makes_room_may_return_a_task_ahead_of_the_one_it_is_for(shard: DrivenShard) -> None:
    limit(shard, 1, at_limit=AtLimit.CANCEL_RUNNING)
    running, follower = create(shard, "k", order="o"), create(shard, order="o")
    head, later = create(shard, order="p"), create(shard, "k", order="p")
    assert shard.claim_ids(9) == [running, head]
    shard.settle(head)
    assert shard.claim_ids(9) == [follower, later]
    assert shard.status(running) == "CANCELLED"
    assert shard.claim_ids(9) == []
    shard.write()


def test_queue_without_keys_has_none_in_memory(shard: DrivenShard) -> None:
    limit(shard, 1)
    shard.create()
    shard.claim(1)
    assert shard.queue().ring is None


def test_claim_that_met_keys_still_reports_counted_tasks_without_rows(shard: DrivenShard) -> None:
    limit(shard, 1)
    first, _ = create(shard, "k"), create(shard, "k")
    assert shard.claim_ids(1) == [first]
    shard.create("b")
    shard.write()
    shard.store.write({shard.keys(b"t")[-1]: None})
    shard.reopen()
    with pytest.raises(CorruptRows, match="counts ready tasks"):
        shard.claim(9)


# -- order -----------------------------------------------------------------------------------------------------------


def test_tasks_of_an_ordering_key_run_one_at_a_time_in_the_order_of_acceptance(shard: DrivenShard) -> None:
    delayed = create(shard, order="o", delay=1000)
    low = create(shard, order="o")
    high = create(shard, order="o", priority=9)
    other = create(shard, order="p")
    assert shard.claim_ids(9) == [other]
    shard.pass_time(1000)
    for task in (delayed, low, high):
        shard.write()
        assert shard.claim_ids(9) == [task]
        assert shard.claim_ids(9) == []
        shard.settle(task)
    shard.write()
    shard.settle(other)
    shard.write()
    assert not shard.keys(b"b")


def test_retry_keeps_its_turn(shard: DrivenShard) -> None:
    first, second = create(shard, order="o"), create(shard, order="o")
    assert shard.claim_ids(9, lease=1000) == [first]
    shard.nack(first, 3000)
    assert shard.claim_ids(9) == []
    shard.pass_time(3000)
    shard.write()
    shard.reopen()
    assert shard.claim_ids(9, lease=1000) == [first]
    shard.pass_time(1000)
    assert shard.claim_ids(9) == [first]
    shard.settle(first, Outcome.ABANDON)
    assert shard.claim_ids(9) == [first]
    shard.settle(first)
    assert shard.claim_ids(9) == [second]


def test_tasks_that_end_while_they_wait_for_their_turn_leave_the_line(shard: DrivenShard) -> None:
    tasks = [create(shard, order="o") for _ in range(40)]
    assert shard.claim_ids(9) == tasks[:1]
    shard.write()
    for task in tasks[1:39]:
        withdrawal.cancel(shard.shard, TENANT, task, "", shard.now)
    assert wait_of(shard, tasks[39]) == KeyWait(keys.ORDERING_GATE, "o", 1, 1, 39)
    shard.settle(tasks[0])
    assert shard.claim_ids(9) == [tasks[39]]
    shard.write()


def test_redriven_task_goes_to_the_end_of_the_line(shard: DrivenShard) -> None:
    first, second = create(shard, order="o"), create(shard, order="o")
    assert shard.claim_ids(9) == [first]
    shard.settle(first, Outcome.FAILED, error="x")
    redrive.redrive_task(shard.shard, TENANT, first, shard.now)
    shard.write()
    for task in (second, first):
        assert shard.claim_ids(9) == [task]
        shard.settle(task)
    shard.write()
    assert not shard.keys(b"b")


def test_task_waits_for_its_turn_and_then_for_its_concurrency_key(shard: DrivenShard) -> None:
    limit(shard, 1)
    holder = create(shard, "k")
    first, second = create(shard, "k", order="o"), create(shard, "k", order="o")
    assert shard.claim_ids(9) == [holder]
    assert wait_of(shard, first) == KeyWait(keys.CONCURRENCY_GATE, "k", 1, 1, 1)
    assert wait_of(shard, second) == KeyWait(keys.ORDERING_GATE, "o", 1, 0, 1)
    for before, after in ((holder, first), (first, second)):
        shard.settle(before)
        shard.write()
        assert shard.claim_ids(9) == [after]


# -- rate ------------------------------------------------------------------------------------------------------------


def test_rate_key_delivers_a_burst_and_then_at_its_rate(shard: DrivenShard) -> None:
    limit(shard, rate_per_key_per_second=2, rate_burst=3)
    tasks = [create(shard, rate="r") for _ in range(6)]
    other = create(shard, rate="s")
    assert shard.claim_ids(9) == [*tasks[:3], other]
    assert timers.next_wake(shard.shard, shard.now) == 500
    shard.pass_time(499)
    assert shard.claim_ids(9) == []
    shard.pass_time(1)
    assert shard.claim_ids(9) == [tasks[3]]
    wait = wait_of(shard, tasks[4])
    assert wait == KeyWait(keys.RATE_GATE, "r", 2, 0, 1)
    shard.write()
    shard.pass_time(1000)
    assert shard.claim_ids(9) == tasks[4:]
    shard.write()
    assert not shard.keys(b"b")


def test_rate_of_a_queue_holds_for_all_its_tasks_and_wakes_workers_in_time(shard: DrivenShard) -> None:
    limit(shard, rate_per_second=10, rate_burst=2)
    tasks = [shard.create() for _ in range(4)]
    assert shard.claim_ids(9) == tasks[:2]
    assert shard.claim_ids(9) == []
    shard.shard.take_effects()
    shard.pass_time(99)
    assert shard.shard.take_effects() is None
    shard.pass_time(1)
    effects = shard.shard.take_effects()
    assert effects is not None
    assert list(effects.woken) == [shard.queue()]
    assert shard.claim_ids(9) == [tasks[2]]
    shard.pass_time(100)
    assert shard.claim_ids(9) == [tasks[3]]
    shard.write()


def test_task_let_through_at_its_rate_that_is_cancelled_gives_its_token_back(shard: DrivenShard) -> None:
    limit(shard, rate_per_key_per_second=1, rate_burst=1)
    tasks = [create(shard, rate="r") for _ in range(3)]
    assert shard.claim_ids(9) == [tasks[0]]
    shard.pass_time(1000)
    withdrawal.cancel(shard.shard, TENANT, tasks[1], "", shard.now)
    shard.pass_time(0)
    assert shard.claim_ids(9) == [tasks[2]]
    shard.write()


# -- keys parked by workers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rate", "concurrency"])
def test_worker_parks_a_key_and_its_task_keeps_attempts_and_place(shard: DrivenShard, kind: str) -> None:
    of = {"rate": "k"} if kind == "rate" else {"concurrency": "k"}
    tasks = [create(shard, **of) for _ in range(3)]
    other = create(shard, "l")
    assert shard.claim_ids(1) == tasks[:1]
    assert park(shard, tasks[0], 5000) == 5000
    assert shard.claim_ids(9) == [other]
    shard.write()
    shard.pass_time(1000)
    wait = wait_of(shard, tasks[1])
    assert wait is not None
    assert (wait.limit, wait.parked_ms) == (0, 4000)
    assert shard.view(tasks[0]).attempts == 0
    shard.pass_time(3999)
    assert shard.claim_ids(9) == []
    shard.pass_time(1)
    assert shard.claim_ids(9) == tasks
    shard.write()


def test_task_without_a_key_that_parks_it_waits_alone(shard: DrivenShard) -> None:
    first, second = shard.create(), shard.create()
    assert shard.claim_ids(1) == [first]
    park(shard, first, 5000)
    assert shard.claim_ids(9) == [second]
    shard.pass_time(5000)
    assert shard.claim_ids(9) == [first]


def park(shard: DrivenShard, task_id: str, delay: int) -> int:
    """Parks the key of a leased task; returns the delay in the verdict."""
    verdict = settle(
        shard.shard, WORKER, task_id, None, Outcome.ABANDON, None, "", delay, 0.5, shard.now, park_key=True
    )
    return verdict.delay_ms
