"""The time index, compared with a plain list while the heads of the index are constantly trimmed."""

from __future__ import annotations

from collections import Counter

import pytest
from codeq_server.core import keys, model, recovery, time_index
from codeq_server.core.model import Queue
from codeq_server.core.shard import Shard, ShardSettings
from codeq_server.storage.memory import MemoryStore
from driven_shard import DrivenShard
from hypothesis import example, given, settings
from hypothesis import strategies as st

Entry = tuple[int, int, int]
"""Queue, time, position."""
NAMES = [("acme", "a"), ("acme", "b"), ("globex", "a")]


class Beside:
    """An index, and a list of what should be in it."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.now = 1000
        self.position = 0
        self.expected: set[Entry] = set()
        self.durable: list[tuple[set[Entry], int]] = []
        self.shard = Shard(self.store, ShardSettings(), 7)
        for name in NAMES:
            self.shard.open_queue(*name)
        self.put(0, 1)
        self.step("commit")

    def put(self, queue: int, after: int) -> None:
        self.position += 1
        at = self.shard.wall_ms + self.now + after
        self.shard.due.put(self.queue(queue), at, 15, self.position, b"v123")
        self.expected.add((queue, at, self.position))

    def queue(self, number: int) -> Queue:
        return self.shard.by_name[NAMES[number]]

    def step(self, name: str, choice: int = 0) -> None:
        match name:
            case "seal":
                self.shard.seal(self.shard.at(0, 0))
            case "settle" if self.shard.in_flight:
                batch = self.shard.in_flight[0]
                self.store.write(batch.rows)
                self.shard.settled(batch.lsn)
            case "commit":
                self.step("seal")
                while self.shard.in_flight:
                    self.step("settle")
            case "restart":
                self.step("commit")
                self.shard = recovery.open_shard(self.store, ShardSettings(), 8, 0, 0)
            case "remove" if self.expected:
                queue, at, position = sorted(self.expected)[choice % len(self.expected)]
                self.shard.due.remove(self.queue(queue), at, 15, position)
                self.expected.remove((queue, at, position))
            case "take":
                self.take(choice)
            case "later":
                self.now += choice

    def take(self, most: int) -> None:
        due = {entry for entry in self.expected if entry[1] <= self.now}
        while (taken := self.shard.due.take(self.now, 1 + most)) is not None:
            number = NAMES.index((taken[0].tenant, taken[0].command))
            found = [(number, *keys.split_time_key(entry)[1::2]) for entry in taken[1]]
            assert all(entry.endswith(b"v123") for entry in taken[1])
            assert found == sorted(entry for entry in due if entry[0] == number)[: len(found)]
            due.difference_update(found)
            self.expected.difference_update(found)
        assert not due

    def check(self) -> None:
        counts = Counter(queue for queue, _, _ in self.expected)
        assert [self.queue(number).scheduled for number in range(len(NAMES))] == [counts[n] for n in range(len(NAMES))]
        first = min((at for _, at, _ in self.expected), default=None)
        assert first is None or self.shard.due.alarms.first_ms <= first
        lines = [line for queue in self.shard.queues.values() for line in queue.timelines.values()]
        assert self.shard.due.entries == sum(len(line.heap) for line in lines)


STEPS = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 2), st.integers(1, 60)),
    st.tuples(st.just("put"), st.integers(0, 2), st.integers(1, 60)),
    st.tuples(st.just("put"), st.integers(0, 2), st.integers(1, 60)),
    st.tuples(st.sampled_from(["seal", "settle", "commit", "restart"]), st.just(0), st.just(0)),
    st.tuples(st.sampled_from(["remove", "take", "later"]), st.integers(0, 20), st.just(0)),
)


UNREAD_BETWEEN = [("put", 0, at) for at in (10, 20, 30)] + [("restart", 0, 0), ("take", 0, 0)]
"""Only the first entry is in memory. The next one comes after entries that are not, so the head is trimmed."""


@settings(max_examples=400)
@example([*UNREAD_BETWEEN, *[("put", 0, at) for at in range(31, 40)]])
@given(st.lists(STEPS, max_size=80))
def test_index_returns_every_entry_once_on_time_and_in_order(steps: list[tuple[str, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time_index, "HEAD_MAX", 6)
        patch.setattr(time_index, "PAGE", 3)
        patch.setattr(model, "FIRST_PAGE", 1)
        patch.setattr(time_index, "ENTRIES_MAX", 9)
        beside = Beside()
        for name, choice, after in steps:
            if name == "put":
                beside.put(choice, after)
            else:
                beside.step(name, choice)
            beside.check()
        beside.step("later", 100)
        beside.take(3)
        beside.step("commit")
        beside.check()
        assert beside.expected == set()
        assert beside.shard.due.alarms.first_ms == 1 << 62
        assert beside.store.scan(b"d", b"e", 10) == []


def test_heads_of_many_queues_stay_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_index, "HEAD_MAX", 32)
    monkeypatch.setattr(time_index, "ENTRIES_MAX", 100)
    driven = DrivenShard()
    tasks = {}
    for number in range(60):
        for command in range(20):
            tasks[driven.create(f"c{command}", delay=1000 + number)] = number
        driven.write_unchecked()
    assert driven.shard.due.entries <= 100
    driven.reopen()
    assert driven.shard.due.entries == 0
    driven.pass_time(999)
    assert driven.shard.due.entries <= 100
    driven.pass_time(100)
    for command in range(20):
        assert [tasks[task_id] for task_id in driven.claim_ids(100, [f"c{command}"])] == list(range(60))


def test_head_of_one_queue_is_trimmed_once_its_rows_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_index, "HEAD_MAX", 32)
    driven = DrivenShard()
    for number in range(50):
        driven.create(delay=1000 + number * 17 % 50)
    assert driven.shard.due.entries == 50, "rows in flight cannot be read again"
    driven.write()
    for _ in range(60):
        driven.create(delay=5000)
        driven.write_unchecked()
    assert driven.shard.due.entries <= 100


class Watched(MemoryStore):
    """Records where scans of the due index begin."""

    starts: list[bytes]

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        if start[:1] == b"d":
            self.starts.append(start)
        return super().scan(start, end, limit)


def test_reads_after_a_restart_begin_after_deleted_rows() -> None:
    """Reads need not skip the deleted rows of tasks that became due."""
    driven = DrivenShard()
    for number in range(20):
        driven.create(delay=100 if number < 10 else 101 + number)
    driven.write()
    (*_, last) = driven.keys(b"d")[:10]
    driven.pass_time(100)
    driven.write()
    watched = Watched()
    watched.starts = []
    watched.write(dict(driven.store.scan(b"", b"\xff", 1 << 30)))
    driven.store = watched
    driven.reopen()
    assert watched.starts == [], "opening must not read the index"
    driven.pass_time(50)
    assert driven.queue().scheduled == 0
    assert min(watched.starts) > last
