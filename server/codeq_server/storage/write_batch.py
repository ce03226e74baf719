"""Fills RocksDB's write batches, for which the writing thread holds the interpreter's lock: so it is compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .store import LOG_PREFIX


def fill(batch: Any, rows: Mapping[bytes, bytes | None], log: Any) -> bool:
    """Adds writes of rows to a batch; None deletes.

    Args:
        batch: A `WriteBatch` whose default family is that of the shard's rows.
        rows: Rows of the shard and of the log.
        log: Handle of the log's family; None: the store has no log.

    Returns:
        False if there are rows of the log, but no log; the batch is then of no use.
    """
    for key, value in rows.items():
        if key >= LOG_PREFIX:
            if log is None:
                return False
            if value is None:
                batch.delete(key, log)
            else:
                batch.put(key, value, log)
        elif value is None:
            del batch[key]
        else:
            batch[key] = value
    return True
