"""What a change of the number of shards moves, and where to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from codeq.v1.task_pb2 import Task
from codeq_internal.v1 import rows_pb2
from codeq_server.core import ids, keys, names, recovery, tenant_keys
from codeq_server.core.claims import CLAIM_MAX
from codeq_server.core.errors import Rejection
from codeq_server.core.new_task import Naming, NewTask, TaskKeys
from codeq_server.core.reads import get_task
from codeq_server.core.shard import Shard, ShardSettings
from codeq_server.storage.errors import (
    StoreDamaged,
    StoreError,
    StoreFailed,
)
from codeq_server.storage.layout import shard_path
from codeq_server.storage.moved import MOVED, Moved, moved_in, prepare_moved, write_moved
from codeq_server.storage.reading import open_stored
from codeq_server.storage.resharding.sources import interleaved
from codeq_server.storage.resharding.targets import Lease
from codeq_server.storage.rocks import RocksStore
from driven_shard import START_MS, TENANT, DrivenShard
from resharded_stores import (
    TASKS,
    changed,
    waiting_store,
)
from stored_rows import to_disk, to_memory


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of one shard with tasks that wait."""
    return waiting_store(tmp_path)


# -- what moves ----------------------------------------------------------------------------------------------------


def rows_of(path: Path, table: bytes) -> list[tuple[bytes, bytes]]:
    with open_stored(path) as stored:
        return list(stored.between(*keys.table_rows(table)))


def order_of(path: Path) -> list[bytes]:
    """Returns the payloads of all waiting tasks of one lane, in order."""
    return [keys.task_bytes(value) for _, value in rows_of(path, keys.TASKS)]


def test_waiting_tasks_of_merged_shards_keep_the_order_of_acceptance(tmp_path: Path) -> None:
    shard = DrivenShard()
    for _ in range(TASKS):
        shard.wall += 1
        shard.create()
    shard.write()
    path = tmp_path / "store"
    to_disk(shard.store, path)
    accepted = order_of(path)
    for to in (3, 2, 1):
        changed(path, to)
    assert order_of(path) == accepted


def test_ids_stay_as_they_are_without_a_row_where_the_number_is_multiplied(store: Path) -> None:
    changed(store, 2)
    done = changed(store, 6)
    assert [rows_of(shard_path(store, shard), keys.NAMES) for shard in range(6)] == [[]] * 6
    assert done.moved == 0
    for shard in range(6):
        for key, value in rows_of(shard_path(store, shard), keys.TASKS):
            queue, lane, position = keys.split_place_key(key)
            head = ids.id_head(queue, lane, position, keys.home_epoch(value))
            routes = [ids.make_id(head, position, f"{route:02x}") for route in range(256)]
            assert ids.shard_of(next(each for each in routes if ids.shard_of(each, 6) == shard), 6) == shard


def test_limits_policies_and_pauses_are_in_every_new_shard_and_totals_in_one(tmp_path: Path) -> None:
    shard = DrivenShard(retention_ms=1000)
    for _ in range(4):
        shard.complete_one()
    shard.write()
    shard.pass_time(5000)  # the sweep removes them
    shard.create()
    shard.shard.policies.put(TENANT, "a", rows_pb2.PolicyRow(max_consumers=3), shard.now.wall_ms)
    shard.shard.pause(shard.queue())
    shard.write()
    path = tmp_path / "store"
    to_disk(shard.store, path)
    changed(path, 4)
    queues = []
    for number in range(4):
        folder = shard_path(path, number)
        assert [key for key, _ in rows_of(folder, keys.TOPICS)] == [tenant_keys.topic_key(TENANT, "a")]
        queues += [rows_pb2.QueueRow.FromString(value) for _, value in rows_of(folder, keys.QUEUES)]
    assert [queue.paused for queue in queues] == [True] * 4
    assert sum(queue.created_total for queue in queues) == 5
    assert sum(queue.completed_total for queue in queues) == 4
    assert sum(queue.stored_bytes for queue in queues) == 2
    changed(path, 1)
    assert [value for _, value in rows_of(path, keys.TOPICS)]
    [merged] = [rows_pb2.QueueRow.FromString(value) for _, value in rows_of(path, keys.QUEUES)]
    assert (merged.created_total, merged.completed_total, merged.removed_total) == (5, 4, 4)


