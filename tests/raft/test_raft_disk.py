"""The disk writer of a process: the order of writes, syncs and reports, and the effects of a failure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from codeq_server.replication.raft import disk as module
from codeq_server.replication.raft.disk import Disk, Work
from codeq_server.replication.raft.log_rows import read_written
from codeq_server.storage.durable import read_durable
from codeq_server.storage.errors import StoreFailed
from codeq_server.storage.rocks import RocksStore
from codeq_server.storage.store import LOG_PREFIX, WRITTEN

KEY = LOG_PREFIX + b"k"


class Life:
    """A disk over a store that records every operation and every report."""

    def __init__(self, path: Path) -> None:
        self.store = RocksStore(path, fsync=True, log=True)
        self.noted: list[str] = []
        self.problems: list[BaseException] = []
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.fails = ""
        for step in ("write", "sync", "switch_rows"):
            setattr(self.store, step, self._noting(step))
        self.disk = Disk(self.store, self.problems.append)

    def _noting(self, step: str) -> object:
        do = getattr(self.store, step)

        def noting(*args: object) -> None:
            assert self.goes_on.wait(10)
            if self.fails == step:
                raise StoreFailed(step)
            do(*args)
            rows = args[-1] if args else {}
            assert isinstance(rows, Mapping)
            keys = sorted(key.decode(errors="replace")[-1] for key in rows if key != WRITTEN)
            self.noted.append(f"{step} {''.join(keys)}".strip())

        return noting

    def submit(self, name: str, *, sync: bool = False, size: int = 0, rowset: str | None = None) -> None:
        key = (LOG_PREFIX if rowset else b"t") + name.encode()
        work = Work({key: b"x"}, size, sync=sync, rowset=rowset)
        work.written = lambda: self.noted.append(f"{name} written")
        work.synced = lambda: self.noted.append(f"{name} synced")
        self.disk.submit(work)

    async def close(self) -> None:
        self.goes_on.set()
        await self.disk.close()


async def test_round_reports_its_write_and_then_its_sync(tmp_path: Path) -> None:
    life = Life(tmp_path / "s")
    life.submit("a", sync=True)
    life.submit("b")
    await life.close()
    assert life.noted == ["write ab", "a written", "b written", "sync", "a synced", "b synced"]


async def test_work_submitted_during_a_round_forms_the_next_round(tmp_path: Path) -> None:
    life = Life(tmp_path / "s")
    life.goes_on.clear()
    life.submit("a", sync=True)
    await asyncio.sleep(0)
    life.submit("b")
    life.submit("c")
    life.goes_on.set()
    await life.close()
    assert life.noted[:4] == ["write a", "a written", "sync", "a synced"]
    assert life.noted[4:] == ["write bc", "b written", "c written", "b synced", "c synced"]


async def test_round_is_bounded_by_rows_and_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROUND_ROWS_MAX", 2)
    monkeypatch.setattr(module, "ROUND_BYTES_MAX", 100)
    life = Life(tmp_path / "s")
    for name, size in (("a", 0), ("b", 0), ("c", 100), ("d", 0)):
        life.submit(name, size=size)
    await life.close()
    assert [what for what in life.noted if what.startswith("write ")] == ["write ab", "write c", "write d"]


async def test_row_set_switch_gets_a_round_of_its_own(tmp_path: Path) -> None:
    life = Life(tmp_path / "s")
    name = await life.disk.import_rows([])
    life.submit("a")
    life.submit("b", sync=True, rowset=name)
    life.submit("c")
    await life.close()
    assert next(what for what in life.noted if what.startswith(("write ", "switch"))) == "write a"
    assert life.noted.index("switch_rows b") < life.noted.index("write c")
    again = RocksStore(tmp_path / "s", fsync=True, log=True)
    assert [again.get(key) for key in (b"ta", b"tc")] == [None, b"x"]
    again.close()


@pytest.mark.parametrize("step", ["write", "sync", "switch_rows"])
async def test_failure_is_reported_once_and_stops_all_writes_and_reports(tmp_path: Path, step: str) -> None:
    life = Life(tmp_path / "s")
    name = await life.disk.import_rows([])
    life.fails = step
    life.submit("a", sync=True, rowset=name if step == "switch_rows" else None)
    await asyncio.sleep(0)
    life.submit("b", sync=True)
    async with asyncio.timeout(10):
        while not life.problems:  # noqa: ASYNC110 - what is waited for is state of the disk
            await asyncio.sleep(0.001)
    life.fails = ""
    life.submit("c", sync=True)
    assert life.disk.waiting == 0
    await life.close()
    assert [str(problem) for problem in life.problems] == [step]
    assert [what for what in life.noted if what != "write a"] == (["a written"] if step == "sync" else [])


async def test_failing_listener_stops_the_disk(tmp_path: Path) -> None:
    life = Life(tmp_path / "s")

    def fail() -> None:
        raise ValueError("no")

    life.disk.submit(Work({KEY: b"x"}, sync=True, written=fail))
    life.submit("b")
    await life.close()
    assert [str(problem) for problem in life.problems] == ["no"]
    assert "write b" not in life.noted


async def test_write_count_continues_after_a_restart(tmp_path: Path) -> None:
    for expected in (1, 2):
        life = Life(tmp_path / "s")
        life.submit("a", sync=True)
        await life.close()
        store = RocksStore(tmp_path / "s", fsync=True, log=True)
        assert (read_written(store), read_durable(tmp_path / "s")) == (expected, expected)
        store.close()
