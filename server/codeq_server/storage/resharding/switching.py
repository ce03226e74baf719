"""Puts new stores in the place of old ones in one step, so that a crash leaves either these or those."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

from codeq_server.storage.errors import StoreNotWritable

_AT_FDCWD: Final = -100
_EXCHANGE: Final = 2
"""The flag RENAME_EXCHANGE of renameat2."""


def exchange(one: Path, other: Path) -> None:
    """Exchanges two folders of a file system: at any time, each name leads to one of them.

    The exchange is durable once the folders that hold them are synced.

    Raises:
        StoreNotWritable: They cannot be exchanged, and are as they were.
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        raise StoreNotWritable("this system cannot exchange two folders in one step; reshard on Linux") from None
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE):
        code = ctypes.get_errno()
        reason = os.strerror(code)
        if code == errno.EBUSY:
            reason = "it is a mount point; mount the folder above it instead"
        raise StoreNotWritable(f"the folder {one} cannot be replaced: {reason}")
