"""The folder of a server with several shards: one folder per store, and a file that says how many there are.

The file also lists the shards whose stores were made, so that one that is missing is never taken for a new one.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .durable import make_directory, sync_directory, sync_file
from .errors import StoreDamaged, StoreFormat, StoreLocked, StoreNotWritable, reason_of

MARKER: Final = "shards.json"
"""File with the number of shards, written before the first store is made, and with the shards that have a store."""
_LOCK: Final = "LOCK"
"""File that the server locks, as RocksDB locks the one of this name in a store."""
_STORE_FILE: Final = "CURRENT"
"""A file that every store of RocksDB has."""
_SHARD_FOLDER: Final = re.compile(r"shard(0|[1-9]\d*)")


def shard_path(path: Path, shard: int) -> Path:
    """Returns the folder of a shard below a folder of a server with several shards."""
    return path / f"shard{shard}"


def prepare_layout(path: Path, num_shards: int) -> None:
    """Makes the folder of a server with several shards, or checks that it is one.

    Args:
        path: The folder.
        num_shards: Number of shards in the configuration, more than one.

    Raises:
        StoreFormat: It holds another number of shards.
        StoreDamaged: The file with the number of shards is unreadable.
        StoreNotWritable: It cannot be used.
    """
    stored = stored_shards(path)
    if stored == num_shards:
        return
    if stored:
        raise _other_number(path, stored, num_shards)
    try:
        make_directory(path)
        found = sorted(int(each[1]) for name in path.iterdir() if (each := _SHARD_FOLDER.fullmatch(name.name)))
        if found and found != list(range(num_shards)):  # restored ones, which say of how many when they are opened
            raise StoreFormat(
                f"the folder {path} holds stores of the shards {', '.join(map(str, found))}, but numShards is "
                f"{num_shards}; restore the store of every shard, and set numShards to their number"
            )
        _mark(path, num_shards, ())
    except OSError as error:
        raise StoreNotWritable(f"the folder {path} cannot be used: {reason_of(error)}") from None


def note_store(path: Path, shard: int) -> None:
    """Notes, durably, that the store of a shard was made.

    Raises:
        StoreDamaged: The file with the number of shards is unreadable.
        StoreNotWritable: It cannot be written.
    """
    num_shards, made = _marked(path)
    if shard not in made:
        try:
            _mark(path, num_shards, {*made, shard})
        except OSError as error:
            raise StoreNotWritable(f"{path / MARKER} cannot be written: {reason_of(error)}") from None


def mark_stores(path: Path, num_shards: int) -> None:
    """Notes, durably, that the stores of all shards were made.

    Raises:
        OSError: The file with the number of shards cannot be written.
    """
    _mark(path, num_shards, range(num_shards))


def is_store_lost(path: Path, shard: int) -> bool:
    """Returns whether the store of a shard was made, and is gone.

    Raises:
        StoreDamaged: The file with the number of shards is unreadable.
        StoreNotWritable: It cannot be read.
    """
    return shard in _marked(path)[1] and not (shard_path(path, shard) / _STORE_FILE).exists()


@contextmanager
def held_layout(path: Path) -> Iterator[None]:
    """Keeps other servers out of the folder of a server with several shards.

    Raises:
        StoreLocked: Another server uses it.
        StoreNotWritable: It cannot be used.
    """
    try:
        lock = (path / _LOCK).open("wb")
    except OSError as error:
        raise StoreNotWritable(f"{path / _LOCK} cannot be written: {reason_of(error)}") from None
    with lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreLocked(f"the store {path} is in use by another server; stop that server") from None
        yield


def refuse_shards(path: Path) -> None:
    """Checks that a folder does not hold several shards, for a server with one.

    Raises:
        StoreFormat: It does.
        StoreDamaged: The file with the number of shards is unreadable.
    """
    stored = stored_shards(path)
    if stored > 1:
        raise _other_number(path, stored, 1)


def stored_shards(path: Path) -> int:
    """Returns the number of shards in a folder; 0: there is no store in it.

    Raises:
        StoreDamaged: The file with the number of shards is unreadable.
        StoreNotWritable: The folder cannot be read.
    """
    return _marked(path)[0] or int((path / _STORE_FILE).exists())


def _marked(path: Path) -> tuple[int, frozenset[int]]:
    """Returns the number of shards in a folder, and the shards whose stores were made; 0 and none: there is no file.

    Raises:
        StoreDamaged: The file is unreadable.
        StoreNotWritable: It cannot be read.
    """
    try:
        text = (path / MARKER).read_text()
    except (FileNotFoundError, NotADirectoryError):
        return 0, frozenset()
    except OSError as error:
        raise StoreNotWritable(f"{path / MARKER} cannot be read: {reason_of(error)}") from None
    try:
        content = json.loads(text)
        return int(content["numShards"]), frozenset(map(int, content["stores"]))
    except (ValueError, KeyError, TypeError):
        raise StoreDamaged(f"{path / MARKER} is unreadable; it must hold the number of shards of the store") from None


def _mark(path: Path, num_shards: int, made: Iterable[int]) -> None:
    """Writes the file with the number of shards.

    Raises:
        OSError: It cannot be written.
    """
    draft = path / f"{MARKER}.new"
    draft.write_text(json.dumps({"numShards": num_shards, "stores": sorted(made)}) + "\n")
    sync_file(draft)
    draft.replace(path / MARKER)
    sync_directory(path)


def _other_number(path: Path, stored: int, wanted: int) -> StoreFormat:
    return StoreFormat(
        f"the folder {path} holds a server with numShards {stored}, but the configuration says {wanted}; set numShards "
        f"to {stored}"
    )
