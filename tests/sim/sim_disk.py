"""A disk that keeps synced writes. Writes can be read at once; a power cut loses unsynced writes.

A power cut leaves a prefix of the writes, as with a write-ahead log. Sets of rows that are imported as files are
durable at once, and so is dropping them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from codeq_server.storage.errors import StoreFailed
from codeq_server.storage.export import MANIFEST
from codeq_server.storage.memory import MemoryStore
from codeq_server.storage.store import LAST_KEY, LOG_PREFIX, ROWS_POINTER
from sim_loop import pause

Rows = Mapping[bytes, "bytes | None"]
_ALL = 1 << 30
_FILE = "rows.json"


class Image:
    """The log and the sets of rows on a disk."""

    def __init__(self) -> None:
        self.log = MemoryStore()
        self.sets = {"default": MemoryStore()}
        self.current = "default"

    def of(self, key: bytes) -> MemoryStore:
        return self.log if key >= LOG_PREFIX else self.sets[self.current]

    def write(self, rows: Rows) -> None:
        log = {key: value for key, value in rows.items() if key >= LOG_PREFIX}
        self.sets[self.current].write({key: value for key, value in rows.items() if key not in log} if log else rows)
        if log:
            self.log.write(log)
            self.current = (self.log.get(ROWS_POINTER) or b"default").decode()

    def copy(self) -> Image:
        image = Image()
        image.log = _copy(self.log)
        image.sets = {name: _copy(rows) for name, rows in self.sets.items()}
        image.current = self.current
        return image


def _copy(store: MemoryStore) -> MemoryStore:
    copy = MemoryStore()
    copy.write(dict(_everything(store)))
    return copy


def _everything(store: MemoryStore) -> list[tuple[bytes, bytes]]:
    return store.scan(b"", LOG_PREFIX, _ALL) + store.scan(LOG_PREFIX, LAST_KEY, _ALL)


class Disk:
    """The state that outlives processes."""

    def __init__(self, chance: random.Random, on_durable: Callable[[Rows], None]) -> None:
        self.written = Image()
        self.durable = Image()
        self._unsynced: list[Rows] = []
        self._chance = chance
        self._on_durable = on_durable

    def write(self, rows: Rows) -> None:
        copy = dict(rows)
        self.written.write(copy)
        self._unsynced.append(copy)

    def sync(self) -> None:
        self._keep(len(self._unsynced))

    def add_set(self, rows: dict[bytes, bytes]) -> str:
        """Imports a set of rows without making it current; returns its name."""
        last = max(int(name.rpartition("-")[2]) if name != "default" else 0 for name in self.written.sets)
        name = f"rows-{last + 1}"
        for image in (self.written, self.durable):
            image.sets[name] = MemoryStore()
            image.sets[name].write(rows)
        return name

    def drop_set(self, name: str) -> None:
        """Drops a set of rows. A power cut must not be able to make this set current again."""
        for image in (self.written, self.durable):
            if image.current == name or name not in image.sets:
                raise StoreFailed(f"the rows {name} are in use or do not exist")
        for image in (self.written, self.durable):
            del image.sets[name]

    def cut_power(self) -> None:
        """Loses some of the last unsynced writes."""
        self._keep(self._chance.randint(0, len(self._unsynced)))
        self._unsynced = []
        self.written = self.durable.copy()

    def _keep(self, count: int) -> None:
        for rows in self._unsynced[:count]:
            self.durable.write(rows)
            self._on_durable(rows)
        del self._unsynced[:count]


class DiskStore:
    """`ReplaceableRows` on a disk, for the life of one process."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        # A killed process left these writes, which could still be lost, so they are synced first.
        if others := [name for name in disk.written.sets if name != disk.written.current]:
            disk.sync()
            for name in others:
                disk.drop_set(name)

    def get(self, key: bytes) -> bytes | None:
        return self._disk.written.of(key).get(key)

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return self._disk.written.of(start).scan(start, end, limit)

    def scan_back(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return self._disk.written.of(start).scan_back(start, end, limit)

    def write(self, rows: Rows) -> None:
        pause()
        self._disk.write(rows)

    def sync(self) -> None:
        pause()
        self._disk.sync()
        pause()

    def note_durable(self, lsn: int) -> None:
        """Does nothing: damage of synced data is not simulated."""

    def check_recovered(self, lsn: int) -> None:
        """Does nothing: damage of synced data is not simulated."""

    def reset_durable(self, number: int) -> None:
        """Does nothing: damage of synced data is not simulated."""

    def import_rows(self, files: Iterable[Path]) -> str:
        pause()
        rows: dict[bytes, bytes] = {}
        for file in files:
            try:
                rows |= _load(file)
                file.unlink()
            except OSError as error:
                raise StoreFailed(f"{file}: {error.strerror}") from error
        name = self._disk.add_set(rows)
        pause()
        return name

    def switch_rows(self, name: str, rows: Rows) -> None:
        written = self._disk.written
        old = written.current
        if name == old or name not in written.sets:
            raise StoreFailed(f"the rows {name} to switch to do not exist")
        if any(key < LOG_PREFIX for key in rows):
            raise StoreFailed("a switch of the rows can be combined only with writes of log rows")
        self.write({**rows, ROWS_POINTER: name.encode()})
        self.sync()
        self.drop_rows(old)

    def drop_rows(self, name: str) -> None:
        pause()
        self._disk.drop_set(name)
        pause()

    def checkpoint(self, path: Path) -> None:
        """Makes a folder for `export`."""
        pause()
        image = self._disk.written
        path.mkdir()
        _save(path / _FILE, _everything(image.sets[image.current]) + _everything(image.log))
        pause()

    def close(self) -> None:
        """Does nothing: there is nothing to release."""


def export(checkpoint: Path, folder: Path, keys: Sequence[bytes]) -> None:
    """Replaces `codeq_server.storage.export.export` for a DiskStore's checkpoint."""
    try:
        stored = _load(checkpoint / _FILE)
        folder.mkdir()
    except OSError as error:
        raise StoreFailed(f"{error.filename}: {error.strerror}") from error
    file = folder / "000001.json"
    _save(file, [(key, value) for key, value in stored.items() if key < LOG_PREFIX])
    content = file.read_bytes()
    entry = {"name": file.name, "bytes": len(content), "sha256": sha256(content).hexdigest()}
    values = {key.hex(): stored[key].hex() for key in keys if key in stored}
    (folder / MANIFEST).write_text(json.dumps({"files": [entry], "values": values}))


def _save(file: Path, rows: Sequence[tuple[bytes, bytes]]) -> None:
    file.write_text(json.dumps([(key.hex(), value.hex()) for key, value in rows]))


def _load(file: Path) -> dict[bytes, bytes]:
    return {bytes.fromhex(key): bytes.fromhex(value) for key, value in json.loads(file.read_text())}
