"""Writes files that did not exist, or replaces regular files if asked to."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from codeq_cli.failures import ExitCode, Failure, usage_failure


def check(path: Path, *, force: bool) -> None:
    """Checks that a file may be written.

    Args:
        path: Where.
        force: Whether an existing regular file may be replaced.

    Raises:
        Failure: The file exists, is to be replaced but is not a regular file, or cannot be looked up.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unwritable(path, error) from None
    if not force:
        raise exists(path)
    if not stat.S_ISREG(mode):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
        raise usage_failure(f"{path} is {kind}, and is not replaced; name another place")


def write(path: Path, content: bytes, *, private: bool, force: bool) -> None:
    """Writes a file durably, and the folders above it.

    Args:
        path: Where.
        content: Its content.
        private: Whether only the owner may read it.
        force: Whether an existing regular file is replaced.

    Raises:
        Failure: The file exists, is to be replaced but is not a regular file, or cannot be written.
    """
    check(path, force=force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if force:
            replace(path, content, private=private)
        else:
            _create(path, content, private=private)
            _sync_folder(path.parent)
    except FileExistsError:
        raise exists(path) from None
    except OSError as error:
        raise _unwritable(path, error) from None


def replace(path: Path, content: bytes, *, private: bool) -> None:
    """Makes a file, or replaces it at once and durably, rather than writing to it: others may have the old one open.

    Args:
        path: Where; its folder exists.
        content: Its content.
        private: Whether only the owner may read it.

    Raises:
        OSError: It cannot be written; the old file is unchanged.
    """
    temporary = path.with_name(f".new-{secrets.token_hex(8)}")
    _create(temporary, content, private=private)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _create(path: Path, content: bytes, *, private: bool) -> None:
    """Writes a file that did not exist; a failure leaves none."""
    file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644), "wb")
    try:
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _sync_folder(path: Path) -> None:
    """Makes the names in a folder durable."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def exists(path: Path) -> Failure:
    """Returns the failure for a file or folder that is there already."""
    return Failure(f"{path} exists; name another place, or replace it with --force", "EXISTS", ExitCode.USAGE)


def _unwritable(path: Path, error: OSError) -> Failure:
    return usage_failure(f"cannot write {path}: {error.strerror}")
