"""Files of the command line are replaced atomically and durably by one helper, the profile file among them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from codeq_cli import new_files, profile

WAYS: dict[str, Callable[[Path], object]] = {
    "made": lambda folder: new_files.write(folder / "config.yaml", b"token: new", private=True, force=False),
    "replaced": lambda folder: new_files.write(folder / "config.yaml", b"token: new", private=True, force=True),
    "profile": lambda _: profile.store({"token": "new"}),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CODEQ_CONFIG_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("way", WAYS)
def test_a_file_is_private_and_durable_with_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    path = folder / "config.yaml"
    if way != "made":
        path.write_text("token: old")
        path.chmod(0o644)
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def watched(number: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file"
        synced.append((kind, path.exists() and b"new" in path.read_bytes()))
        fsync(number)

    monkeypatch.setattr(os, "fsync", watched)
    WAYS[way](folder)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert synced == [("file", way == "made"), ("folder", True)]
    assert [*folder.iterdir()] == [path]


@pytest.mark.parametrize("way", WAYS)
def test_a_full_disk_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    path = folder / "config.yaml"
    if way != "made":
        path.write_text("token: old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Exception, match="No space left"):
        WAYS[way](folder)
    assert {each.name: each.read_text() for each in folder.iterdir()} == (
        {} if way == "made" else {path.name: "token: old"}
    )


def test_a_reader_of_the_old_profile_keeps_it(folder: Path) -> None:
    path = folder / "config.yaml"
    path.write_text("token: old")
    with path.open() as reader:
        profile.store({"token": "new"})
        assert reader.read() == "token: old"
