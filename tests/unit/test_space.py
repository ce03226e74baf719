"""The watch on a store's free space."""

from __future__ import annotations

import pytest
from codeq_server.engine import space
from codeq_server.engine.space import SpaceWatch
from codeq_server.storage.errors import StoreFailed
from held_log import until


class Disk:
    """A disk whose free space the test sets; None: reading it fails."""

    def __init__(self, free: int | None) -> None:
        self.free = free
        self.changes: list[tuple[bool, int]] = []

    def free_bytes(self) -> int:
        if self.free is None:
            raise StoreFailed("no answer")
        return self.free

    def watch(self, reserve: int) -> SpaceWatch:
        return SpaceWatch(self.free_bytes, reserve, lambda full, free: self.changes.append((full, free)))


def test_first_check_reports_its_result_at_once() -> None:
    disk = Disk(99)
    watch = disk.watch(100)
    assert (watch.full, watch.free_bytes) == (True, 99)
    assert disk.changes == [(True, 99)]
    assert not Disk(100).watch(100).full


def test_disk_without_a_reserve_is_never_full() -> None:
    assert not Disk(None).watch(0).full


async def test_watch_reports_each_change_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "LOOK_SECONDS", 0.001)
    disk = Disk(500)
    watch = disk.watch(100)
    watch.start()
    disk.free = 50
    await until(lambda: watch.full)
    disk.free = None
    await until(lambda: watch.free_bytes == 0)
    assert watch.full
    disk.free = 300
    await until(lambda: not watch.full)
    watch.stop()
    assert disk.changes == [(True, 50), (False, 300)]