def test_positions_of_several_sources_never_meet_and_keep_their_side_of_the_mark() -> None:
    marks = (0, 5, 9)
    made = {
        (source, position): interleaved(position, mark, max(marks), len(marks), source)
        for source, mark in enumerate(marks)
        for position in range(1, 20)
    }
    assert len(set(made.values())) == len(made)
    for (source, position), new in made.items():
        assert (position <= marks[source]) == (new <= len(marks) * max(marks))
        assert new > 0
    with pytest.raises(StoreFailed, match="above the last"):
        interleaved(ids.POSITION_MAX // 2 + 1, ids.POSITION_MAX, ids.POSITION_MAX, 2, 0)


def test_leases_of_two_workers_with_one_token_get_two(tmp_path: Path) -> None:
    path = tmp_path / "store"
    shard = DrivenShard()
    for _ in range(TASKS):
        shard.create()
    shard.claim(TASKS // 2)
    shard.write()
    to_disk(shard.store, path)
    changed(path, 2)
    opened = RocksStore(shard_path(path, 1), fsync=False)
    [(key, value)] = rows_of(shard_path(path, 1), keys.LEASES)
    row = rows_pb2.LeaseRow.FromString(value)
    row.worker = "another"
    opened.write({key: row.SerializeToString()})
    opened.close()
    done = changed(path, 1)
    leases = rows_of(path, keys.LEASES)
    assert (len(leases), done.leases_renewed) == (2, len(row.homes))
    assert sum(len(rows_pb2.LeaseRow.FromString(each).homes) for _, each in leases) == TASKS // 2


def test_leases_with_one_token_are_joined_up_to_a_limit() -> None:
    def lease(count: int) -> Lease:
        return Lease(TENANT, rows_pb2.LeaseRow(worker="w", homes=range(count)), rows_pb2.ExtensionRow())

    whole = lease(CLAIM_MAX - 2)
    assert whole.join(lease(2))
    assert not whole.join(lease(1))
    assert len(whole.row.homes) == CLAIM_MAX


def test_ended_deliveries_of_a_claim_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "store"
    shard = DrivenShard()
    for _ in range(TASKS):
        shard.create()
    delivered = shard.claim_ids(TASKS)
    for task_id in delivered[::2]:
        shard.settle(task_id)
    shard.write()
    to_disk(shard.store, path)
    for to in (3, 2, 1):
        changed(path, to)
    [(_, value)] = rows_of(path, keys.LEASES)
    assert len(rows_pb2.LeaseRow.FromString(value).homes) == TASKS // 2


def opened(path: Path, route: ids.Route | None = None) -> Shard:
    """Opens the shard in a folder, without writing anything."""
    settings = ShardSettings(route=route)
    return recovery.open_shard(to_memory(path), settings, ids.EPOCH_MAX, START_MS, 1)


def test_task_is_found_by_its_id_after_shards_were_merged(tmp_path: Path) -> None:
    path = tmp_path / "store"
    shard = DrivenShard()
    made = [shard.create() for _ in range(TASKS)]
    parked = shard.create(delay=60_000)
    shard.claim(TASKS // 3)
    shard.write()
    to_disk(shard.store, path)
    for to in (3, 2, 1):
        changed(path, to)
    merged = opened(path)
    now = merged.at(START_MS, 1)
    assert get_task(merged, TENANT, parked, now).status.name == "SCHEDULED"
    found = [get_task(merged, TENANT, task_id, now) for task_id in made]
    assert [view.task_id for view in found] == made
    assert [view.status.name for view in found].count("CLAIMED") == TASKS // 3
    with pytest.raises(Rejection):
        get_task(merged, "another", made[0], now)


def test_request_with_a_key_finds_its_task_under_another_number_of_shards(tmp_path: Path) -> None:
    path = tmp_path / "store"
    shard = DrivenShard()
    naming = Naming(names.keyed_id(TENANT, "once"), b"d" * 16, b"m" * 16)
    kept = Task(ordering_key="o").SerializeToString()
    task = NewTask("a", b"1", 0, 0, 0, naming, 0, kept, keys=TaskKeys("", "", "o"))
    names.create(shard.shard, TENANT, task, shard.now)
    shard.write()
    to_disk(shard.store, path)
    numbers = 0
    for to in (4, 3, 5):
        changed(path, to)
        home = ids.shard_of(f"{TENANT}\na", to)
        route = ids.Route(home, to)
        now_named = replace(naming, task_id=names.keyed_id_in(route, TENANT, "once"))
        numbers += now_named.task_id != naming.task_id
        again = opened(shard_path(path, home), route)
        made = names.create(again, TENANT, replace(task, naming=now_named), again.at(START_MS, 1))
        assert made == names.Duplicate(naming.task_id)
    assert numbers, "choose a key whose id depends on the number of shards"


# -- tasks away from the shard of their ids ------------------------------------------------------------------------


def test_file_of_moved_tasks_finds_each_and_nothing_else(tmp_path: Path) -> None:
    moved = Moved()
    hashes = [ids.hash_of(f"task-{number}") for number in range(1000)]
    for number, hashed in enumerate(hashes):
        moved.add(hashed, number % 32)
    write_moved(tmp_path, moved)
    found = moved_in(tmp_path)
    assert found is not None
    assert [found.shard_of(hashed) for hashed in hashes] == [number % 32 for number in range(1000)]
    assert not [number for number in range(1000) if found.shard_of(ids.hash_of(f"other-{number}")) is not None]


def test_no_file_or_an_empty_one_means_that_no_task_moved(tmp_path: Path) -> None:
    assert moved_in(tmp_path) is None
    write_moved(tmp_path, Moved())
    assert moved_in(tmp_path) is None


def test_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / MOVED).write_bytes(b"codeqmv1and more")
    with pytest.raises(StoreDamaged, match="remove it"):
        moved_in(tmp_path)


def test_more_moved_tasks_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codeq_server.storage.moved.MOVED_MAX", 2)
    moved = Moved()
    moved.add(1, 0)
    moved.add(2, 0)
    with pytest.raises(StoreFailed, match="more than 2 tasks"):
        moved.add(3, 0)


def test_stores_that_were_never_resharded_are_read_once(tmp_path: Path) -> None:
    for shard in range(2):
        RocksStore(shard_path(tmp_path, shard), fsync=False).close()
    prepare_moved(tmp_path, 2)
    assert (tmp_path / MOVED).exists()
    assert moved_in(tmp_path) is None


def test_damaged_store_hides_moved_tasks_only_if_no_store_was_resharded(tmp_path: Path) -> None:
    path = tmp_path / "store"
    shard = DrivenShard()
    keyed_tasks(shard, 20)
    shard.write()
    to_disk(shard.store, path)
    changed(path, 2)
    (path / MOVED).unlink()
    (shard_path(path, 1) / "CURRENT").write_text("MANIFEST-999999\n")
    with pytest.raises(StoreError):
        prepare_moved(path, 2)
    assert not (path / MOVED).exists()
    never = tmp_path / "never"
    for number in range(2):
        RocksStore(shard_path(never, number), fsync=False).close()
    (shard_path(never, 1) / "CURRENT").write_text("MANIFEST-999999\n")
    prepare_moved(never, 2)
    assert not (never / MOVED).exists()


def test_file_that_is_missing_is_made_from_restored_stores(tmp_path: Path) -> None:
    path = tmp_path / "store"
    shard = DrivenShard()
    keyed_tasks(shard, 20)
    shard.write()
    to_disk(shard.store, path)
    done = changed(path, 4)
    assert done.moved > 0
    content = (path / MOVED).read_bytes()
    (path / MOVED).unlink()
    prepare_moved(path, 4)
    assert (path / MOVED).read_bytes() == content


def keyed_tasks(shard: DrivenShard, count: int) -> None:
    kept = Task(ordering_key="o").SerializeToString()
    task = NewTask("a", b"1", 0, 0, 0, None, 0, kept, keys=TaskKeys("", "", "o"))
    for _ in range(count):
        names.create(shard.shard, TENANT, task, shard.now)


def test_tasks_with_keys_stay_together_in_the_home_of_their_command(tmp_path: Path) -> None:
    path = tmp_path / "store"
    shard = DrivenShard()
    keyed_tasks(shard, 20)
    shard.write()
    to_disk(shard.store, path)
    for to in (3, 2, 5):
        changed(path, to)
        home = ids.shard_of(f"{TENANT}\na", to)
        assert [len(rows_of(shard_path(path, each), keys.TASKS)) for each in range(to)] == [
            20 if each == home else 0 for each in range(to)
        ]
