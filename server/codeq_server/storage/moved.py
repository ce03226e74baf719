"""The tasks that live in another shard than that of their ids, since the number of shards was changed.

Tasks with keys, of an atomic batch or of a schedule must stay together, so resharding cannot put each of them into the
shard of its id. The file MOVED beside the stores of the shards tells every process where they are: hashes of ids in
ascending order, and the shard of each. It never changes. If it is missing, the next start makes it from the stores.
"""

from __future__ import annotations

import mmap
import os
import sys
from array import array
from bisect import bisect_left
from pathlib import Path
from typing import Final

from codeq_server.core import ids, keys
from codeq_server.core.tenant_keys import named_id

from .durable import sync_directory, sync_file
from .errors import StoreDamaged, StoreError, StoreFailed, StoreNotWritable, reason_of
from .identity import load_identity
from .layout import shard_path
from .reading import open_stored

MOVED: Final = "moved.tasks"
"""Name of the file."""
MOVED_MAX: Final = 1_000_000
"""Maximum number of these tasks; each takes some 100 bytes of memory while the file is made."""

_MAGIC: Final = int.from_bytes(b"codeqmv1", "little").to_bytes(8, sys.byteorder)
"""In the byte order of the machine, as are the hashes: a file from a machine with another one is unreadable."""
_HASH_BYTES: Final = 8


class Moved:
    """These tasks, as they are collected.

    Attributes:
        hashes: Hashes of their ids.
        shards: The shard of each.
    """

    def __init__(self) -> None:
        self.hashes = array("Q")
        self.shards = array("B")

    def add(self, hashed: int, shard: int) -> None:
        """Adds a task.

        Raises:
            StoreFailed: There are too many.
        """
        if len(self.hashes) >= MOVED_MAX:
            raise StoreFailed(
                f"more than {MOVED_MAX:,} tasks with keys, of atomic batches or of schedules would live in another "
                "shard than that of their ids; let the workers finish them, and try again after their retention"
            )
        self.hashes.append(hashed)
        self.shards.append(shard)


class MovedTasks:
    """The file, mapped into memory.

    Args:
        path: Folder with the stores of the shards.

    Raises:
        StoreDamaged: The file is unreadable.
        StoreNotWritable: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            file = os.open(path / MOVED, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._map = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
            finally:
                os.close(file)
        except (OSError, ValueError) as error:
            raise StoreNotWritable(f"{path / MOVED} cannot be read: {reason_of(error)}") from error
        content = memoryview(self._map)
        count, rest = divmod(len(content) - len(_MAGIC), _HASH_BYTES + 1)
        if bytes(content[: len(_MAGIC)]) != _MAGIC or rest:
            raise StoreDamaged(f"{path / MOVED} is unreadable; remove it, and the next start makes it again")
        end = len(_MAGIC) + count * _HASH_BYTES
        self._hashes = content[len(_MAGIC) : end].cast("Q")
        self._shards = content[end:]

    def __len__(self) -> int:
        """Returns the number of tasks."""
        return len(self._shards)

    def shard_of(self, hashed: int) -> int | None:
        """Returns the shard of the task whose id has this hash; None: it is in that of its id."""
        at = bisect_left(self._hashes, hashed)
        if at == len(self._hashes) or self._hashes[at] != hashed:
            return None
        return self._shards[at]


def moved_in(path: Path) -> MovedTasks | None:
    """Returns the tasks that live in another shard than that of their ids; None: there are none.

    Raises:
        StoreError: The file cannot be read.
    """
    if not (path / MOVED).exists():
        return None
    found = MovedTasks(path)
    return found if len(found) else None


def write_moved(path: Path, moved: Moved) -> None:
    """Writes the file, durably.

    Raises:
        StoreNotWritable: It cannot be written.
    """
    order = sorted(range(len(moved.hashes)), key=moved.hashes.__getitem__)
    hashes, shards = array("Q", [moved.hashes[at] for at in order]), bytes([moved.shards[at] for at in order])
    draft = path / f"{MOVED}.new"
    try:
        draft.write_bytes(_MAGIC + hashes.tobytes() + shards)
        sync_file(draft)
        draft.replace(path / MOVED)
        sync_directory(path)
    except OSError as error:
        raise StoreNotWritable(f"{path / MOVED} cannot be written: {reason_of(error)}") from error


def prepare_moved(path: Path, num_shards: int) -> None:
    """Makes the file if it is missing: stores that were restored lack it, and an operator may have removed it.

    It is made for stores of every number of shards, so that a later start need not read them again.

    Raises:
        StoreError: A store cannot be read although the number of shards was changed, or the file cannot be written.
    """
    stores = [shard_path(path, shard) for shard in range(num_shards)]
    if (path / MOVED).exists() or not all((store / "CURRENT").is_file() for store in stores):
        return
    moved, is_resharded, unread = Moved(), False, list[StoreError]()
    for shard, store in enumerate(stores):
        try:
            with open_stored(store) as stored:
                identity = load_identity(stored)
                if identity is None or not identity.resharded:
                    continue
                is_resharded = True
                for key, _ in stored.between(*keys.table_rows(keys.NAMES)):
                    hashed = ids.hash_of(named_id(key))
                    if hashed % num_shards != shard:
                        moved.add(hashed, shard)
        except StoreError as error:
            unread.append(error)
    if unread and is_resharded:
        raise unread[0]
    if not unread:
        write_moved(path, moved)
