"""Resharding stores: steps that a crash interrupts, refusals, and what happens to rows that several shards have."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from codeq.v1.task_pb2 import Task
from codeq_internal.v1 import rows_pb2
from codeq_server.core import ids, keys, names, recovery, tenant_keys
from codeq_server.core.claims import CLAIM_MAX
from codeq_server.core.errors import Rejection
from codeq_server.core.new_task import Naming, NewTask, TaskKeys
from codeq_server.core.purging import purge
from codeq_server.core.reads import get_task
from codeq_server.core.shard import Shard, ShardSettings
from codeq_server.storage.artifacts import ArtifactFiles
from codeq_server.storage.check import check_store
from codeq_server.storage.errors import (
    StoreDamaged,
    StoreError,
    StoreFailed,
    StoreFormat,
    StoreLocked,
    StoreNotWritable,
)
from codeq_server.storage.identity import load_identity
from codeq_server.storage.layout import shard_path, stored_shards
from codeq_server.storage.moved import MOVED, Moved, moved_in, prepare_moved, write_moved
from codeq_server.storage.reading import open_stored
from codeq_server.storage.resharding.reshard import SPACE_BYTES, SPACE_FACTOR, Resharded, reshard
from codeq_server.storage.resharding.sources import interleaved
from codeq_server.storage.resharding.targets import Lease
from codeq_server.storage.rocks import RocksStore
from codeq_server.storage.store import LOG_PREFIX
from driven_shard import START_MS, TENANT, DrivenShard
from stored_rows import to_disk, to_memory

TASKS = 60
CONTENT = b"content of an artifact"
FILED_HOME = keys.home_of(keys.place_key(keys.lane_prefix(keys.STATES, 1, 9), 1))
"""Home of the first task of a new store."""
KEPT_STEPS = {"move": 1, "check": 1, "settle": 1, "switch": 1, "keep": 4, "clean": 4}
"""Number of shards in the folder of the store after a crash at each step."""


class Crash(BaseException):
    """The process ends here: nothing is cleaned up."""


def crash_at(name: str) -> Callable[[str], None]:
    def step(reached: str) -> None:
        if reached == name:
            raise Crash

    return step


def changed(path: Path, to: int, **options: object) -> Resharded:
    return reshard(path, to, free_bytes=lambda _: 1 << 40, **options)  # type: ignore[arg-type]


def beside(path: Path) -> list[str]:
    """Returns the names in the folder that holds a store."""
    return sorted(each.name for each in path.parent.iterdir())


def sound(path: Path) -> int:
    """Checks every store in a folder; returns the number of tasks that wait."""
    shards = stored_shards(path)
    stores = [path] if shards == 1 else [shard_path(path, shard) for shard in range(shards)]
    waiting = 0
    for store in stores:
        differences, summary = check_store(store)
        assert [str(each) for each in differences] == []
        waiting += summary.pending
    return waiting


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of one shard with tasks that wait."""
    return waiting_store(tmp_path)


def waiting_store(folder: Path) -> Path:
    """Creates a store of one shard with tasks that wait."""
    shard = DrivenShard()
    for number in range(TASKS):
        shard.create(priority=number % 2)
    shard.write()
    to_disk(shard.store, folder / "store")
    return folder / "store"


def filed_store(folder: Path) -> tuple[Path, Path]:
    """Creates a store of one shard with a task whose result has an artifact; returns its folder and that of files."""
    shard = DrivenShard()
    task_id = shard.create()
    shard.claim()
    shard.settle(task_id, artifacts=[rows_pb2.ArtifactRow(name="a", size=len(CONTENT), file=b"f" * 16)])
    shard.write()
    path, artifacts = folder / "store", folder / "artifacts"
    to_disk(shard.store, path)
    own = bytes.fromhex(installation(artifacts, path).name)
    files = ArtifactFiles(artifacts, own, fsync=False, reserve_bytes=0)
    files.write(FILED_HOME, [(b"f" * 16, CONTENT)])
    files.close()
    return path, artifacts


def installation(artifacts: Path, store: Path) -> Path:
    """Returns the folder of a store's artifacts."""
    with open_stored(store) as stored:
        identity = load_identity(stored)
    assert identity is not None
    return artifacts / identity.cluster_id.hex()


def contents(artifacts: Path, stores: list[Path]) -> list[bytes]:
    """Returns the artifacts of several stores."""
    folders = [installation(artifacts, store) for store in stores]
    return [file.read_bytes() for folder in folders for file in folder.rglob("*") if file.is_file()]


def shards_of(path: Path) -> list[Path]:
    """Returns the stores in a folder of several shards."""
    return [shard_path(path, shard) for shard in range(stored_shards(path))]


def before(path: Path) -> list[Path]:
    """Returns the stores that were replaced."""
    return list(path.parent.glob(f"{path.name}.before-*"))


