"""Reads on a node that does not lead: its rows as they were a moment ago, opened like a shard that nobody changes.

A view is a checkpoint of the store, opened for reading: links to files of the store, and so of one moment.
(Iterating over a snapshot of the binding shows rows that came after it.)
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
from codeq_server.core.errors import CorruptRows, Reason, Rejection
from codeq_server.core.model import SealedBatch
from codeq_server.core.parsing import parsed
from codeq_server.core.shard import Shard
from codeq_server.node.opening import load_shard, make_serving
from codeq_server.services.serving import Serving
from codeq_server.storage.errors import StoreError, StoreFailed
from codeq_server.storage.reading import open_stored
from codeq_server.storage.rocks import RocksStore

KEPT: Final = 2
AGE_SECONDS: Final = 1.0
"""Age from which a view is not shown any more, if a new one is quickly made."""
AGE_PER_SECOND: Final = 10.0
"""How much older a view may become for each second that making it took: a tenth of the time goes to making them."""


@dataclass(frozen=True, slots=True)
class _View:
    """What answers reads, and what there is to close when nobody reads it any more."""

    serving: Serving
    files: ExitStack


class StaleViews:
    """Makes views and keeps the last one for a while.

    Args:
        settings: Settings of the server.
        store: The store.
        files_max: Files of each that may be open at a time.
        folder: Where checkpoints are made, empty or not there yet, on the disk of the store.
    """

    def __init__(self, settings: Settings, store: RocksStore, files_max: int, folder: Path) -> None:
        self._settings, self._store, self._files_max, self._folder = settings, store, files_max, folder
        self._views: deque[_View] = deque()
        """The last one, behind the one before, which calls may still be reading."""
        self._good_until = 0.0
        self._number = 0
        self._making: asyncio.Task[Serving] | None = None

    async def current(self) -> Serving:
        """Returns what serves reads; nothing else may be asked of it.

        Raises:
            Rejection: This node has no rows yet.
        """
        if self._views and time.monotonic() < self._good_until:
            return self._views[-1].serving
        if self._making is None:
            self._making = asyncio.get_running_loop().create_task(self._make(), name="stale-view")
        return await asyncio.shield(self._making)

    async def close(self) -> None:
        """Forgets what was made: the store can be closed afterwards."""
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
            raise Rejection(Reason.NOT_LEADER, f"this node cannot read its rows now: {problem}") from None
        finally:
            self._making = None
        serving = make_serving(self._settings, shard, _NoLog(), None, _ignore, keeps_time=False)
        self._views.append(_View(serving, files))
        if len(self._views) > KEPT:
            self._views.popleft().files.close()
        now = time.monotonic()
        self._good_until = now + max(AGE_SECONDS, AGE_PER_SECOND * (now - started))
        return serving

    def _load(self) -> tuple[Shard, ExitStack]:
        """Returns the shard of a new checkpoint, and what closes it."""
        self._number += 1
        folder = self._folder / str(self._number)
        with ExitStack() as files:
            files.callback(shutil.rmtree, folder, ignore_errors=True)
            self._folder.mkdir(parents=True, exist_ok=True)
            self._store.checkpoint(folder)
            rows = files.enter_context(open_stored(folder, self._files_max))
            value = rows.get(keys.IDENTITY)
            if value is None:
                raise StoreFailed("it has none yet")
            shard = load_shard(self._settings, rows, parsed(rows_pb2.IdentityRow, keys.IDENTITY, value).epoch)
            shard.batch.rows.clear()  # what an opening tidies up is left to the leader
            return shard, files.pop_all()


class _NoLog:
    """The log of a shard that decides nothing."""

    window = 1

    def append(self, batch: SealedBatch) -> asyncio.Future[None]:
        raise AssertionError(f"a read decided batch {batch.lsn}")

    def confirm(self) -> asyncio.Future[None] | None:
        return None

    async def close(self) -> None:
        return


def _ignore(_: BaseException) -> None:
    """Nothing rests on a view."""
