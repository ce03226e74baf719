"""What this process writes is read by its own user only."""

from __future__ import annotations

import os
from typing import Final

PRIVATE_UMASK: Final = 0o077
"""Leaves folders 0700 and files 0600, RocksDB's too."""


def write_privately() -> None:
    """Has all that this process and its children write from now on be private, whatever umask they were given."""
    os.umask(PRIVATE_UMASK)
