"""Converts the errors of RocksDB's binding to StoreErrors."""

from __future__ import annotations

from pathlib import Path

from .errors import StoreDamaged, StoreError, StoreFailed, StoreLocked, StoreNotWritable, reason_of


def is_dropped(error: Exception) -> bool:
    """Returns whether an operation failed because its family was dropped during the operation."""
    return "Column family dropped" in str(error)


def is_busy(error: Exception) -> bool:
    """Returns whether a write was rejected because it would have had to wait; nothing is written."""
    return str(error).startswith("Result incomplete")


def open_error(path: Path, error: Exception) -> StoreError:
    """Returns the StoreError for a failed open."""
    text = reason_of(error)
    if "LOCK:" in text and ("Resource temporarily unavailable" in text or "lock hold by current process" in text):
        return StoreLocked(f"the store {path} is open in another process; stop that process, or set a different path")
    if any(sign in text for sign in ("Permission denied", "Read-only file system", "No space left")):
        return StoreNotWritable(f"the store's directory {path} cannot be written to: {text}")
    if "Corruption" in text:
        return StoreDamaged(f"the store {path} is damaged, restore a backup: {text}")
    return StoreFailed(f"the store {path} cannot be opened: {text}")


def read_error(path: Path, error: BaseException) -> StoreError:
    """Returns the StoreError for a failed read."""
    text = reason_of(error)
    if "Corruption" in text:
        return StoreDamaged(f"the store {path} is damaged, restore a backup: {text}")
    return StoreFailed(f"could not read the store {path}: {text}")
