"""Checker rules about tasks with keys: who waits at which gate, and the lines of ordering keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from codeq_internal.v1 import rows_pb2

from codeq_server.core import keys
from codeq_server.core.task_bytes import keys_of

from .checker_homes import pack


class _Waits(NamedTuple):
    """A row of a task at a gate."""

    key: bytes
    name: bytes
    number: int
    is_first: bool


class _Line(NamedTuple):
    """The line of an ordering gate, until its first task is read."""

    key: bytes
    first: int
    last: int
    home: int


class GateRows:
    """Rows "b" read so far, until state rows and homes confirm them."""

    def __init__(self) -> None:
        self._waiting: dict[int, _Waits] = {}
        """By home: the row at a concurrency or rate gate."""
        self._ordered: dict[int, _Waits] = {}
        """By home: the row in a line."""
        self._blocked: dict[int, bytes] = {}
        """By home of a blocked task: its gate."""
        self._numbers: dict[int, int] = {}
        """By home of a redriven task: its number in its line."""
        self._line: _Line | None = None
        self._started = False
        """Whether the first task of the line was read."""

    def row(self, key: bytes, value: bytes) -> Iterator[str]:
        """Processes a row; yields the problems that the row shows by itself."""
        queue, name, number = keys.split_blocked_key(key)
        kind = name[:1]
        if kind == keys.ORDERING_GATE and not number:
            yield from self._end_line()
            first, last, home = keys.split_line(value)
            self._line, self._started = _Line(key, first, last, pack(queue, 0, 0) | home), False
            return
        home = pack(queue, 0, 0) | keys.split_blocked_value(value)
        if kind == keys.ORDERING_GATE:
            yield from self._in_line(key, number, home)
            rows = self._ordered
        elif kind in {keys.CONCURRENCY_GATE, keys.RATE_GATE}:
            yield from self._end_line()
            rows = self._waiting
        else:
            yield f"a gate of kind {kind!r}"
            return
        if home in rows:
            yield f"its task is also in row {rows[home].key.hex()}"
        line = self._line
        rows[home] = _Waits(key, name, number, line is not None and line.home == home)

    def _in_line(self, key: bytes, number: int, home: int) -> Iterator[str]:
        line = self._line
        if line is None or keys.split_blocked_key(line.key)[:2] != keys.split_blocked_key(key)[:2]:
            yield from self._end_line()
            yield "its line is missing"
            return
        if not self._started and (number, home) != (line.first, line.home):
            yield f"is the first of a line that begins with number {line.first}"
        if number > line.last:
            yield f"lies after the end of its line, {line.last}"
        self._started = True

    def _end_line(self) -> Iterator[str]:
        line, self._line = self._line, None
        if line is not None and not self._started:
            yield f"the line {line.key.hex()} has no tasks"

    def waits(self, home: int, state: rows_pb2.StateRow, *, purged: bool) -> Iterator[str]:
        """Processes the state row of a blocked task; yields its problems. A purge ends all blocked tasks of a queue."""
        name, number = state.blocked[: keys.GATE_BYTES], state.blocked[keys.GATE_BYTES :]
        self._blocked[home] = name
        if name[:1] == keys.ORDERING_GATE:
            row = self._ordered.get(home)
            if row is None or row.name != name:
                yield "waits for its turn, but is not in the line of its key"
            elif row.is_first and not purged:
                yield "waits for its turn, but is the first of its line"
            return
        row = self._waiting.pop(home, None)
        if row is None or (row.name, row.number.to_bytes(8, "big")) != (name, number):
            yield "waits at a gate, where there is no row of it"

    def renumbered(self, home: int, number: int) -> None:
        """Notes the number that a redrive has given to a task."""
        self._numbers[home] = number

    def home(self, home: int, value: bytes, *, ended: bool, keyed: bool) -> Iterator[str]:
        """Processes the home of a task; yields contradictions with the rows."""
        of = keys_of(keys.task_bytes(value))
        gate, row = self._blocked.pop(home, None), self._ordered.pop(home, None)
        number = self._numbers.pop(home, 0)
        if of is not None and not keyed:
            yield "has a key, but its queue has none"
        names = set()
        if of is not None:
            kinds = zip((keys.CONCURRENCY_GATE, keys.RATE_GATE, keys.ORDERING_GATE), of[:3], strict=True)
            names = {keys.gate(kind, key) for kind, key in kinds if key}
        if gate is not None and gate not in names:
            yield "waits at the gate of a key that it does not have"
        if row is not None and ended:
            yield f"has ended, but row {row.key.hex()} is left behind"
        elif row is not None and (row.name not in names or row.number != (number or (of.number if of else 0))):
            yield f"is in row {row.key.hex()}, the line of another key or with another number"
        elif row is None and not ended and of is not None and of.ordering:
            yield "is not in the line of its ordering key"

    def finish(self) -> Iterator[tuple[bytes, str]]:
        """Yields key and problem of rows that nothing confirmed."""
        line = self._line
        if line is not None and not self._started:
            yield line.key, "the line has no tasks"
        for row in (*self._waiting.values(), *self._ordered.values()):
            yield row.key, "leads to no task that waits"
