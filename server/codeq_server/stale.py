"""Reads on a node that does not lead: its rows as they were a moment ago, opened like a shard that nobody changes."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from codeq_server.config import Settings
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.model import SealedBatch
from codeq_server.opening import load_shard, make_serving
from codeq_server.services.serving import Serving
from codeq_server.storage.errors import StoreError
from codeq_server.storage.identity import load_identity
from codeq_server.storage.rocks import RocksStore

AGE_SECONDS: Final = 1.0
"""Age from which a view is not shown any more, if a new one is quickly made."""
AGE_PER_SECOND: Final = 10.0
"""How much older a view may become for each second that making it took: a tenth of the time goes to making them."""


class StaleViews:
    """Makes views and keeps the last one for a while.

    Args:
        settings: Settings of the server.
        store: The store.
    """

    def __init__(self, settings: Settings, store: RocksStore) -> None:
        self._settings, self._store = settings, store
        self._view: Serving | None = None
        self._good_until = 0.0
        self._making: asyncio.Task[Serving] | None = None

    async def current(self) -> Serving:
        """Returns what serves reads; nothing else may be asked of it.

        Raises:
            Rejection: This node has no rows yet.
        """
        if self._view is not None and time.monotonic() < self._good_until:
            return self._view
        if self._making is None:
            self._making = asyncio.get_running_loop().create_task(self._make(), name="stale-view")
        return await asyncio.shield(self._making)

    async def close(self) -> None:
        """Forgets the view: the store can be closed afterwards."""
        self._good_until = 0.0
        if self._making is not None:
            await asyncio.gather(self._making, return_exceptions=True)
        self._view = None

    async def _make(self) -> Serving:
        try:
            started = time.monotonic()
            identity = load_identity(self._store)
            if identity is None:
                raise Rejection(Reason.NOT_LEADER, "this node has no tasks yet; try again")
            view = self._store.view()
            shard = await asyncio.to_thread(load_shard, self._settings, view, identity.epoch)
            shard.batch.rows.clear()  # what an opening tidies up is left to the leader
            self._view = make_serving(self._settings, shard, _NoLog(), None, _ignore, keeps_time=False)
        except StoreError as problem:
            raise Rejection(Reason.NOT_LEADER, f"this node cannot read its rows now: {problem}") from None
        else:
            now = time.monotonic()
            self._good_until = now + max(AGE_SECONDS, AGE_PER_SECOND * (now - started))
            return self._view
        finally:
            self._making = None


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
