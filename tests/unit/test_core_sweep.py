"""The sweep works in slices with bounded reads, whatever the order in which tasks ended."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from codeq_server.core import keys, names, sweep
from codeq_server.core.new_task import Naming, NewTask
from codeq_server.core.outcomes import Outcome
from codeq_server.core.redrive import cleanup, redrive_task
from codeq_server.storage.memory import MemoryStore
from driven_shard import TENANT, DrivenShard

RETENTION_MS = 10_000
TASKS = 1200
READS_MOST = sweep.SWEEP_READS + 2 * sweep.SCAN_READS
"""Maximum number of reads in one slice; the last run of a slice may exceed the budget."""


class CountedStore(MemoryStore):
    """Counts the rows read, by key and by scan."""

    gets = scans = 0

    def get(self, key: bytes) -> bytes | None:
        self.gets += 1
        return super().get(key)

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        self.scans += 1
        return super().scan(start, end, limit)


class CountedShard(DrivenShard):
    def __init__(self) -> None:
        super().__init__(retention_ms=RETENTION_MS)
        self.store = self.counted = CountedStore()
        self.reopen()

    def end_all(
        self,
        order: Callable[[list[str]], list[str]],
        *,
        named: bool = False,
        outcome: Outcome = Outcome.COMPLETED,
    ) -> list[str]:
        """Creates and claims many tasks, and ends the tasks selected by `order`, in that order and in one batch."""
        for number in range(TASKS):
            naming = Naming(f"n{number}") if named else None
            names.create(self.shard, TENANT, NewTask("a", b"1", 0, 0, 0, naming), self.now)
        ids = [f"n{number}" for number in range(TASKS)] if named else []
        while claimed := self.claim(256, lease=3_600_000):
            ids += [] if named else [str(delivered.task_id) for delivered in claimed]
        self.write()
        ended = order(ids)
        for task_id in ended:
            self.settle(task_id, outcome)
        self.write()
        return ended

    def list_as_before(self) -> None:
        """Lists completed tasks as earlier servers did, in one list with all other ended tasks."""
        for key in self.keys(b"r"):
            until, lsn, number = keys.split_ended_key(key)
            plain = keys.ended_key(until, lsn, number & ~keys.ENDED_COMPLETED)
            self.store.write({key: None, plain: self.store.get(key)})

    def slice(self) -> int:
        """Runs a slice of the sweep; returns the number of reads."""
        self.counted.gets = self.counted.scans = 0
        sweep.sweep(self.shard, self.now)
        return self.counted.gets + self.counted.scans * sweep.SCAN_READS

    def pass_retention(self) -> None:
        self.wall, self.mono = self.wall + RETENTION_MS + 1, self.mono + RETENTION_MS + 1

    def swept(self) -> list[int]:
        """Sweeps to the end; returns the number of reads of each slice."""
        reads = []
        while self.shard.sweep_at is not None and self.shard.sweep_at <= self.now.wall_ms:
            reads.append(self.slice())
            self.write_unchecked()
        return reads


def every_other(ids: list[str]) -> list[str]:
    return ids[::2]


def every_third_run(ids: list[str]) -> list[str]:
    """Returns runs of twelve tasks, long enough to be scanned."""
    return [task_id for number, task_id in enumerate(ids) if number // 12 % 2]


def shuffled_half(ids: list[str]) -> list[str]:
    return random.Random(7).sample(ids, len(ids) // 2)


ORDERS = [every_other, every_third_run, shuffled_half]


@pytest.mark.parametrize("order", ORDERS)
def test_sweep_slice_reads_few_rows_whatever_the_order_of_task_ends(
    order: Callable[[list[str]], list[str]],
) -> None:
    driven = CountedShard()
    ended = driven.end_all(order, outcome=Outcome.FAILED)
    driven.pass_retention()
    reads = driven.swept()
    assert len(reads) > 1
    assert max(reads) <= READS_MOST
    driven.write()
    assert driven.shard.totals.removed == len(ended)
    assert len(driven.keys(b"t")) == TASKS - len(ended)
    assert driven.keys(b"sr") == []


@pytest.mark.parametrize("order", [*ORDERS, list])
def test_sweep_of_completed_tasks_reads_one_row_per_list(order: Callable[[list[str]], list[str]]) -> None:
    driven = CountedShard()
    ended = driven.end_all(order)
    lists = len(driven.keys(b"r"))
    driven.pass_retention()
    assert driven.swept() == [lists + sweep.SCAN_READS]  # and the lists themselves
    driven.write()
    assert driven.shard.totals.removed == driven.queue().removed_total == len(ended)
    assert len(driven.keys(b"t")) == TASKS - len(ended)
    assert driven.keys(b"sr") == []


def test_sweep_slice_removes_a_bounded_number_of_completed_tasks() -> None:
    driven = CountedShard()
    for _ in range(3):
        driven.end_all(list)
    driven.pass_retention()
    removed = 0
    while driven.keys(b"r"):
        sweep.sweep(driven.shard, driven.now)
        assert driven.shard.totals.removed - removed <= sweep.SWEEP_READS * sweep.REMOVED_PER_READ + 1024
        removed = driven.shard.totals.removed
        driven.write()
    assert removed == 3 * TASKS


def test_sweep_slice_processes_a_bounded_number_of_lists() -> None:
    driven = CountedShard()
    for _ in range(3 * sweep.LISTS_MAX):
        driven.complete_one()
        driven.write()
    driven.pass_retention()
    assert len(driven.swept()) == 3
    driven.write()
    assert driven.keys(b"tsr") == []


def test_sweep_removes_all_tasks_of_many_queues_completed_in_one_batch() -> None:
    driven = CountedShard()
    for number in range(100):
        driven.create("abc"[number % 3], priority=number % 2)
    for task_id in driven.claim_ids(100):
        driven.settle(task_id)
    driven.write()
    driven.pass_retention()
    driven.swept()
    driven.write()
    assert driven.keys(b"tsr") == []
    assert [driven.queue(command).removed_total for command in "abc"] == [34, 33, 33]


def test_sweep_of_completed_tasks_with_a_deadline_leaves_no_expiry_rows() -> None:
    driven = CountedShard()
    for _ in range(3):
        driven.create(expire=10 * RETENTION_MS)
    for task_id in driven.claim_ids(3):
        driven.settle(task_id)
    driven.write()
    driven.pass_retention()
    driven.swept()
    driven.write()
    assert driven.keys(b"tsre") == []


def test_sweep_removes_all_completed_tasks_listed_by_an_earlier_server() -> None:
    driven = CountedShard()
    ended = driven.end_all(every_other)
    driven.list_as_before()
    driven.reopen()
    driven.pass_retention()
    assert max(driven.swept()) <= READS_MOST
    driven.write()
    assert driven.shard.totals.removed == len(ended)
    assert driven.keys(b"sr") == []


@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.FAILED])
def test_sweep_of_a_list_with_a_redriven_task_keeps_that_task(outcome: Outcome) -> None:
    driven = CountedShard()
    first, second = driven.create(), driven.create()
    driven.claim(2)
    driven.settle(first, outcome)
    driven.settle(second, Outcome.FAILED)
    driven.write()
    redrive_task(driven.shard, TENANT, second, driven.now)
    driven.write()
    driven.pass_retention()
    driven.swept()
    driven.write()
    assert driven.status(second) == "PENDING"
    assert len(driven.keys(b"s")) == 1


def test_sweep_slice_counts_the_extra_reads_for_named_tasks() -> None:
    driven = CountedShard()
    driven.end_all(every_other, named=True)
    driven.pass_retention()
    reads = driven.swept()
    # Each named task costs two more reads: its home and its name.
    assert max(reads) <= 2 * READS_MOST
    driven.write()
    assert len(driven.keys(b"i")) == TASKS // 2


def test_sweep_slice_reads_a_bounded_number_of_named_neighbours() -> None:
    driven = CountedShard()
    driven.end_all(list, named=True)
    driven.pass_retention()
    reads = driven.swept()
    assert max(reads) <= READS_MOST + 2 * sweep.SCAN_MAX
    driven.write()
    assert driven.keys(b"tsri") == []


def test_sweep_counts_each_task_once_if_the_last_named_task_is_removed_midway() -> None:
    """While a queue has named tasks, the sweep reads every state row, and may stop in the middle of a list."""
    driven = CountedShard()
    ended = driven.end_all(every_other)
    naming = names.Naming("named")
    names.create(driven.shard, TENANT, names.NewTask("a", b"1", 0, 0, 0, naming), driven.now)
    driven.claim(1)
    driven.settle("named")
    driven.write()
    driven.pass_retention()
    driven.slice()
    driven.write()
    assert 0 < driven.queue().removed_total < len(ended)
    _, of_named = driven.keys(b"r")
    assert cleanup(driven.shard, of_named, TENANT, driven.wall, 0, 1).removed == 1
    driven.write()
    assert not driven.queue().named
    driven.swept()
    driven.write()
    assert driven.queue().removed_total == len(ended) + 1
    assert driven.keys(b"sr") == []


def test_sweep_reads_neighbouring_tasks_together() -> None:
    driven = CountedShard()
    driven.end_all(list, outcome=Outcome.FAILED)
    driven.pass_retention()
    (reads,) = driven.swept()
    assert reads == sweep.SCAN_READS * (1 + 1024 // sweep.SCAN_MAX + (TASKS - 1024) // sweep.SCAN_MAX + 1)
    driven.write()
    assert driven.keys(b"tsr") == []


@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.FAILED])
def test_sweep_interrupted_by_a_restart_within_a_list_removes_the_rest(outcome: Outcome) -> None:
    driven = CountedShard()
    driven.end_all(every_other, named=outcome is Outcome.COMPLETED, outcome=outcome)
    driven.pass_retention()
    driven.slice()
    driven.write()
    assert driven.keys(b"r") != []
    driven.reopen()
    driven.swept()
    driven.write()
    assert len(driven.keys(b"t")) == TASKS // 2
    assert driven.keys(b"sr") == []


def test_sweep_removes_the_rest_of_a_list_shortened_by_a_cleanup() -> None:
    driven = CountedShard()
    driven.end_all(every_other, outcome=Outcome.FAILED)
    driven.pass_retention()
    driven.slice()
    driven.write()
    (key,) = driven.keys(b"r")
    cleanup(driven.shard, key, TENANT, driven.wall, 0, 1000)
    cleanup(driven.shard, key, TENANT, driven.wall, 300, 1000)
    driven.write()
    driven.swept()
    driven.write()
    assert len(driven.keys(b"t")) == TASKS // 2
    assert driven.keys(b"sr") == []


@pytest.mark.parametrize("limit", [20, 1000])
def test_sweep_in_the_same_batch_as_a_cleanup_counts_each_task_once(limit: int) -> None:
    driven = CountedShard()
    ids = [driven.complete_one() for _ in range(50)]
    driven.write()
    (key,) = driven.keys(b"r")
    driven.pass_retention()
    cleanup(driven.shard, key, TENANT, driven.wall, 10, limit)
    driven.slice()
    driven.write()
    assert driven.queue().removed_total == len(ids)
    assert driven.keys(b"tsr") == []


def test_sweep_after_a_partial_cleanup_counts_each_completed_task_once() -> None:
    driven = CountedShard()
    ended = driven.end_all(every_other)
    (key,) = driven.keys(b"r")
    driven.pass_retention()
    assert cleanup(driven.shard, key, TENANT, driven.wall, 0, 30).removed == 30
    assert cleanup(driven.shard, key, TENANT, driven.wall, 300, 20).removed == 20
    driven.write()
    driven.swept()
    driven.write()
    assert driven.queue().removed_total == len(ended)
    assert driven.keys(b"sr") == []
