"""The only writer of a process. Writes logs, votes and rows of all groups in rounds, each with one batch and one sync.

Work that arrives during a round goes into the next one. A round is written, then synced. Applied rows count once they
are written, because the log that decided them is durable on a majority. Logs and votes count once they are synced.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from codeq_server.core.durations import Durations
from codeq_server.storage.store import WRITTEN, ReplaceableRows

from . import log_rows

ROUND_ROWS_MAX: Final = 16_000
"""Row changes in a round, beyond which work waits for the next round; writing them blocks the event loop for about 20
ms."""
ROUND_BYTES_MAX: Final = 16 << 20
"""Bytes in a round, beyond which work waits for the next round."""


@dataclass(slots=True)
class Work:
    """A piece of work to write.

    Attributes:
        rows: Rows; None deletes.
        size: Approximate size in bytes.
        sync: Whether the work must be synced.
        written: Called on the event loop when the rows can be read.
        synced: Called on the event loop at the end of the round. The work is then durable if any work in the round has
            `sync`.
        rowset: Imported set of rows that becomes current together with this work.
    """

    rows: dict[bytes, bytes | None]
    size: int = 0
    sync: bool = False
    written: Callable[[], None] | None = None
    synced: Callable[[], None] | None = None
    rowset: str | None = None


@dataclass(slots=True)
class _Round:
    works: list[Work] = field(default_factory=list)
    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    size: int = 0
    sync: bool = False


class Disk:
    """Writes work in the order of submission.

    Args:
        store: The store.
        on_fatal: Called once when a write or a sync has failed. Nothing more is written, and the process must end.
    """

    def __init__(self, store: ReplaceableRows, on_fatal: Callable[[BaseException], None]) -> None:
        self.syncs = Durations()
        """Microseconds from the start of each round to the end of its sync."""
        self._store = store
        self._on_fatal = on_fatal
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Work] = deque()
        self._number = log_rows.read_written(store)
        self._running: asyncio.Task[None] | None = None
        self._round_began = 0.0
        self._failed = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="codeq-writer")
        self._importer = ThreadPoolExecutor(1, thread_name_prefix="codeq-importer")

    @property
    def waiting(self) -> int:
        """Number of pieces of work waiting for a round."""
        return len(self._queue)

    @property
    def round_seconds(self) -> float:
        """How long the current round has taken so far; 0 between rounds."""
        return 0.0 if self._running is None else self._loop.time() - self._round_began

    def submit(self, work: Work) -> None:
        """Queues work; it is written soon, after everything submitted before it."""
        if self._failed:
            return
        self._queue.append(work)
        if self._running is None:
            self._round_began = self._loop.time()
            self._running = self._loop.create_task(self._run(), name="raft-disk")

    async def import_rows(self, files: Sequence[Path]) -> str:
        """Imports files as a new set of rows and returns its name; `Work.rowset` makes it the current one.

        Raises:
            StoreError: The files cannot be imported.
        """
        return await self._loop.run_in_executor(self._importer, self._store.import_rows, files)

    async def drop_rows(self, name: str) -> None:
        """Drops an imported set that is not current."""
        await self._loop.run_in_executor(self._importer, self._store.drop_rows, name)

    async def close(self) -> None:
        """Writes everything submitted, and closes the store."""
        while self._running is not None:
            await self._running
        await self._loop.run_in_executor(self._importer, _nothing)
        await self._loop.run_in_executor(self._writer, self._store.close)
        self._writer.shutdown()
        self._importer.shutdown()

    async def _run(self) -> None:
        try:
            while self._queue:
                await self._work()
        except BaseException as problem:  # noqa: BLE001 - after any failure the store can no longer be trusted
            self._failed = True
            self._queue.clear()
            self._on_fatal(problem)
        self._running = None

    def _gather(self) -> _Round:
        """Takes work off the queue for one round; work that replaces all rows gets a round of its own."""
        queue, taken = self._queue, _Round()
        while queue and len(taken.rows) < ROUND_ROWS_MAX and taken.size < ROUND_BYTES_MAX:
            if queue[0].rowset is not None and taken.works:
                break
            work = queue.popleft()
            taken.works.append(work)
            taken.rows.update(work.rows)
            taken.size += work.size
            taken.sync |= work.sync
            if work.rowset is not None:
                break
        self._number += 1
        taken.rows[WRITTEN] = log_rows.written_value(self._number)
        return taken

    async def _work(self) -> None:
        taken = self._gather()
        started = time.perf_counter()
        self._round_began = self._loop.time()
        rowset = taken.works[-1].rowset
        await self._loop.run_in_executor(self._writer, self._write, taken.rows, rowset)
        for work in taken.works:
            if work.written is not None:
                work.written()
        if taken.sync:
            await self._loop.run_in_executor(self._writer, self._sync, self._number)
            self.syncs.note(int((time.perf_counter() - started) * 1_000_000))
        for work in taken.works:
            if work.synced is not None:
                work.synced()

    def _write(self, rows: dict[bytes, bytes | None], rowset: str | None) -> None:
        if rowset is None:
            self._store.write(rows)
        else:
            self._store.switch_rows(rowset, rows)

    def _sync(self, number: int) -> None:
        self._store.sync()
        self._store.note_durable(number)


def _nothing() -> None:
    """Does nothing; runs once all earlier imports are done."""
