"""The sweep works in slices that are bounded by what they read, in whatever order tasks ended."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from codeq_server.core import names, timers
from codeq_server.core.new_task import Naming, NewTask
from codeq_server.core.redrive import cleanup
from codeq_server.storage.memory import MemoryStore
from driven_shard import TENANT, DrivenShard

RETENTION_MS = 10_000
TASKS = 1200
READS_MOST = timers.SWEEP_READS + 2 * timers.SCAN_READS
"""Reads of one slice: its last run may go beyond the budget."""


class CountedStore(MemoryStore):
    """Counts what is read, by keys and by scans."""

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

    def end_all(self, order: Callable[[list[str]], list[str]], *, named: bool = False) -> list[str]:
        """Creates and claims many tasks, and ends those that `order` tells in this order, in one batch."""
        for number in range(TASKS):
            naming = Naming(f"n{number}") if named else None
            names.create(self.shard, TENANT, NewTask("a", b"1", 0, 0, 0, naming), self.now)
        ids = [f"n{number}" for number in range(TASKS)] if named else []
        while claimed := self.claim(256, lease=3_600_000):
            ids += [] if named else [str(delivered.task_id) for delivered in claimed]
        self.write()
        ended = order(ids)
        for task_id in ended:
            self.settle(task_id)
        self.write()
        return ended

    def slice(self) -> int:
        """Works a slice of the sweep; returns what it read."""
        self.counted.gets = self.counted.scans = 0
        timers.sweep(self.shard, self.now)
        return self.counted.gets + self.counted.scans * timers.SCAN_READS

    def pass_retention(self) -> None:
        self.wall, self.mono = self.wall + RETENTION_MS + 1, self.mono + RETENTION_MS + 1

    def swept(self) -> list[int]:
        """Sweeps to the end; returns what each slice read."""
        reads = []
        while self.shard.sweep_at is not None and self.shard.sweep_at <= self.now.wall_ms:
            reads.append(self.slice())
            self.write_unchecked()
        return reads


def every_other(ids: list[str]) -> list[str]:
    return ids[::2]


def every_third_run(ids: list[str]) -> list[str]:
    """Runs of twelve: long enough to be scanned."""
    return [task_id for number, task_id in enumerate(ids) if number // 12 % 2]


def shuffled_half(ids: list[str]) -> list[str]:
    return random.Random(7).sample(ids, len(ids) // 2)


@pytest.mark.parametrize("order", [every_other, every_third_run, shuffled_half])
def test_slice_of_the_sweep_reads_little_in_whatever_order_tasks_ended(
    order: Callable[[list[str]], list[str]],
) -> None:
    driven = CountedShard()
    ended = driven.end_all(order)
    driven.pass_retention()
    reads = driven.swept()
    assert len(reads) > 1
    assert max(reads) <= READS_MOST
    driven.write()
    assert driven.shard.totals.removed == len(ended)
    assert len(driven.keys(b"t")) == TASKS - len(ended)
    assert driven.keys(b"sr") == []


def test_slice_of_the_sweep_counts_what_named_tasks_make_it_read() -> None:
    driven = CountedShard()
    driven.end_all(every_other, named=True)
    driven.pass_retention()
    reads = driven.swept()
    # Of each such task home and name are read besides its state.
    assert max(reads) <= 2 * READS_MOST
    driven.write()
    assert len(driven.keys(b"i")) == TASKS // 2


def test_sweep_of_neighbours_reads_them_together() -> None:
    driven = CountedShard()
    driven.end_all(list)
    driven.pass_retention()
    assert len(driven.swept()) == 2  # lists, of up to 1024
    driven.write()
    assert driven.keys(b"tsr") == []


def test_sweep_that_a_restart_meets_within_a_list_removes_the_rest() -> None:
    driven = CountedShard()
    driven.end_all(every_other)
    driven.pass_retention()
    driven.slice()
    driven.write()
    assert driven.keys(b"r") != []
    driven.reopen()
    driven.swept()
    driven.write()
    assert len(driven.keys(b"t")) == TASKS // 2
    assert driven.keys(b"sr") == []


def test_sweep_of_a_list_that_a_cleanup_shortens_meanwhile_removes_the_rest() -> None:
    driven = CountedShard()
    driven.end_all(every_other)
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
