"""Claims: order within a queue, fairness among commands, limits, and windows smaller than their queues."""

from __future__ import annotations

from collections import Counter

import pytest
from codeq.v1.task_pb2 import Task
from codeq_server.core import claims, recovery, windows
from codeq_server.core.claims import claim
from codeq_server.core.errors import CorruptRows
from codeq_server.core.model import FIRST_PAGE, WINDOW_BYTES, WINDOW_ENTRY_BYTES, Caller
from codeq_server.core.status import Outcome
from driven_shard import WORKER, DrivenShard


@pytest.fixture
def shard() -> DrivenShard:
    return DrivenShard()


def commands_of(shard: DrivenShard, count: int, commands: list[str] | None) -> list[str]:
    return [Task.FromString(delivered.raw).command for delivered in shard.claim(count, commands)]


# -- order ---------------------------------------------------------------------------------------------------------


def test_claim_takes_priorities_from_9_to_0_and_tasks_of_one_priority_in_order(shard: DrivenShard) -> None:
    tasks = {(priority, n): shard.create(priority=priority) for n in range(3) for priority in range(10)}
    assert shard.claim_ids(30) == [tasks[priority, n] for priority in range(9, -1, -1) for n in range(3)]


def test_work_is_seen_in_every_lane_and_only_for_the_commands_asked_for(shard: DrivenShard) -> None:
    assert not claims.has_work(shard.shard, "acme", None)
    shard.create("a", priority=1)
    assert [claims.has_work(shard.shard, "acme", commands) for commands in (None, ["a"], ["b", "a"])] == [True] * 3
    assert not claims.has_work(shard.shard, "acme", ["b"])
    assert not claims.has_work(shard.shard, "other", None)
    shard.claim(1)
    assert not claims.has_work(shard.shard, "acme", None)
    assert not claims.has_work(shard.shard, "acme", ["a"])


def test_claim_takes_the_highest_priority_across_all_commands(shard: DrivenShard) -> None:
    low, high = shard.create("a", priority=1), shard.create("b", priority=2)
    assert shard.claim_ids(1, ["a", "b"]) == [high]
    assert shard.claim_ids(1, ["a", "b"]) == [low]


def test_claim_after_a_nack_finds_the_task_at_the_tail(shard: DrivenShard) -> None:
    first, second = shard.create(), shard.create()
    shard.claim(1)
    shard.nack(first)
    assert shard.claim_ids(2) == [second, first]


def test_claim_after_an_abandon_finds_the_task_at_its_old_place(shard: DrivenShard) -> None:
    tasks = [shard.create() for _ in range(4)]
    shard.claim(3)
    shard.settle(tasks[1], Outcome.ABANDON)
    shard.give_back(tasks[0])
    assert shard.claim_ids(4) == [tasks[0], tasks[1], tasks[3]]


def test_claim_after_an_abandon_of_a_nacked_task_finds_it_at_its_later_place(shard: DrivenShard) -> None:
    """A task keeps the place from which it was claimed, even after a restart."""
    first, second, third = shard.create(), shard.create(), shard.create()
    shard.claim(1)
    shard.nack(first)
    last = shard.create()
    assert shard.claim_ids(3) == [second, third, first]
    for _ in range(2):
        for task_id in (first, third):
            shard.settle(task_id, Outcome.ABANDON)
        shard.write()
        shard.reopen()
        assert shard.claim_ids(2) == [third, first]
    assert shard.claim_ids(3) == [last]


def test_claim_takes_nothing_from_other_tenants_and_commands(shard: DrivenShard) -> None:
    shard.create("a")
    assert claim(shard.shard, Caller("globex", "w", "w"), None, 1, 1, 1000, shard.now) is None
    assert shard.claim(1, ["b"]) == []
    assert shard.claim(1, []) == []


# -- several commands ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commands", [None, ["a", "b", "c"]])
def test_claim_of_several_tasks_shares_evenly_among_commands(shard: DrivenShard, commands: list[str] | None) -> None:
    for command in "aaaaaaaaabbbc":
        shard.create(command)
    assert Counter(commands_of(shard, 8, commands)) == {"a": 4, "b": 3, "c": 1}


@pytest.mark.parametrize("commands", [None, list("abcd")])
def test_claim_of_more_tasks_than_commands_leaves_no_command_out(
    shard: DrivenShard, commands: list[str] | None
) -> None:
    for command in "abcd" * 5:
        shard.create(command)
    assert sorted(Counter(commands_of(shard, 5, commands)).values()) == [1, 1, 1, 2]


@pytest.mark.parametrize("commands", [None, ["a", "b"]])
@pytest.mark.parametrize("others", [1, 3])
def test_single_task_claims_beside_other_workers_starve_no_command(
    shard: DrivenShard, commands: list[str] | None, others: int
) -> None:
    """Even if other workers claim in step with a worker, that worker's commands still take turns."""
    for command in "ab" * 30:
        shard.create(command)
    for _ in range(100):
        shard.create("c")
    got: Counter[str] = Counter()
    for _ in range(12):
        got.update(set(commands_of(shard, 1, commands)) & {"a", "b"})
        for _ in range(others):
            shard.claim(1, ["c"])
    assert min(got["a"], got["b"]) >= 4


def test_claim_from_many_commands_serves_each_in_turn(shard: DrivenShard) -> None:
    names = [f"c{number}" for number in range(50)]
    for name in names * 3:
        shard.create(name)
    first = [name for _ in range(5) for name in commands_of(shard, 10, None)]
    assert sorted(first) == sorted(names)


# -- limits --------------------------------------------------------------------------------------------------------


