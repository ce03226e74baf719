"""Checker rules about tables ordered by queue and time: the due index and the expiry index."""

from __future__ import annotations

from collections.abc import Iterator

from codeq.v1.task_pb2 import Task

from codeq_server.core import keys


class TimeRows:
    """Rows of one table ordered by time, until other rows confirm them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rows: dict[int, tuple[bytes, bytes]] = {}
        """Key and value by home."""
        self._counts: dict[int, int] = {}
        self._first: dict[int, bytes] = {}
        """First key of each queue, without the queue."""

    def row(self, key: bytes, value: bytes) -> Iterator[str]:
        """Processes a row; yields the problems that the row shows by itself."""
        queue, _, lane, position = keys.split_time_key(key)
        home = queue << 56 | keys.pack_home(lane, position)
        if home in self._rows:
            yield f"the task is in the {self._name} twice"
        self._rows[home] = (key, value)
        self._counts[queue] = self._counts.get(queue, 0) + 1
        self._first.setdefault(queue, key[5:])

    def queue(self, queue: int, mark: bytes) -> Iterator[str]:
        """Processes a queue with its mark; yields contradictions with its rows."""
        first = self._first.get(queue)
        if first is not None and first <= mark:
            yield f"a row of the {self._name} lies before its mark"

    def count(self, queue: int) -> int:
        """Returns the number of rows of a queue."""
        return self._counts.get(queue, 0)

    def take(self, home: int, time_ms: int) -> bytes | None:
        """Returns the value of a home's row and forgets the row; None: the home has no row for that time."""
        key, value = self._rows.get(home, (b"", b""))
        if not key or keys.time_of(key) != time_ms:
            return None
        del self._rows[home]
        return value

    def expires(self, home: int, task: Task, wall_ms: int) -> Iterator[str]:
        """Processes a home, with the time of the last batch; yields its contradictions with the expiry index.

        An entry stays until its time; after that it may be gone, and then it never comes back.
        """
        if not task.HasField("expire_at"):
            return
        expire_ms = task.expire_at.seconds * 1000 + task.expire_at.nanos // 1_000_000
        value = self.take(home, expire_ms)
        if value is None and expire_ms > wall_ms:
            yield f"expires at {expire_ms}, but the {self._name} has no such entry"
        if value:
            yield f"has a value in the {self._name}"

    def finish(self) -> Iterator[tuple[bytes, str]]:
        """Yields key and problem of rows that nothing confirmed."""
        for key, _ in self._rows.values():
            yield key, "leads to no task with this time"
