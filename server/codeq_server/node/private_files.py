"""Restricts files that this process writes to its own user."""

from __future__ import annotations

import os
from typing import Final

PRIVATE_UMASK: Final = 0o077
"""Results in folders with mode 0700 and files with 0600, including RocksDB's."""


def write_privately() -> None:
    """Makes all files that this process and its children create from now on private, whatever the inherited umask."""
    os.umask(PRIVATE_UMASK)
