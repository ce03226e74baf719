"""Keeps the contents of artifacts in step with the rows that refer to them.

A file is written and synced before the end of its task is decided, and removed once it is durable that no row refers to
it. A walk over all files after each start finds files that a crash or a failed removal left behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import islice
from typing import Final, TypeVar

from codeq_server.core.artifacts import is_kept
from codeq_server.core.errors import CorruptRows, Rejection
from codeq_server.storage.artifacts import ArtifactFiles

from .runner import ShardRunner

THREADS: Final = 4
"""Files written, read or removed concurrently."""
PENDING_BYTES_MAX: Final = 64 << 20
"""Maximum bytes on their way to disk; contents beyond it are rejected for the moment."""
REMOVALS_MAX: Final = 100_000
"""Maximum number of files waiting to be removed; further files are left to the walk after the next start."""
SLICE: Final = 128
"""Files examined or removed per step."""
WALK_PAUSE_SECONDS: Final = 0.01
"""Pause of the walk after each slice, to leave time for other work."""

File = tuple[bytes, bytes]
"""Home of a task, as in keys, and name of a file."""

T = TypeVar("T")


class ArtifactKeeper:
    """Owns the files of a shard's artifacts.

    Args:
        files: The files; closed by `stop`.
        on_trouble: Called with a description and the cause when files cannot be removed; the walk after the next start
            retries.
    """

    def __init__(self, files: ArtifactFiles, on_trouble: Callable[[str, Exception], None]) -> None:
        self.pending_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._runner: ShardRunner | None = None
        self._files = files
        self.on_trouble = on_trouble
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="codeq-artifacts")
        self._undecided: set[bytes] = set()
        """Names of files whose results are not yet decided, so no row refers to them."""
        self._gone: list[File] = []
        self._removing: asyncio.Task[None] | None = None
        self._walk: asyncio.Task[None] | None = None
        self._removals = asyncio.Lock()
        """Held while files are removed, or while all files must stay in place."""

    def follow(self, runner: ShardRunner | None) -> None:
        """Removes files that this runner's shard releases from now on, and searches for leftovers; None: neither."""
        if self._runner is not None:
            self._runner.on_files_gone = None
        if self._walk is not None:
            self._walk.cancel()
        self._runner = runner
        if runner is not None:
            runner.on_files_gone = self._let_go
            self._walk = self._loop.create_task(self._remove_left(runner), name="artifacts-walk")

    async def stop(self) -> None:
        """Finishes work in progress and releases the files."""
        self.follow(None)
        if self._walk is not None:
            await asyncio.gather(self._walk, return_exceptions=True)
        if self._removing is not None:
            await self._removing
        await asyncio.to_thread(self._threads.shutdown)
        self._files.close()

    @staticmethod
    def chunks_of(size: int) -> int:  # noqa: ARG004 - of any size
        """Returns the number of rows that hold a content: none, because it is in a file."""
        return 0

    async def write(self, home: bytes, contents: Sequence[tuple[bytes, bytes]]) -> None:
        """Writes files of one task, durably; `decided` must follow in any case.

        Args:
            home: Home of the task.
            contents: Pairs of a name, which is random and never used before, and content.

        Raises:
            OSError: Writing failed. ENOSPC: the disk is nearly full.
        """
        self._undecided.update(file for file, _ in contents)
        await self.run(lambda: self._files.write(home, contents))

    async def decided(self, files: Sequence[File]) -> None:
        """Removes the written files that no row refers to; continues if the caller is cancelled."""
        await asyncio.shield(self._loop.create_task(self._settle(files)))

    async def read(self, home: bytes, file: bytes, size: int) -> bytes:
        """Returns the content of a file of `size` bytes; returns one byte more if the file is larger.

        Raises:
            OSError: The file cannot be read.
        """
        return await self.run(lambda: self._files.read(home, file, size))

    async def run(self, work: Callable[[], T]) -> T:
        """Runs work in a thread to its end, even if the caller is cancelled; the caller continues only after that."""
        future = self._loop.run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def _is_kept(self, home: bytes, file: bytes) -> bool:
        if self._runner is None:
            return True  # the rows are not served here
        try:
            return is_kept(self._runner.shard, home, file)
        except CorruptRows:
            return True  # cannot be determined

    @asynccontextmanager
    async def held(self) -> AsyncIterator[ArtifactFiles]:
        """Lends out the files; none is removed until they are returned."""
        async with self._removals:
            yield self._files

    async def _settle(self, files: Sequence[File]) -> None:
        try:
            await self._remove([each for each in files if not self._is_kept(*each)])
        finally:
            self._undecided.difference_update(file for _, file in files)

    async def _remove(self, files: Sequence[File]) -> None:
        for first in range(0, len(files), SLICE):
            part = files[first : first + SLICE]
            async with self._removals:
                try:
                    await self.run(lambda part=part: self._files.remove(part))  # type: ignore[misc]
                except OSError as problem:
                    self.on_trouble(f"{len(part)} artifact files could not be removed", problem)

    # -- files of tasks that were removed ------------------------------------------------------------------------------

    def _let_go(self, files: Iterable[File]) -> None:
        self._gone += islice(files, max(0, REMOVALS_MAX - len(self._gone)))
        if self._removing is None:
            self._removing = self._loop.create_task(self._remove_gone(), name="artifacts-removal")

    async def _remove_gone(self) -> None:
        while self._gone:
            part, self._gone = self._gone, []
            await self._remove(part)
        self._removing = None

    # -- leftover files ------------------------------------------------------------------------------------------------

    async def _remove_left(self, runner: ShardRunner) -> None:
        """Walks over all files once, and removes files that no row refers to."""
        walk = self._files.walk()
        try:
            while files := await self.run(lambda: list(islice(walk, SLICE))):
                left = [each for each in files if each[1] not in self._undecided and not self._is_kept(*each)]
                if left:
                    # The decision that deleted the row may not be durable yet.
                    await runner.wait_durable()
                    await self._remove(left)
                await asyncio.sleep(WALK_PAUSE_SECONDS)
        except Rejection:
            return  # nothing becomes durable any more
        except OSError as problem:
            self.on_trouble("the folder of artifacts cannot be searched for orphaned files", problem)
