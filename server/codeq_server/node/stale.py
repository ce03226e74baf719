"""Stale reads on a follower: its recent rows, opened as a read-only shard.

A view is a checkpoint of the store, opened for reading: hard links to the store's files, and thus a consistent
snapshot. (A snapshot of the RocksDB binding is not: iterating over it also shows later rows.)
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from codeq_internal.v1 import rows_pb2

from codeq_server.config import Settings
from codeq_server.core import keys
from codeq_server.core.batch import SealedBatch
from codeq_server.core.errors import CorruptRows, Reason, Rejection
from codeq_server.core.parsing import parsed
from codeq_server.core.shard import Shard
from codeq_server.engine.contents import ContentRows
from codeq_server.node.opening import load_shard, make_serving
from codeq_server.services.serving import Serving
from codeq_server.storage.errors import StoreError, StoreFailed
from codeq_server.storage.reading import open_stored
from codeq_server.storage.store import RowSets

KEPT: Final = 2
AGE_SECONDS: Final = 1.0
"""Age from which a view is replaced, if creating a new one is fast."""
AGE_PER_SECOND: Final = 10.0
"""Seconds that a view is used per second its creation took, so that at most a tenth of the time is spent on views."""


@dataclass(frozen=True, slots=True)
class _View:
    """A Serving for reads, and the resources to close once it is no longer used."""

    serving: Serving
    files: ExitStack


class StaleViews:
    """Creates views and caches the latest one.

    Args:
        settings: Settings of the server.
        row_sets: Sets of rows of the store.
        files_max: Maximum open files of each view.
        folder: Folder for checkpoints, empty or missing, on the store's disk.
    """

    def __init__(self, settings: Settings, row_sets: RowSets, files_max: int, folder: Path) -> None:
        self._settings, self._row_sets, self._files_max, self._folder = settings, row_sets, files_max, folder
        self._views: deque[_View] = deque()
        """The previous view, which calls may still be reading, and the latest one."""
        self._good_until = 0.0
        self._number = 0
        self._making: asyncio.Task[Serving] | None = None

    async def current(self) -> Serving:
        """Returns a Serving that may be used for reads only.

        Raises:
            Rejection: This node's rows cannot be read, or the node has no rows yet.
        """
        if self._views and time.monotonic() < self._good_until:
            return self._views[-1].serving
        if self._making is None:
            self._making = asyncio.get_running_loop().create_task(self._make(), name="stale-view")
        return await asyncio.shield(self._making)

    async def close(self) -> None:
        """Closes all views; afterwards the store can be closed."""
        self._good_until = 0.0
        if self._making is not None:
            await asyncio.gather(self._making, return_exceptions=True)
        while self._views:
            self._views.popleft().files.close()

    async def _make(self) -> Serving:
        started = time.monotonic()
        try:
            shard, files = await asyncio.to_thread(self._load)
        except (StoreError, CorruptRows) as problem:
            raise Rejection(Reason.NOT_LEADER, f"this node cannot read its rows at the moment: {problem}") from None
        finally:
            self._making = None
        contents = ContentRows(shard.stored, lambda _what, _problem: None)
        serving = make_serving(self._settings, shard, _NoLog(), contents, _ignore, keeps_time=False)
        if self._views:
            serving.rates.go_on_from(self._views[-1].serving.rates)
        self._views.append(_View(serving, files))
        if len(self._views) > KEPT:
            self._views.popleft().files.close()
        now = time.monotonic()
        self._good_until = now + max(AGE_SECONDS, AGE_PER_SECOND * (now - started))
        return serving

    def _load(self) -> tuple[Shard, ExitStack]:
        """Returns the shard of a new checkpoint, and the stack that closes it."""
        self._number += 1
        folder = self._folder / str(self._number)
        with ExitStack() as files:
            files.callback(shutil.rmtree, folder, ignore_errors=True)
            self._folder.mkdir(parents=True, exist_ok=True)
            self._row_sets.checkpoint(folder)
            rows = files.enter_context(open_stored(folder, self._files_max))
            value = rows.get(keys.IDENTITY)
            if value is None:
                raise StoreFailed("it has no rows yet")
            shard = load_shard(self._settings, rows, parsed(rows_pb2.IdentityRow, keys.IDENTITY, value).epoch)
            shard.batch.rows.clear()  # the cleanup done by opening is left to the leader
            return shard, files.pop_all()


class _NoLog:
    """The log of a read-only shard."""

    window = 1

    def append(self, batch: SealedBatch) -> asyncio.Future[None]:
        raise AssertionError(f"a read decided batch {batch.lsn}")

    def confirm(self) -> asyncio.Future[None] | None:
        return None

    async def close(self) -> None:
        return


def _ignore(_: BaseException) -> None:
    """Ignores a failure of a view, on which nothing depends."""
