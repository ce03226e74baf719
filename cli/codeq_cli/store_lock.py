"""Whether a process has a store open."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def is_open(path: Path) -> bool:
    """Returns whether a process has the store in a folder open.

    Raises:
        OSError: The store's lock file cannot be opened.
    """
    try:
        lock = os.open(path / "LOCK", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