# -- crashes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", KEPT_STEPS)
def test_crash_at_any_step_leaves_whole_stores_under_the_name(store: Path, step: str) -> None:
    with pytest.raises(Crash):
        changed(store, 4, step=crash_at(step))
    assert stored_shards(store) == KEPT_STEPS[step]
    assert sound(store) == TASKS
    staging = store.with_name("store.resharding")
    if step in ("switch", "keep"):
        other = 5 - KEPT_STEPS[step]
        with pytest.raises(StoreNotWritable, match=f"numShards {KEPT_STEPS[step]}; .* numShards {other}"):
            changed(store, KEPT_STEPS[step], expected=9)  # whatever is asked for
        assert sound(staging / "new") == TASKS
        (staging / "new").rename(store.with_name("kept"))
    done = changed(store, 2)
    assert (done.shards_before, sound(store)) == (KEPT_STEPS[step], TASKS)
    assert not staging.exists()
    assert sound(Path(done.before)) == TASKS


def test_new_stores_with_contradictions_never_replace_the_old_ones(store: Path) -> None:
    def spoil(reached: str) -> None:
        if reached == "check":
            opened = RocksStore(store.with_name("store.resharding") / "new" / "shard1", fsync=False)
            opened.write({b"?unknown": b"1"})
            opened.close()

    with pytest.raises(StoreDamaged, match=r"the new store .*shard1 has 1 differences"):
        changed(store, 2, step=spoil)
    assert (stored_shards(store), sound(store)) == (1, TASKS)
    assert beside(store) == ["store"]


@pytest.mark.parametrize("syncs", [0, 1, 2, 3])
def test_failed_sync_after_the_switch_removes_neither_old_stores_nor_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syncs: int
) -> None:
    path, artifacts = filed_store(tmp_path)
    left = [syncs]

    def failing(folder: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder))

    def switch(reached: str) -> None:
        if reached == "switch":
            monkeypatch.setattr("codeq_server.storage.resharding.reshard.sync_directory", failing)

    with pytest.raises(StoreFailed, match=r"holds the new stores, and .* those from before; but"):
        changed(path, 2, artifacts=artifacts, step=switch)
    monkeypatch.undo()
    old = next(each for each in [path.with_name("store.resharding") / "new", *before(path)] if each.exists())
    assert (stored_shards(path), stored_shards(old)) == (2, 1)
    assert contents(artifacts, shards_of(path)) == [CONTENT]
    assert contents(artifacts, [old]) == [CONTENT]


def test_interrupted_run_leaves_no_artifacts_once_the_next_one_has_ended(tmp_path: Path) -> None:
    path, artifacts = filed_store(tmp_path)
    with pytest.raises(Crash):
        changed(path, 2, artifacts=artifacts, step=crash_at("check"))
    assert len(list(artifacts.iterdir())) > 1
    changed(path, 3, artifacts=artifacts)
    used = [folder for each in (*shards_of(path), *before(path)) if (folder := installation(artifacts, each)).exists()]
    assert sorted(artifacts.iterdir()) == sorted(used)


def test_switch_that_is_refused_leaves_no_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, artifacts = filed_store(tmp_path)

    def refused(one: Path, _: Path) -> None:
        raise StoreNotWritable(f"the folder {one} cannot be replaced")

    monkeypatch.setattr("codeq_server.storage.resharding.reshard.exchange", refused)
    with pytest.raises(StoreNotWritable, match="cannot be replaced"):
        changed(path, 2, artifacts=artifacts)
    assert list(artifacts.iterdir()) == [installation(artifacts, path)]
    assert beside(path) == ["artifacts", "store"]


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "expected", "message"),
    [(1, 0, "--to is 1, which is numShards of"), (33, 0, "must be 1 to 32"), (2, 3, "--from is 3, but numShards of")],
)
def test_numbers_that_make_no_sense_are_rejected_by_name(store: Path, to: int, expected: int, message: str) -> None:
    with pytest.raises(StoreFormat, match=message):
        changed(store, to, expected=expected)
    assert beside(store) == ["store"]


def test_missing_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match=f"there is no store at {tmp_path / 'none'}"):
        changed(tmp_path / "none", 2)


