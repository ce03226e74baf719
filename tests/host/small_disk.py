"""A small disk that a test fills up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from host_tools import need_root, run

DISK_BYTES = 192 << 20


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """Mounts a file system of DISK_BYTES at a new folder."""
    need_root()
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", path)
    try:
        yield path
    finally:
        run("umount", "--lazy", path)  # a process that a failed test leaves behind may have files open


def fill(disk: Path, left_bytes: int) -> Path:
    """Leaves this much of the disk free; returns the file that takes up the rest."""
    ballast = disk / "ballast"
    free = os.statvfs(disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - left_bytes)
    return ballast
