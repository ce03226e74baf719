"""Backups of a store: a folder of the same form, made at one moment, and put back.

A folder appears under its name only when all of it is durable: what was cut off half way is left as `NAME.partial`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .check import check_store
from .durable import sync_directory
from .errors import StoreDamaged, StoreFailed, StoreNotWritable
from .identity import EPOCH_SECONDS, load_identity, save
from .rocks import RocksStore

RESTORE_EPOCHS: Final = 1000
"""Epochs that a restored store skips: the starts that may have followed each other in less than EPOCH_SECONDS."""

_LEFT_OUT: Final = frozenset({"LOCK", "LOG"})


def back_up(store: RocksStore, target: Path) -> None:
    """Makes a backup of an open store. What is written meanwhile may be in it or not; what was written before is.

    Raises:
        StoreNotWritable: The target exists, or cannot be written.
        StoreFailed: Copying failed.
    """
    _make(target, store.checkpoint)


def restore(backup: Path, target: Path, unix_seconds: int) -> None:
    """Makes a store from a backup, which is checked first and stays as it is.

    Raises:
        StoreDamaged: Rows of the backup contradict each other.
        StoreNotWritable: The target exists, or cannot be written.
        StoreError: There is no backup, or it cannot be read.
    """
    differences, summary = check_store(backup)
    if differences:
        raise StoreDamaged(f"the backup {backup} has {summary.differences} differences; the first: {differences[0]}")

    def fill(partial: Path) -> None:
        partial.mkdir(mode=0o700)
        for file in backup.iterdir():
            if file.is_file() and file.name not in _LEFT_OUT:
                shutil.copyfile(file, partial / file.name)
        _raise_epoch(partial, unix_seconds)

    _make(target, fill)


def _raise_epoch(path: Path, unix_seconds: int) -> None:
    """Puts the epoch past all that were in use since the backup: their ids and tokens are never given out again."""
    store = RocksStore(path, fsync=True)
    try:
        identity = load_identity(store)
        if identity is None:
            raise StoreDamaged("the backup has no identity")
        identity.epoch = max(identity.epoch, unix_seconds // EPOCH_SECONDS) + RESTORE_EPOCHS
        save(store, identity)
    finally:
        store.close()


def _make(target: Path, fill: Callable[[Path], None]) -> None:
    partial = target.with_name(f"{target.name}.partial")
    try:
        if target.exists():
            raise StoreNotWritable(f"{target} exists already: name a new folder")
        if partial.exists():
            raise StoreNotWritable(f"{partial} was left by an earlier attempt: remove it first")
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fill(partial)
        for file in partial.iterdir():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(partial)
        partial.rename(target)
        sync_directory(target.parent)
    except OSError as error:
        raise StoreFailed(f"writing {target} failed: {error.strerror or error}") from error