def test_claim_above_the_limit_returns_the_limit(shard: DrivenShard) -> None:
    for _ in range(300):
        shard.create()
    assert len(shard.claim_ids(1000)) == claims.CLAIM_MAX
    shard.write()


def test_claim_stops_at_the_requested_number_of_bytes(shard: DrivenShard) -> None:
    for _ in range(5):
        shard.create(size=1000)
    claimed = claim(shard.shard, WORKER, None, 5, 2500, 1000, shard.now)
    assert claimed is not None
    assert len(claimed[1]) == 3


def test_claim_returns_a_task_larger_than_the_requested_bytes_alone(shard: DrivenShard) -> None:
    shard.create("a", size=1000)
    shard.create("b", size=1000)
    claimed = claim(shard.shard, WORKER, None, 5, 1, 1000, shard.now)
    assert claimed is not None
    assert len(claimed[1]) == 1


# -- windows -------------------------------------------------------------------------------------------------------


def test_claim_after_a_restart_pages_through_the_queue_in_order(
    shard: DrivenShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "CLAIM_MAX", 4)
    monkeypatch.setattr(windows, "PAGE_MAX", 4)
    tasks = [shard.create() for _ in range(20)]
    shard.write()
    shard.reopen()
    later = [shard.create() for _ in range(3)]
    assert [task_id for _ in range(6) for task_id in shard.claim_ids(4)] == tasks + later


def test_claim_with_batches_in_flight_misses_no_task(shard: DrivenShard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing fits the window: written, sealed and unsealed places are all read back in order."""
    monkeypatch.setattr(claims, "CLAIM_MAX", 4)
    monkeypatch.setattr(windows, "PAGE_MAX", 4)
    shard = DrivenShard(window_bytes_max=1)
    tasks = [shard.create() for _ in range(5)]
    first = shard.seal()
    tasks += [shard.create() for _ in range(5)]
    shard.seal()
    tasks += [shard.create() for _ in range(5)]
    shard.store.write(first.rows)
    assert [task_id for _ in range(4) for task_id in shard.claim_ids(4)] == tasks


def test_windows_stay_within_their_budget(shard: DrivenShard) -> None:
    budget = 10 * WINDOW_BYTES + 20 * (WINDOW_ENTRY_BYTES + 1050)
    shard = DrivenShard(window_bytes_max=budget)
    for number in range(200):
        shard.create(f"c{number % 10}", size=1000)
    assert shard.shard.windows_bytes <= budget + WINDOW_ENTRY_BYTES + 1050
    shard.write()
    taken = [shard.claim_ids(1, [f"c{number % 10}"]) for number in range(200)]
    assert len({task_id for ids in taken for task_id in ids}) == 200
    assert shard.shard.windows_bytes == 0
    shard.write()


def test_windows_read_large_tasks_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is bounded in bytes: the largest payloads must not be read by the hundred."""
    monkeypatch.setattr(windows, "PAGE_BYTES_MAX", 20_000)
    shard = DrivenShard(window_bytes_max=1)
    tasks = [shard.create(size=5000) for _ in range(100)]
    shard.write()
    shard.reopen()
    claimed = []
    for _ in range(100):
        claimed += shard.claim_ids(1)
        assert shard.shard.windows_bytes <= FIRST_PAGE * 5400
    assert claimed == tasks


def test_windows_read_small_tasks_in_full_pages() -> None:
    shard = DrivenShard()
    for _ in range(600):
        shard.create()
    shard.write()
    shard.reopen()
    shard.claim(FIRST_PAGE + 1)
    assert len(shard.queue().lane(9).window) == claims.CLAIM_MAX - 1


def test_view_of_a_queue_reads_only_its_head() -> None:
    """Listing hundreds of queues must not read hundreds of pages."""
    shard = DrivenShard()
    tasks = [shard.create() for _ in range(300)]
    shard.write()
    shard.reopen()
    (view,) = shard.list_queues()
    assert [Task.FromString(raw).created_at.ToMilliseconds() for raw in view.heads] == [shard.wall]
    assert shard.shard.windows_bytes < WINDOW_BYTES + 2 * WINDOW_ENTRY_BYTES
    assert [i for _ in range(2) for i in shard.claim_ids(256)] == tasks


# -- contradictions ------------------------------------------------------------------------------------------------


def test_claim_reports_the_key_of_a_dangling_pointer(shard: DrivenShard) -> None:
    task_id = shard.create()
    shard.claim(1)
    shard.nack(task_id)
    shard.write()
    shard.store.write({shard.keys(b"t")[0]: None})
    shard.reopen()
    with pytest.raises(CorruptRows, match="no home"):
        shard.claim(1)


def test_claim_reports_counted_tasks_without_rows_as_corruption(shard: DrivenShard) -> None:
    shard.create()
    shard.write()
    shard.store.write({shard.keys(b"t")[0]: None})
    shard.reopen()
    with pytest.raises(CorruptRows, match="counts ready tasks"):
        shard.claim(1)


@pytest.mark.parametrize("table", [b"l", b"u"])
def test_opening_reports_a_row_that_names_a_missing_queue(shard: DrivenShard, table: bytes) -> None:
    tasks = [shard.create() for _ in range(2)]
    shard.claim(2)
    shard.give_back(tasks[0])
    shard.write()
    removed = [key for key in shard.keys(b"qlu") if key[:1] != table]
    shard.store.write(dict.fromkeys(removed))
    with pytest.raises(CorruptRows, match="queue"):
        recovery.open_shard(shard.store, shard.settings, 99, shard.wall, shard.mono)
