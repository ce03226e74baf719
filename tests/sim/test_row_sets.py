"""The log and the sets of rows: the stores on disk and of the simulator must behave alike, even if they are killed."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import pytest
from codeq_server.storage.errors import StoreFailed
from codeq_server.storage.export import MANIFEST, export
from codeq_server.storage.rocks import RocksStore
from codeq_server.storage.store import LAST_KEY, LOG_PREFIX, ReplaceableRows
from sim_disk import Disk, DiskStore
from sim_disk import export as sim_export

OLD = {b"a": b"old", b"b": b"old", b"c": b"old"}
NEW = {b"b": b"new", b"c": b"new", b"d": b"new"}
MARK = LOG_PREFIX + b"applied"


class Home(Protocol):
    """A medium that a store lives on.

    Attributes:
        step: Called before and after each change of the medium.
    """

    step: Callable[[], None]

    def open(self) -> ReplaceableRows:
        """Opens the store."""
        ...

    def after(self, *, power: bool) -> Home:
        """Returns the state that a kill or a power cut would leave now."""
        ...

    def export(self, checkpoint: Path, folder: Path) -> None:
        """Exports a checkpoint with the value of MARK."""
        ...


class Files:
    """The store on disk. A power cut removes unsynced data from its write-ahead logs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.step = lambda: None
        self._synced: dict[str, int] = {}

    def open(self) -> ReplaceableRows:
        home = self

        class Stepping(RocksStore):
            def write(self, rows: Mapping[bytes, bytes | None]) -> None:
                home.step()
                super().write(rows)
                home.step()

            def sync(self) -> None:
                super().sync()
                home.sync()
                home.step()

            def drop_rows(self, name: str) -> None:
                super().drop_rows(name)
                home.step()

        store = Stepping(self.path, fsync=True, log=True)
        self.sync()
        return store

    def sync(self) -> None:
        self._synced = {}
        for log in self.path.glob("*.log"):
            with suppress(FileNotFoundError):  # being removed, because all of it is in files of rows
                self._synced[log.name] = log.stat().st_size

    def after(self, *, power: bool) -> Home:
        number = 0
        while (copy := self.path.with_name(f"{self.path.name}-{number}")).exists():
            number += 1
        copy.mkdir()
        for file in self.path.iterdir():
            with suppress(FileNotFoundError):  # being removed, because its set was dropped
                shutil.copyfile(file, copy / file.name)
        if power:
            for log in copy.glob("*.log"):
                log.write_bytes(log.read_bytes()[: self._synced.get(log.name, 0)])
        return Files(copy)

    def export(self, checkpoint: Path, folder: Path) -> None:
        export(checkpoint, folder, [MARK])


