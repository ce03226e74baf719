"""Makes and restores backups. A backup is a store as of one moment, with a folder of artifacts in the store's folder.

A backup appears under its name only when all of it is durable. Until then it is in `.NAME.partial`, which is removed on
failure. If the process was killed, the next attempt removes it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .artifacts import ArtifactFiles, restore_files
from .check import check_store
from .durable import sync_directory, sync_file
from .errors import StoreDamaged, StoreFailed, StoreNotWritable
from .identity import CLUSTER_ID_BYTES, EPOCH_SECONDS, load_identity, save
from .rocks import RocksStore
from .scratch import drop_scratch, take_scratch
from .store import ROWS_POINTER, RowSets, delete_log

RESTORE_EPOCHS: Final = 1000
"""Epochs that a restored store skips, to allow for that many starts less than EPOCH_SECONDS apart."""

_LEFT_OUT: Final = frozenset({"LOCK", "LOG"})
ARTIFACTS: Final = "artifacts"
"""Folder within a backup with the contents of artifacts."""


def back_up(row_sets: RowSets, target: Path, artifacts: ArtifactFiles | None) -> int:
    """Makes a backup of an open store, with everything written before the call and perhaps some later writes.

    Args:
        row_sets: Sets of rows of the store.
        target: Folder to create.
        artifacts: Artifacts of the store, none of which may be removed during the backup; None: the store has none.

    Returns:
        The number of artifacts in it.

    Raises:
        StoreNotWritable: The target exists, or cannot be written.
        StoreFailed: Copying failed.
    """
    count = 0

    def fill(partial: Path) -> None:
        nonlocal count
        row_sets.checkpoint(partial)
        # Copied after the rows: a file written in between has no row, and the restored store drops it.
        if artifacts is not None:
            count = artifacts.copy_to(partial / ARTIFACTS)

    _make(target, fill)
    return count


def back_up_closed(path: Path, target: Path, artifacts: Path) -> None:
    """Makes a backup of the store at `path`, which must not be open, and of its files in a folder of artifacts.

    Raises:
        StoreError: The store does not exist or is open, or the backup failed.
    """
    if not (path / "CURRENT").is_file():
        raise StoreFailed(f"there is no store at {path}")
    store = RocksStore(path, fsync=True)
    files: ArtifactFiles | None = None
    try:
        identity = load_identity(store)
        if identity is not None and (artifacts / identity.cluster_id.hex()).is_dir():
            files = ArtifactFiles(artifacts, identity.cluster_id, fsync=True, reserve_bytes=0)
        back_up(store, target, files)
    finally:
        if files is not None:
            files.close()
        store.close()


def restore(backup: Path, target: Path, unix_seconds: int, artifacts: Path) -> None:
    """Creates a store from a backup, which is checked first and stays unchanged.

    The store is an installation of its own: it shares no artifacts with the store that was backed up.

    Args:
        backup: The backup.
        target: Folder of the store to create.
        unix_seconds: Current time.
        artifacts: Folder of artifacts that the store will use.

    Raises:
        StoreDamaged: Rows of the backup contradict each other.
        StoreNotWritable: The target exists, or cannot be written.
        StoreError: The backup does not exist or cannot be read.
    """
    differences, summary = check_store(backup)
    if differences:
        raise StoreDamaged(f"the backup {backup} has {summary.differences} differences; the first: {differences[0]}")

    installation = os.urandom(CLUSTER_ID_BYTES)

    def fill(partial: Path) -> None:
        partial.mkdir(mode=0o700)
        for file in backup.iterdir():
            if file.is_file() and file.name not in _LEFT_OUT:
                shutil.copyfile(file, partial / file.name)
        _become_another(partial, unix_seconds, installation)
        if (backup / ARTIFACTS).is_dir():
            restore_files(backup / ARTIFACTS, artifacts, installation)

    _make(target, fill)


def _become_another(path: Path, unix_seconds: int, installation: bytes) -> None:
    """Makes the store in a folder an installation of its own.

    Its epoch is beyond all epochs used since the backup, so ids and tokens of those epochs are never issued again.
    """
    store = RocksStore(path, fsync=True)
    try:
        identity = load_identity(store)
        if identity is None:
            raise StoreDamaged("the backup has no identity")
        identity.epoch = max(identity.epoch, unix_seconds // EPOCH_SECONDS) + RESTORE_EPOCHS
        identity.cluster_id = installation
        delete_log(store, {ROWS_POINTER})  # the store is not a member of any group
        save(store, identity)
    finally:
        store.close()


def _make(target: Path, fill: Callable[[Path], None]) -> None:
    staging = target.with_name(f".{target.name}.partial")
    partial = staging / target.name
    try:
        if target.exists():
            raise StoreNotWritable(f"{target} already exists: name a new folder")
        take_scratch(staging)
        try:
            fill(partial)
            for file in partial.iterdir():
                sync_file(file)
            sync_directory(partial)
            partial.rename(target)
            sync_directory(target.parent)
        finally:
            drop_scratch(staging)
    except (OSError, shutil.Error) as error:
        raise StoreFailed(f"could not write {target}: {getattr(error, 'strerror', None) or error}") from error
