"""A single node: a batch is durable when the local store has synced it."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from codeq_server.core.batch import SealedBatch
from codeq_server.core.durations import Durations
from codeq_server.storage.store import DurableRows


class LocalLog:
    """Writes batches to a store from one thread, so that the event loop never waits for the disk.

    Attributes:
        syncs: Times of writes with their syncs, in microseconds; only the thread changes it.
    """

    window = 1

    def __init__(self, store: DurableRows) -> None:
        self.syncs = Durations()
        self._store = store
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="codeq-writer")

    def append(self, batch: SealedBatch) -> asyncio.Future[None]:
        """Returns a future that is done when the batch is synced."""
        return asyncio.get_running_loop().run_in_executor(self._writer, self._write, batch)

    def confirm(self) -> None:
        """Returns None: the store is locked, so no other process decides."""

    async def close(self) -> None:
        """Waits for the writer and closes the store."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writer, self._store.close)
        self._writer.shutdown()

    def _write(self, batch: SealedBatch) -> None:
        started = time.perf_counter()
        self._store.write(batch.rows)
        self._store.sync()
        self.syncs.note(int((time.perf_counter() - started) * 1_000_000))
        self._store.note_durable(batch.lsn)
