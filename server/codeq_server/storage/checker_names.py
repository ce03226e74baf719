"""Checker rules about tasks whose id the server did not assign."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from codeq_internal.v1 import rows_pb2

from codeq_server.core import keys

_DIGEST_BYTES: Final = 16


class _Named(NamedTuple):
    """A row that maps an id to a task."""

    key: bytes
    epoch: int


class NameRows:
    """Rows "i" read so far, until homes and other rows of the table confirm them."""

    def __init__(self) -> None:
        self._named: dict[int, _Named] = {}
        """By home: the row that leads to it."""
        self._batches: dict[bytes, int] = {}
        """By row of an atomic batch's key: number of tasks that should be left."""
        self._left: dict[bytes, int] = {}
        """By row of an atomic batch's key: number of tasks counted."""

    def row(self, key: bytes, value: bytes) -> Iterator[str]:
        """Processes a row; yields the problems that the row shows by itself."""
        row = rows_pb2.NameRow.FromString(value)
        if not keys.is_name_key(key):
            yield "malformed key"
        if len(row.digest) not in {0, _DIGEST_BYTES}:
            yield f"a digest of {len(row.digest)} bytes"
        if len(row.meaning) not in {0, len(row.digest)}:
            yield f"a digest of {len(row.digest)} bytes, and one of {len(row.meaning)} of its meaning"
        if row.batch_tasks:
            self._batches[key] = row.batch_left
            if not 0 < row.batch_left <= row.batch_tasks:
                yield f"{row.batch_left} tasks are left of a batch of {row.batch_tasks}"
            return
        home = row.queue << 56 | row.home
        if home in self._named:
            yield "leads to a task that has another id as well"
        self._named[home] = _Named(key, row.epoch)
        if row.batch:
            batch = keys.name_beside(key, row.batch)
            self._left[batch] = self._left.get(batch, 0) + 1

    def home(self, home: int, tenant: str, value: bytes) -> Iterator[str]:
        """Processes a home, of a named task or not; yields contradictions with the rows."""
        name = keys.name_of(value)
        row = self._named.pop(home, None)
        if not name:
            if row is not None:
                yield f"row {row.key.hex()} leads here, but the task has the server's id"
        elif row is None or row.key != keys.name_key(tenant, name):
            yield f"no row leads from its id {name!r} to it"
        elif row.epoch != keys.home_epoch(value):
            yield f"row {row.key.hex()} leads to a task of epoch {row.epoch}"

    def finish(self) -> Iterator[tuple[bytes, str]]:
        """Yields key and problem of entries that nothing confirmed."""
        for row in self._named.values():
            yield row.key, "leads to no task"
        for key in self._batches.keys() | self._left.keys():
            stored, found = self._batches.get(key, 0), self._left.get(key, 0)
            if stored != found:
                yield key, f"{stored} tasks of the batch should be left, but {found} were found"
