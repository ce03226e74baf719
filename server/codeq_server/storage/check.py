"""The offline checker: proves that a store's rows agree with each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from codeq_server.core import keys
from codeq_server.core.parsing import RowReader

from .checker import Checker
from .durable import read_durable
from .errors import StoreDamaged, StoreFailed
from .findings import Difference, Summary
from .reading import open_stored
from .store import LOG_PREFIX, WRITTEN

PAGE_ROWS: Final = 1024
"""Number of rows read at a time from an open store."""
DIFFERENCES_MAX: Final = 1000
"""Maximum number of differences that `check_store` returns; further differences are only counted."""


def check(rows: Iterable[tuple[bytes, bytes]], summary: Summary | None = None) -> Iterator[Difference]:
    """Yields every contradiction among rows.

    Args:
        rows: All rows of a shard, in key order.
        summary: Filled with counts along the way.
    """
    checker = Checker(summary or Summary())
    for key, value in rows:
        checker.row(key, value)
        if checker.found:
            yield from checker.found
            checker.found.clear()
    checker.finish()
    yield from checker.found


def check_open(rows: RowReader) -> tuple[list[Difference], Summary]:
    """Checks the rows of a store that is open but not in use, like `check_store`.

    Raises:
        StoreError: The store cannot be read.
    """
    summary = Summary()
    differences = list(islice(check(_every(rows), summary), DIFFERENCES_MAX))
    return differences, summary


def _every(rows: RowReader) -> Iterator[tuple[bytes, bytes]]:
    start = b""
    while page := rows.scan(start, LOG_PREFIX, PAGE_ROWS):
        yield from page
        start = page[-1][0] + b"\0"


def check_store(path: Path) -> tuple[list[Difference], Summary]:
    """Checks the store at `path` without changing it; it should not be in use.

    Returns:
        The first DIFFERENCES_MAX differences, and the summary, which counts all of them.

    Raises:
        StoreError: The store does not exist or cannot be read.
    """
    summary = Summary()
    differences: list[Difference] = []
    durable, unknown = 0, ""
    try:
        durable = read_durable(path)
    except StoreDamaged as error:
        unknown = str(error)
    except OSError as error:
        raise StoreFailed(f"the store {path} cannot be read: {error.strerror}") from error
    with open_stored(path) as stored:
        for difference in check(stored.rows(), summary):
            if len(differences) < DIFFERENCES_MAX:
                differences.append(difference)
        written = stored.get(WRITTEN)
    # A store with a log records the number of the last durable write, a store without a log that of the last durable
    # batch.
    recovered, what = (summary.lsn, "batch") if written is None else (int.from_bytes(written, "big"), "write")
    if recovered < durable:
        unknown = f"durable rows are lost: {what} {durable} was durable"
    if unknown:
        summary.differences += 1
        differences.append(Difference(keys.TICK, unknown))
    return differences, summary
