"""The artifact folder: it respects the disk reserve, is owned by one process, and ignores foreign files."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from codeq_server.storage.artifacts import ArtifactFiles
from codeq_server.storage.errors import StoreLocked, StoreNotWritable

INSTALLATION = b"i" * 16
HOME = bytes(range(11))
FILE, OTHER = b"f" * 16, b"o" * 16


@pytest.fixture
def files(tmp_path: Path) -> Iterator[ArtifactFiles]:
    made = ArtifactFiles(tmp_path / "a" / "b", INSTALLATION, fsync=True, reserve_bytes=0)
    yield made
    made.close()


def test_written_files_can_be_read_walked_and_removed(files: ArtifactFiles) -> None:
    files.write(HOME, [(FILE, b"content"), (OTHER, b"")])
    assert files.read(HOME, FILE, 7) == b"content"
    assert files.read(HOME, FILE, 3) == b"cont"
    assert sorted(files.walk()) == [(HOME, FILE), (HOME, OTHER)]
    files.remove([(HOME, FILE)])
    assert list(files.walk()) == [(HOME, OTHER)]
    files.remove([(HOME, FILE), (HOME, OTHER), (b"x" * 11, FILE)])
    assert list(files.path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        files.read(HOME, FILE, 7)


def test_artifact_folder_is_created_with_the_first_file(tmp_path: Path) -> None:
    files = ArtifactFiles(tmp_path / "a" / "b", INSTALLATION, fsync=True, reserve_bytes=0, at_once=False)
    assert list(files.walk()) == []
    files.remove([(HOME, FILE)])
    with pytest.raises(FileNotFoundError):
        files.read(HOME, FILE, 7)
    assert files.copy_to(tmp_path / "copy") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    files.write(HOME, [(FILE, b"content")])
    assert files.read(HOME, FILE, 7) == b"content"
    with pytest.raises(StoreLocked):
        ArtifactFiles(tmp_path / "a" / "b", INSTALLATION, fsync=True, reserve_bytes=0, at_once=False)
    files.close()
    again = ArtifactFiles(tmp_path / "a" / "b", INSTALLATION, fsync=True, reserve_bytes=0, at_once=False)
    assert list(again.walk()) == [(HOME, FILE)]
    again.close()


def test_draft_left_by_a_crash_is_walked_and_removed(files: ArtifactFiles) -> None:
    files.write(HOME, [(FILE, b"content")])
    [bucket] = files.path.iterdir()
    [file] = bucket.iterdir()
    file.rename(bucket / f".{file.name}")
    assert list(files.walk()) == [(HOME, FILE)]
    files.remove([(HOME, FILE)])
    assert not bucket.exists()


def test_walk_ignores_foreign_files(files: ArtifactFiles, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / f"0000-{FILE.hex()}").touch()
    (files.path / ("0" * 18)).symlink_to(tmp_path / "elsewhere")
    (files.path / "notes.txt").touch()
    files.write(HOME, [(FILE, b"")])
    (files.path / HOME[:9].hex() / "notes.txt").touch()
    assert list(files.walk()) == [(HOME, FILE)]
    files.remove([(HOME, FILE)])
    assert (files.path / HOME[:9].hex() / "notes.txt").exists()


def test_pipe_in_place_of_a_file_is_not_read_as_content(files: ArtifactFiles) -> None:
    files.write(HOME, [(FILE, b"")])
    [file] = (files.path / HOME[:9].hex()).iterdir()
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(OSError, match="not a regular file"):
        files.read(HOME, FILE, 1)


def test_write_below_the_reserve_is_rejected(tmp_path: Path) -> None:
    files = ArtifactFiles(tmp_path, INSTALLATION, fsync=False, reserve_bytes=1 << 62)
    with pytest.raises(OSError, match="space") as caught:
        files.write(HOME, [(FILE, b"content")])
    assert caught.value.errno == errno.ENOSPC
    assert list(files.walk()) == []
    files.close()


def test_artifact_folder_of_an_installation_has_only_one_owner(tmp_path: Path) -> None:
    first = ArtifactFiles(tmp_path, INSTALLATION, fsync=False, reserve_bytes=0)
    with pytest.raises(StoreLocked):
        ArtifactFiles(tmp_path, INSTALLATION, fsync=False, reserve_bytes=0)
    other = ArtifactFiles(tmp_path, b"j" * 16, fsync=False, reserve_bytes=0)
    first.close()
    ArtifactFiles(tmp_path, INSTALLATION, fsync=False, reserve_bytes=0).close()
    other.close()


def test_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreNotWritable, match="file/a"):
        ArtifactFiles(tmp_path / "file" / "a", INSTALLATION, fsync=False, reserve_bytes=0)
