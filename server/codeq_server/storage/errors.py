"""Errors of a store. Each message is one line that tells the operator what to do.

StoreError
├── StoreLocked        another process has the store open
├── StoreNotWritable   its directory cannot be created or written
├── StoreFormat        it has a newer format or another number of shards
├── StoreDamaged       its rows are lost or contradict each other
└── StoreFailed        reading or writing failed; the store must be reopened
"""

from __future__ import annotations


class StoreError(Exception):
    """A store cannot be opened, read or written."""


class StoreLocked(StoreError):  # noqa: N818 - names the fault
    """Another process has the store open."""


class StoreNotWritable(StoreError):  # noqa: N818 - names the fault
    """The directory of the store cannot be created or written."""


class StoreFormat(StoreError):  # noqa: N818 - names the fault
    """The store has a newer format or another number of shards."""


class StoreDamaged(StoreError):  # noqa: N818 - names the fault
    """Rows of the store are lost or unreadable."""


class StoreFailed(StoreError):  # noqa: N818 - names the fault
    """A read or write failed. After a failed write nothing can be written until the store is opened again."""


def reason_of(error: BaseException) -> str:
    """Returns the first line of an error's text."""
    text = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return text.partition("\n")[0]
