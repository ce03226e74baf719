"""Keeps the contents of artifacts in rows, which the log of a group replicates like all others.

A content goes through the log in chunks, before the end of its task is decided. Few chunks are on their way at a time,
so contents delay other decisions little. What a predecessor left undecided is removed when a shard is first served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from codeq_server.core import content_keys, keys
from codeq_server.core.artifacts import drop_undecided, put_chunk
from codeq_server.core.errors import CorruptRows, Reason, Rejection
from codeq_server.core.parsing import RowReader

from .runner import ShardRunner

CHUNK_BYTES: Final = 256 << 10
"""Bytes of content in one row."""
CHUNKS_AT_ONCE: Final = 4
"""Maximum number of chunks on their way to disk: they take about as long as a full batch of tasks."""
SLICE: Final = 64
"""Undecided contents removed per step."""

File = tuple[bytes, bytes]
"""Home of a task, as in keys, and name of a content."""

T = TypeVar("T")


async def content_of(rows: RowReader, home: bytes, file: bytes, chunks: int) -> bytes:
    """Returns the content in rows; others get their turn between its chunks.

    Raises:
        FileNotFoundError: A chunk is missing.
    """
    found: list[bytes] = []
    for number in range(chunks):
        chunk = rows.get(content_keys.content_key(home, file, number))
        if chunk is None:
            raise FileNotFoundError(f"chunk {number} is missing")
        found.append(chunk)
        await asyncio.sleep(0)
    return b"".join(found)


class ContentRows:
    """Stores the contents of a shard's artifacts as rows of the shard.

    Args:
        rows: The written rows of the shard.
        on_trouble: Called with a description and the cause when contents cannot be removed.

    Attributes:
        pending_bytes: Bytes of contents in transit; callers maintain it.
    """

    def __init__(self, rows: RowReader, on_trouble: Callable[[str, Exception], None]) -> None:
        self.pending_bytes = 0
        self.on_trouble = on_trouble
        self._rows = rows
        self._runner: ShardRunner | None = None
        self._room = asyncio.Semaphore(CHUNKS_AT_ONCE)
        self._undecided: dict[bytes, ShardRunner] = {}
        """The runner that stores each content whose result is not yet decided, by name."""
        self._removing: asyncio.Task[None] | None = None

    def follow(self, runner: ShardRunner | None) -> None:
        """Stores contents through this runner from now on, and removes what was left undecided; None: neither."""
        if self._removing is not None:
            self._removing.cancel()
            self._removing = None
        self._runner = runner
        if runner is not None:
            self._removing = asyncio.get_running_loop().create_task(self._remove_left(runner), name="contents-left")

    async def stop(self) -> None:
        """Ends the removal of what was left."""
        removing = self._removing
        self.follow(None)
        if removing is not None:
            await asyncio.gather(removing, return_exceptions=True)

    @staticmethod
    def chunks_of(size: int) -> int:
        """Returns the number of rows that hold a content of this size."""
        return max(1, -(-size // CHUNK_BYTES))

    async def write(self, home: bytes, contents: Sequence[tuple[bytes, bytes]]) -> None:
        """Stores contents of one task, durably; `decided` must follow in any case.

        Args:
            home: Home of the task.
            contents: Pairs of a name, which is random and never used before, and content.

        Raises:
            Rejection: NOT_LEADER, STORAGE_FULL, or why the log cannot store it.
        """
        runner = self._runner
        if runner is None:
            raise Rejection(Reason.NOT_LEADER, "this node does not serve the shard any more")
        for file, content in contents:
            self._undecided[file] = runner
            count = self.chunks_of(len(content))
            for number in range(count):
                chunk = content[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
                await self._room.acquire()
                try:
                    await _store(runner, home, file, number, chunk, count)
                finally:
                    self._room.release()

    async def decided(self, files: Sequence[File]) -> None:
        """Removes the contents whose results were rejected."""
        touched: set[ShardRunner] = set()
        for home, file in files:
            runner = self._undecided.pop(file, None)
            if runner is not None and runner.refusal is None:
                self._drop(runner, home, file)
                touched.add(runner)
        for runner in touched:
            runner.changed()

    async def run(self, work: Callable[[], T]) -> T:
        """Runs work in a thread."""
        return await asyncio.to_thread(work)

    def _drop(self, runner: ShardRunner, home: bytes, file: bytes) -> None:
        try:
            drop_undecided(runner.shard, home, file)
        except CorruptRows as problem:
            self.on_trouble("an undecided artifact cannot be removed", problem)

    async def _remove_left(self, runner: ShardRunner) -> None:
        """Removes every content that was undecided when the runner began."""
        start, end = keys.table_rows(keys.UNDECIDED)
        try:
            while found := self._rows.scan(start, end, SLICE):
                start = found[-1][0] + b"\0"
                for key, _ in found:
                    home, file = content_keys.split_undecided_key(key)
                    if file not in self._undecided:
                        self._drop(runner, home, file)
                runner.changed()
                await runner.wait_durable()
        except Rejection:
            return  # nothing becomes durable any more; the next leader goes on


async def _store(runner: ShardRunner, home: bytes, file: bytes, number: int, chunk: bytes, of: int) -> None:
    """Stores a chunk, durably.

    Raises:
        Rejection: As `ContentRows.write`.
    """
    runner.now()
    if runner.shard.storage_full:
        raise Rejection(Reason.STORAGE_FULL, "the disk is nearly full")
    put_chunk(runner.shard, home, file, number, chunk, of)
    runner.changed()
    await runner.wait_durable()
