"""The folder of a server with several shards: one folder per store, and a file that says how many there are."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .durable import make_directory, sync_directory, sync_file
from .errors import StoreDamaged, StoreFormat, StoreLocked, StoreNotWritable, reason_of

MARKER: Final = "shards.json"
"""File with the number of shards, written before the first store is made."""
_STORE_FILE: Final = "CURRENT"
"""A file that every store of RocksDB has."""


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
        draft = path / f"{MARKER}.new"
        draft.write_text(json.dumps({"numShards": num_shards}) + "\n")
        sync_file(draft)
        draft.replace(path / MARKER)
        sync_directory(path)
    except OSError as error:
        raise StoreNotWritable(f"the folder {path} cannot be used: {reason_of(error)}") from None


@contextmanager
def held_layout(path: Path) -> Iterator[None]:
    """Keeps other servers out of the folder of a server with several shards.

    Raises:
        StoreLocked: Another server uses it.
        StoreNotWritable: It cannot be used.
    """
    try:
        lock = (path / MARKER).open("rb")
    except OSError as error:
        raise StoreNotWritable(f"{path / MARKER} cannot be read: {reason_of(error)}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
    try:
        text = (path / MARKER).read_text()
    except (FileNotFoundError, NotADirectoryError):
        return int((path / _STORE_FILE).exists())
    except OSError as error:
        raise StoreNotWritable(f"{path / MARKER} cannot be read: {reason_of(error)}") from None
    try:
        return int(json.loads(text)["numShards"])
    except (ValueError, KeyError, TypeError):
        raise StoreDamaged(f"{path / MARKER} is unreadable; it must hold the number of shards of the store") from None


def _other_number(path: Path, stored: int, wanted: int) -> StoreFormat:
    return StoreFormat(
        f"the folder {path} holds a server with numShards {stored}, but the configuration says {wanted}; set numShards "
        f"to {stored}"
    )