@pytest.mark.parametrize("shards", [1, 2])
def test_store_in_use_is_rejected(store: Path, shards: int) -> None:
    if shards > 1:
        changed(store, shards)
    opened = shard_path(store, 1) if shards > 1 else store
    code = (
        "import sys; from pathlib import Path; from codeq_server.storage.rocks import RocksStore\n"
        "store = RocksStore(Path(sys.argv[1]), fsync=False); print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(opened)]  # in a process of its own: locks are those of a process
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(StoreLocked, match="in use by another server"):
            changed(store, 3)
        holder.communicate()
    assert changed(store, 3).shards == 3


def test_store_of_a_member_of_a_cluster_is_rejected_with_the_way_out(store: Path) -> None:
    opened = RocksStore(store, fsync=False, log=True)
    opened.write({LOG_PREFIX + b"node": b"1"})
    opened.close()
    with pytest.raises(StoreFormat, match=r"a member of a cluster.*leave the cluster"):
        changed(store, 2)


def test_store_of_a_node_of_a_static_cluster_is_rejected(store: Path) -> None:
    opened = RocksStore(store, fsync=False)
    row = rows_pb2.IdentityRow.FromString(opened.get(keys.IDENTITY) or b"")
    row.shard, row.num_shards = 1, 3
    opened.write({keys.IDENTITY: row.SerializeToString()})
    opened.close()
    with pytest.raises(StoreError, match="shard 1 of 3"):
        changed(store, 2)


def test_too_little_space_is_found_before_anything_is_written(store: Path) -> None:
    with pytest.raises(StoreNotWritable, match="has 1,000 bytes of free space, but resharding needs"):
        reshard(store, 2, free_bytes=lambda _: 1000)
    assert beside(store) == ["store"]


def test_space_for_a_multiple_of_the_stores_without_their_artifacts_is_enough(store: Path) -> None:
    artifact = store / "artifacts" / "of-a-task"
    artifact.parent.mkdir()
    artifact.write_bytes(bytes(1 << 20))
    size = sum(each.stat().st_size for each in store.rglob("*") if each.is_file() and each != artifact)
    needed = int(SPACE_FACTOR * size) + SPACE_BYTES
    with pytest.raises(StoreNotWritable, match=f"resharding needs {needed:,}"):
        reshard(store, 2, free_bytes=lambda _: needed - 1)
    reshard(store, 2, free_bytes=lambda _: needed)
    assert sound(store) == TASKS


def test_store_below_a_folder_called_like_that_of_artifacts_counts(tmp_path: Path) -> None:
    store = waiting_store(tmp_path / "artifacts")
    free = SPACE_BYTES + 100  # the files of the store are larger than this
    with pytest.raises(StoreNotWritable, match=f"has {free:,} bytes of free space"):
        reshard(store, 2, free_bytes=lambda _: free)


def test_folder_without_the_artifacts_of_a_store_is_rejected_with_the_way_out(tmp_path: Path) -> None:
    path, artifacts = filed_store(tmp_path)
    artifacts.rename(tmp_path / "elsewhere")
    with pytest.raises(StoreFailed, match=r"refers to artifacts in .* which is not there; name the folder"):
        changed(path, 2)
    assert beside(path) == ["elsewhere", "store"]


def test_artifact_whose_file_is_missing_is_counted(tmp_path: Path) -> None:
    path, artifacts = filed_store(tmp_path)
    [file] = [each for each in artifacts.rglob("*") if each.is_file()]
    file.unlink()
    assert changed(path, 2, artifacts=artifacts).artifacts_missing == 1


def test_damaged_store_is_not_resharded(store: Path) -> None:
    opened = RocksStore(store, fsync=False)
    opened.write({b"?unknown": b"1"})
    opened.close()
    with pytest.raises(StoreDamaged, match=r"the present store .* has 1 differences"):
        changed(store, 2)


def test_queue_that_is_being_purged_is_named(tmp_path: Path) -> None:
    shard = DrivenShard()
    shard.create()
    purge(shard.shard, shard.queue(), shard.now)
    shard.write()
    to_disk(shard.store, tmp_path / "store")
    with pytest.raises(StoreFormat, match="the queue a of acme is being purged"):
        changed(tmp_path / "store", 2)
    assert beside(tmp_path / "store") == ["store"]


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


# -- odd folders ---------------------------------------------------------------------------------------------------


def test_link_to_a_store_stays_and_leads_to_the_new_stores(tmp_path: Path) -> None:
    store = waiting_store(tmp_path / "disk")
    link = tmp_path / "link"
    link.symlink_to(store)
    done = changed(link, 2)
    assert link.is_symlink()
    assert (stored_shards(store), sound(link)) == (2, TASKS)
    assert Path(done.before).parent == store.parent
    assert sound(Path(done.before)) == TASKS


def test_asking_for_the_present_number_removes_what_an_interrupted_run_left(tmp_path: Path) -> None:
    path, artifacts = filed_store(tmp_path)
    with pytest.raises(Crash):
        changed(path, 2, artifacts=artifacts, step=crash_at("check"))
    with pytest.raises(StoreFormat, match="already"):
        changed(path, 1, artifacts=artifacts)
    assert beside(path) == ["artifacts", "store"]
    assert list(artifacts.iterdir()) == [installation(artifacts, path)]


def test_folder_of_artifacts_that_does_not_exist_is_rejected_first(store: Path) -> None:
    with pytest.raises(StoreFailed, match=r"--artifacts is .*, which is not a folder"):
        changed(store, 2, artifacts=store.with_name("none"))


def test_new_folders_of_artifacts_are_named_for_those_who_go_back(tmp_path: Path) -> None:
    path, artifacts = filed_store(tmp_path)
    done = changed(path, 2, artifacts=artifacts)
    assert done.artifacts == [str(installation(artifacts, each)) for each in shards_of(path)]


def test_full_disk_fails_a_merge_and_changes_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(store, 3)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreFailed, match="No space left on device"):
        changed(store, 2)
    monkeypatch.undo()
    assert not store.with_name("store.resharding").exists()
    assert (stored_shards(store), sound(store)) == (3, TASKS)
