"""Times and totals of queues for metrics: they are those of the tasks, and cost nothing unless somebody asks."""

from __future__ import annotations

import random

import pytest
from codeq.v1.task_pb2 import Task
from codeq_server.core.durations import BUCKETS, Durations, TaskTimes
from codeq_server.core.metering import totals_of
from codeq_server.core.redrive import redrive_task
from codeq_server.core.status import Outcome
from codeq_server.core.task_bytes import created_ms_of
from driven_shard import START_MS, TENANT, DrivenShard


@pytest.fixture
def shard() -> DrivenShard:
    return DrivenShard()


def metered(shard: DrivenShard) -> TaskTimes:
    """Has the queue of the command a count the times of its tasks."""
    shard.create()
    shard.claim(1)
    times = shard.queue().meter.times = TaskTimes()
    return times


def counted(durations: Durations) -> dict[int, int]:
    """Returns the buckets that are not empty."""
    return {bits: count for bits, count in enumerate(durations.buckets) if count}


# -- durations -----------------------------------------------------------------------------------------------------


def test_durations_fall_into_the_bucket_of_their_length() -> None:
    durations = Durations()
    for ticks in (-5, 0, 1, 2, 3, 4, 1 << 60):
        durations.note(ticks)
    assert counted(durations) == {0: 2, 1: 1, 2: 2, 3: 1, BUCKETS - 1: 1}
    assert durations.total == 10 + (1 << 60)
    assert durations.count == 7


# -- times of acceptance -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 127, 128, 20_000])
@pytest.mark.parametrize("priority", [0, 9])
@pytest.mark.parametrize("attempts", [1, 127, 128, 1000])
@pytest.mark.parametrize("command", ["a", "c" * 120, "c" * 200])
def test_time_of_acceptance_is_read_from_task_bytes(
    shard: DrivenShard, size: int, priority: int, attempts: int, command: str
) -> None:
    shard.wall += 123
    shard.create(command, size=size, priority=priority, attempts=attempts, expire=50_000, webhook="https://a.example/")
    (delivered,) = shard.claim(1)
    assert created_ms_of(delivered.raw) == START_MS + 123
    assert Task.FromString(delivered.raw).created_at.ToMilliseconds() == START_MS + 123


def test_time_of_acceptance_on_a_full_second_is_read(shard: DrivenShard) -> None:
    shard.create()
    assert created_ms_of(shard.claim(1)[0].raw) == START_MS


# -- waits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_waits_are_those_of_the_tasks_however_many_a_claim_takes(shard: DrivenShard, seed: int) -> None:
    chance = random.Random(seed)
    times, accepted, expected = metered(shard), list[int](), Durations()
    for _ in range(chance.randint(1, 60)):
        shard.create()
        accepted.append(shard.wall)
        shard.wall += chance.choice([0, 0, 1, 40, 3_000, 100_000])
    while accepted:
        taken = len(shard.claim(chance.randint(1, 30)))
        for at in accepted[:taken]:
            expected.note(shard.wall - at)
        del accepted[:taken]
        shard.wall += chance.choice([0, 500])
    assert times.waits.buckets == expected.buckets
    # The sum is exact for the first and the last task of a run, and estimated between them.
    assert expected.total / 2 <= times.waits.total <= expected.total * 2


def test_waits_are_counted_once_and_only_for_tasks_that_were_not_delayed(shard: DrivenShard) -> None:
    times = metered(shard)
    shard.create(delay=1_000)
    shard.pass_time(5_000)
    (delayed,) = shard.claim(1)
    assert times.waits.count == 0
    task_id = shard.create()
    assert shard.claim_ids(1) == [task_id]
    shard.nack(task_id)
    assert shard.claim_ids(1) == [task_id]
    shard.give_back(task_id)
    assert shard.claim_ids(1) == [task_id]
    assert times.waits.count == 1
    assert delayed.task_id != task_id


# -- latencies -----------------------------------------------------------------------------------------------------


def test_latency_lasts_from_acceptance_to_completion(shard: DrivenShard) -> None:
    times = metered(shard)
    task_id = shard.create()
    shard.wall += 1_000
    shard.claim(1)
    shard.wall += 2_000
    shard.settle(task_id)
    assert counted(times.latencies) == {(3_000).bit_length(): 1}
    assert times.latencies.total == 3_000


def test_latency_of_a_task_that_was_retried_or_delayed_counts_from_its_acceptance(shard: DrivenShard) -> None:
    times = metered(shard)
    retried, fresh = shard.create(), ""
    shard.claim(1)
    shard.wall += 10_000
    shard.nack(retried)
    fresh = shard.create()
    assert sorted(shard.claim_ids(2)) == sorted([retried, fresh])
    shard.settle(retried)
    shard.settle(fresh)
    assert times.latencies.total == 10_000
    shard.create(delay=1_000)
    shard.pass_time(1_000)
    (delayed,) = shard.claim_ids(1)
    shard.settle(delayed)
    assert times.latencies.total == 11_000


def test_only_completions_have_a_latency(shard: DrivenShard) -> None:
    times = metered(shard)
    for outcome in (Outcome.FAILED, Outcome.ABANDON, Outcome.NACK):
        shard.create()
        (task_id,) = shard.claim_ids(1)
        shard.settle(task_id, outcome)
        shard.pass_time(1)
    assert times.latencies.count == 0


def test_queue_without_histograms_notes_no_times(shard: DrivenShard) -> None:
    first, second = shard.create(), shard.create()
    shard.claim(1)
    claim = shard.shard.deliveries[first].claim
    assert claim.born is None
    times = shard.queue().meter.times = TaskTimes()
    shard.settle(first)
    assert times.latencies.count == 0
    shard.claim(1)
    shard.settle(second)
    assert times.latencies.count == 1


def test_new_queue_takes_the_histograms_of_the_shard(shard: DrivenShard) -> None:
    shard.shard.times = TaskTimes()
    shard.create("new")
    shard.claim(1)
    assert shard.shard.times.waits.count == 1


# -- totals --------------------------------------------------------------------------------------------------------


def test_totals_count_creates_deliveries_ends_and_expired_leases(shard: DrivenShard) -> None:
    for outcome in (Outcome.COMPLETED, Outcome.FAILED):
        shard.create()
        (task_id,) = shard.claim_ids(1)
        shard.settle(task_id, outcome)
    shard.create(attempts=1)
    shard.claim(1, lease=1_000)
    shard.pass_time(1_001)
    assert totals_of(shard.queue()) == (3, 3, 1, 1, 1, 0, 1)


def test_redriven_task_stays_in_the_totals(shard: DrivenShard) -> None:
    task_id = shard.create()
    shard.claim(1)
    shard.settle(task_id, Outcome.FAILED)
    before = totals_of(shard.queue())
    redrive_task(shard.shard, TENANT, task_id, shard.now)
    assert shard.queue().failed_total == 0
    assert totals_of(shard.queue()) == before


def test_restart_does_not_count_what_was_before_as_new(shard: DrivenShard) -> None:
    shard.complete_one()
    shard.write()
    shard.reopen()
    assert shard.queue().meter.seen == totals_of(shard.queue()) == (1, 1, 1, 0, 0, 0, 0)