class Simulated:
    """The simulator's store."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.step = lambda: None

    def open(self) -> ReplaceableRows:
        home = self

        class Stepping(DiskStore):
            def write(self, rows: Mapping[bytes, bytes | None]) -> None:
                home.step()
                super().write(rows)
                home.step()

            def sync(self) -> None:
                super().sync()
                home.step()

            def drop_rows(self, name: str) -> None:
                super().drop_rows(name)
                home.step()

        return Stepping(self.disk)

    def after(self, *, power: bool) -> Home:
        disk = Disk(random.Random(1), lambda _: None)
        disk.written, disk.durable = self.disk.written.copy(), self.disk.durable.copy()
        disk._unsynced = list(self.disk._unsynced)
        if power:
            disk.cut_power()
        return Simulated(disk)

    def export(self, checkpoint: Path, folder: Path) -> None:
        sim_export(checkpoint, folder, [MARK])


@pytest.fixture(params=["rocks", "sim"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    return Files(tmp_path / "store") if request.param == "rocks" else Simulated(Disk(random.Random(1), lambda _: None))


def exported(home: Home, tmp_path: Path, rows: Mapping[bytes, bytes | None], name: str = "other") -> list[Path]:
    """Returns the files of another store with these rows."""
    other = Files(tmp_path / name) if isinstance(home, Files) else Simulated(Disk(random.Random(1), lambda _: None))
    store = other.open()
    store.write({**rows, MARK: b"7"})
    store.checkpoint(tmp_path / f"{name}.checkpoint")
    store.close()
    folder = tmp_path / f"{name}.export"
    other.export(tmp_path / f"{name}.checkpoint", folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["values"] == {MARK.hex(): b"7".hex()}
    assert [(folder / file["name"]).stat().st_size for file in manifest["files"]] == [
        file["bytes"] for file in manifest["files"]
    ]
    return [folder / file["name"] for file in manifest["files"]]


def rows_of(store: ReplaceableRows) -> dict[bytes, bytes]:
    return dict(store.scan(b"", LAST_KEY, 100))


def test_scans_of_rows_and_log_are_separate(home: Home) -> None:
    store = home.open()
    store.write({b"a": b"1", b"\xef\xff": b"2", LOG_PREFIX: b"3", LOG_PREFIX + b"x": b"4", b"\xff": b"5"})
    assert store.scan(b"", LAST_KEY, 9) == [(b"a", b"1"), (b"\xef\xff", b"2")]
    assert store.scan(b"\xef\xff", LAST_KEY, 9) == [(b"\xef\xff", b"2")]
    assert store.scan(LOG_PREFIX, LAST_KEY, 9) == [(LOG_PREFIX, b"3"), (LOG_PREFIX + b"x", b"4"), (b"\xff", b"5")]
    assert store.scan(LOG_PREFIX + b"a", LAST_KEY, 1) == [(LOG_PREFIX + b"x", b"4")]
    assert [store.get(key) for key in (b"a", LOG_PREFIX, b"\xff", LOG_PREFIX + b"y")] == [b"1", b"3", b"5", None]
    store.write({b"a": None, LOG_PREFIX: None, b"b": b"6"})
    assert [store.get(key) for key in (b"a", b"b", LOG_PREFIX)] == [None, b"6", None]
    store.close()


@pytest.mark.parametrize("power", [False, True])
def test_write_of_rows_and_log_is_atomic(home: Home, *, power: bool) -> None:
    store = home.open()
    for number in range(1, 40):
        value = b"%d" % number
        store.write({b"row%d" % number: value, MARK: value, LOG_PREFIX + b"e%d" % number: value})
        if number == 20:
            store.sync()
    left = home.after(power=power).open()
    last = int(left.get(MARK) or b"0")
    assert last >= (20 if power else 39)
    assert sorted(left.scan(b"", LAST_KEY, 99)) == sorted((b"row%d" % n, b"%d" % n) for n in range(1, last + 1))
    assert len(left.scan(LOG_PREFIX, LAST_KEY, 99)) == last + 1
    left.close()
    store.close()


def test_power_cut_loses_an_unsynced_write(home: Home) -> None:
    store = home.open()
    store.write({b"a": b"1", MARK: b"1"})
    store.sync()
    lost = 0
    for number in range(20):
        store.write({b"a": b"2", MARK: b"2", b"%d" % number: b""})
        left = home.after(power=True).open()
        assert left.get(b"a") == left.get(MARK)
        lost += left.get(b"a") == b"1"
        left.close()
    assert lost > 0
    store.close()


def test_switch_rows_replaces_all_rows_and_nothing_else(home: Home, tmp_path: Path) -> None:
    files = exported(home, tmp_path, NEW)
    store = home.open()
    store.write({**OLD, MARK: b"1", LOG_PREFIX + b"kept": b"2"})
    name = store.import_rows(files)
    assert rows_of(store) == OLD
    assert not any(file.exists() for file in files)
    store.switch_rows(name, {MARK: b"7", LOG_PREFIX + b"gone": None})
    assert rows_of(store) == NEW
    assert (store.get(MARK), store.get(LOG_PREFIX + b"kept")) == (b"7", b"2")
    store.write({b"a": b"later", b"d": None})
    changed = {**NEW, b"a": b"later"}
    del changed[b"d"]
    assert rows_of(store) == changed
    store.sync()
    for power in (False, True):
        left = home.after(power=power).open()
        assert rows_of(left) == changed
        left.close()
    store.close()


def test_repeated_switch_rows_keeps_the_last_set(home: Home, tmp_path: Path) -> None:
    store = home.open()
    store.write(OLD)
    for number in range(4):
        rows: dict[bytes, bytes | None] = {b"%d" % number: b"row", b"n": b"%d" % number}
        store.switch_rows(store.import_rows(exported(home, tmp_path, rows, f"o{number}")), {MARK: b"%d" % number})
        assert rows_of(store) == rows
        left = home.after(power=True).open()
        assert (rows_of(left), left.get(MARK)) == (rows, b"%d" % number)
        left.close()
    store.close()


def test_switch_rows_to_an_empty_set_leaves_no_rows(home: Home) -> None:
    store = home.open()
    store.write(OLD)
    store.switch_rows(store.import_rows([]), {MARK: b"1"})
    assert rows_of(store) == {}
    store.write({b"x": b"1"})
    store.sync()
    left = home.after(power=True).open()
    assert rows_of(left) == {b"x": b"1"}
    left.close()
    store.close()


@pytest.mark.parametrize("first", [False, True])
def test_switch_rows_interrupted_anywhere_leaves_the_old_or_the_new_set(
    home: Home, tmp_path: Path, *, first: bool
) -> None:
    """Switches from the initial set of a store, and from a set that was imported as files."""
    files = exported(home, tmp_path, NEW)
    store = home.open()
    if not first:
        store.switch_rows(store.import_rows([]), {})
    store.write({**OLD, MARK: b"1"})
    store.sync()
    seen = []

    def look() -> None:
        for power in (False, True):
            left = home.after(power=power)
            opened = left.open()
            state = (rows_of(opened), opened.get(MARK))
            assert state in ((OLD, b"1"), (NEW, b"7"))
            # Neither the removal nor the next opening brings the other set back.
            opened.close()
            again = left.open()
            assert (rows_of(again), again.get(MARK)) == state
            name = again.import_rows([])
            again.switch_rows(name, {})
            assert rows_of(again) == {}
            again.close()
            seen.append(state[1])

    def watched() -> Iterator[Path]:
        for file in files:
            look()
            yield file
            look()

    home.step = look
    look()
    store.switch_rows(store.import_rows(watched()), {MARK: b"7"})
    look()
    home.step = lambda: None
    assert {b"1", b"7"} == set(seen)
    assert seen[-2:] == [b"7", b"7"]
    store.close()


def test_opening_a_store_drops_sets_that_are_not_current(home: Home, tmp_path: Path) -> None:
    store = home.open()
    store.write({**OLD, MARK: b"1"})
    store.sync()
    name = store.import_rows(exported(home, tmp_path, NEW))
    left = home.after(power=False).open()
    with pytest.raises(StoreFailed):
        left.switch_rows(name, {})
    assert rows_of(left) == OLD
    left.close()
    store.close()


def test_dropped_rows_cannot_be_switched_to(home: Home, tmp_path: Path) -> None:
    store = home.open()
    store.write(OLD)
    name = store.import_rows(exported(home, tmp_path, NEW))
    store.drop_rows(name)
    with pytest.raises(StoreFailed):
        store.switch_rows(name, {})
    assert rows_of(store) == OLD
    store.close()


def test_drop_rows_of_the_current_set_is_rejected(home: Home) -> None:
    store = home.open()
    store.write(OLD)
    name = store.import_rows([])
    store.switch_rows(name, {})
    store.write(NEW)
    with pytest.raises(StoreFailed):
        store.drop_rows(name)
    assert rows_of(store) == NEW
    store.close()


def test_switch_rows_rejects_rows_of_the_shard(home: Home) -> None:
    store = home.open()
    store.write(OLD)
    name = store.import_rows([])
    with pytest.raises(StoreFailed):
        store.switch_rows(name, {b"x": b"1"})
    assert rows_of(store) == OLD
    store.close()


def test_import_rows_from_a_missing_file_fails_and_changes_nothing(home: Home, tmp_path: Path) -> None:
    store = home.open()
    store.write(OLD)
    with pytest.raises(StoreFailed):
        store.import_rows([tmp_path / "missing"])
    with suppress(StoreFailed):
        store.switch_rows("rows-1", {})
    assert rows_of(store) == OLD
    store.close()


def test_checkpoint_contains_everything_written_before_it(home: Home, tmp_path: Path) -> None:
    files = exported(home, tmp_path, {**NEW, b"more": b"rows"})
    store = home.open()
    store.write(OLD)
    store.switch_rows(store.import_rows(files), {})
    again = exported(home, tmp_path, rows_of(store), "again")
    store.switch_rows(store.import_rows(again), {})
    assert rows_of(store) == {**NEW, b"more": b"rows"}
    with pytest.raises((StoreFailed, OSError)):
        store.checkpoint(tmp_path)
    store.close()
