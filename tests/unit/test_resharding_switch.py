"""Changes of the number of shards that crash, are refused, or meet odd folders: the stores stay whole."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys
from codeq_server.core.purging import purge
from codeq_server.storage.errors import (
    StoreDamaged,
    StoreError,
    StoreFailed,
    StoreFormat,
    StoreLocked,
    StoreNotWritable,
)
from codeq_server.storage.layout import shard_path, stored_shards
from codeq_server.storage.resharding.reshard import SPACE_BYTES, SPACE_FACTOR, reshard
from codeq_server.storage.rocks import RocksStore
from codeq_server.storage.store import LOG_PREFIX
from driven_shard import DrivenShard
from resharded_stores import (
    CONTENT,
    TASKS,
    Crash,
    before,
    beside,
    changed,
    contents,
    crash_at,
    filed_store,
    installation,
    shards_of,
    sound,
    waiting_store,
)
from stored_rows import to_disk

KEPT_STEPS = {"move": 1, "check": 1, "settle": 1, "switch": 1, "keep": 4, "clean": 4}
"""Number of shards in the folder of the store after a crash at each step."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of one shard with tasks that wait."""
    return waiting_store(tmp_path)


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
