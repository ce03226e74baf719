"""Reads ranges of rows from a column family, and distinguishes the end of the rows from an unreadable block."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, takewhile
from typing import cast

from rocksdict import Rdict, ReadOptions


def scan(family: Rdict, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
    """Returns at most `limit` rows of [start, end) of a family.

    Raises:
        Exception: The rows cannot be read; `read_error` turns this into a StoreError.
    """
    bound = ReadOptions()
    bound.set_iterate_upper_bound(end)
    items = cast("Iterator[tuple[bytes, bytes]]", family.items(from_key=start, read_opt=bound))
    rows = list(islice(items, limit))
    if len(rows) < limit:
        _check_end(family, rows[-1][0] + b"\0" if rows else start, bound)
    return rows


def scan_back(family: Rdict, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
    """Returns at most `limit` rows of [start, end) of a family, last one first.

    Raises:
        Exception: The rows cannot be read; `read_error` turns this into a StoreError.
    """
    bound = ReadOptions()
    bound.set_iterate_upper_bound(end)
    items = cast("Iterator[tuple[bytes, bytes]]", family.items(backwards=True, from_key=end, read_opt=bound))
    # The binding's backward iterator has no lower bound.
    rows = list(islice(takewhile(lambda row: row[0] >= start, items), limit))
    if len(rows) < limit:
        iterator = family.iter(bound)
        iterator.seek_for_prev(end)
        if rows:
            iterator.seek_for_prev(rows[-1][0])
            iterator.prev()
        iterator.status()
    return rows


def every_row(family: Rdict) -> Iterator[tuple[bytes, bytes]]:
    """Yields all rows of a family in key order, as they were at the first read; fails like `scan`."""
    key = b""
    for key, value in cast("Iterator[tuple[bytes, bytes]]", family.items()):
        yield key, value
    _check_end(family, key + b"\0" if key else b"", ReadOptions())


def rows_between(family: Rdict, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the rows of [start, end) of a family, as they were at the first read; fails like `scan`."""
    bound = ReadOptions()
    bound.set_iterate_upper_bound(end)
    key = b""
    for key, value in cast("Iterator[tuple[bytes, bytes]]", family.items(from_key=start, read_opt=bound)):
        yield key, value
    _check_end(family, key + b"\0" if key else start, bound)


def _check_end(family: Rdict, start: bytes, bound: ReadOptions) -> None:
    # The fast iterator stops at an unreadable block just as at the end of the rows. Find out which it was.
    iterator = family.iter(bound)
    iterator.seek(start)
    iterator.status()
