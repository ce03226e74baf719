"""Folders for temporary files, which are worthless after a crash: the next use of a folder empties it.

Only folders created here are emptied: they carry a mark, which is durable before anything else is written. Their names
begin with a dot; no name given by a client does.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from .durable import make_directory, sync_directory, sync_file
from .errors import StoreNotWritable, reason_of

MARK: Final = ".codeq-scratch"
"""File that marks a folder for temporary files."""


def scratch_of(store: Path) -> Path:
    """Returns the folder for a store's temporary files: next to it, on the same file system."""
    return store.parent / f".{store.name}.scratch"


def take_scratch(folder: Path) -> None:
    """Creates and marks a folder, or empties it if it carries the mark.

    Raises:
        StoreNotWritable: The folder cannot be created or emptied, or has contents but no mark.
    """
    try:
        make_directory(folder)
        names = [path.name for path in folder.iterdir()]
        if MARK in names:
            _empty(folder)
            return
        if names:
            raise StoreNotWritable(
                f"{folder} is needed for temporary files, but contains {min(names)}, which codeq did not create: "
                "move it elsewhere"
            )
        (folder / MARK).touch(mode=0o600)
        sync_file(folder / MARK)
        sync_directory(folder)
    except OSError as error:
        raise StoreNotWritable(f"the folder {folder} cannot be used: {reason_of(error)}") from error


def drop_scratch(folder: Path) -> None:
    """Removes a marked folder; the mark is removed last, so that a half-removed folder can be emptied later.

    Raises:
        StoreNotWritable: The folder cannot be removed.
    """
    try:
        _empty(folder)
        (folder / MARK).unlink()
        folder.rmdir()
    except OSError as error:
        raise StoreNotWritable(f"the folder {folder} cannot be removed: {reason_of(error)}") from error


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARK:
            path.unlink()
