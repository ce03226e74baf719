"""Only folders that codeq created are emptied and removed, whatever is in their place."""

from __future__ import annotations

from pathlib import Path

import pytest
from codeq_server.storage.backup import back_up
from codeq_server.storage.errors import StoreNotWritable
from codeq_server.storage.rocks import RocksStore
from codeq_server.storage.scratch import MARK, drop_scratch, scratch_of, take_scratch


def test_scratch_folder_is_created_with_a_mark_and_emptied_on_reuse(tmp_path: Path) -> None:
    folder = scratch_of(tmp_path / "deep" / "store")
    take_scratch(folder)
    assert folder.parent == tmp_path / "deep"
    assert [path.name for path in folder.iterdir()] == [MARK]
    (folder / "snapshots" / "1").mkdir(parents=True)
    (folder / "file").touch()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (folder / "link").symlink_to(outside)
    take_scratch(folder)
    assert [path.name for path in folder.iterdir()] == [MARK]
    assert (outside / "kept").exists()
    drop_scratch(folder)
    assert not folder.exists()


def test_nonempty_scratch_folder_without_a_mark_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "folder" / "monday").mkdir(parents=True)
    with pytest.raises(StoreNotWritable, match="contains monday, which codeq did not create"):
        take_scratch(tmp_path / "folder")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["monday"]
    (tmp_path / "file").touch()
    with pytest.raises(StoreNotWritable, match="cannot be used"):
        take_scratch(tmp_path / "file")
    assert (tmp_path / "file").exists()


def test_half_removed_scratch_folder_can_be_used_again(tmp_path: Path) -> None:
    take_scratch(tmp_path / "folder")
    (tmp_path / "folder" / "1").mkdir()
    (tmp_path / "folder" / MARK).rename(tmp_path / "mark")
    with pytest.raises(StoreNotWritable):
        take_scratch(tmp_path / "folder")
    (tmp_path / "folder" / "1").rmdir()
    take_scratch(tmp_path / "folder")
    assert (tmp_path / "folder" / MARK).exists()


def test_backup_removes_only_the_remains_of_a_killed_backup(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "store", fsync=True)
    store.write({b"t": b"x"})
    for name in ("monday.partial", ".tuesday.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "of somebody").touch()
    take_scratch(tmp_path / ".monday.partial")
    (tmp_path / ".monday.partial" / "monday").mkdir()
    back_up(store, tmp_path / "monday", None)
    assert (tmp_path / "monday" / "CURRENT").exists()
    assert not (tmp_path / ".monday.partial").exists()
    assert (tmp_path / "monday.partial" / "of somebody").exists()
    with pytest.raises(StoreNotWritable, match="contains of somebody"):
        back_up(store, tmp_path / "tuesday", None)
    assert (tmp_path / ".tuesday.partial" / "of somebody").exists()
    store.close()
