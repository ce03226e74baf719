"""Sees to it that the space of removed tasks comes back, also when little is written afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from codeq_server.storage.errors import StoreError

LOOK_SECONDS: Final = 5.0
"""Time between two looks at the store."""


class Reclaiming:
    """Asks a store again and again to give back space, from a thread: it may take the store seconds."""

    def __init__(self, reclaim: Callable[[], None]) -> None:
        """Prepares it.

        Args:
            reclaim: Gives back space; may raise a StoreError.
        """
        self._reclaim = reclaim
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Goes on asking until `stop`."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="reclaiming")

    async def stop(self) -> None:
        """Ends it; on return nothing uses the store any more."""
        self._stopping.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while not await self._is_stopping():
            # A store that cannot give back space cannot write either, and the next write tells that.
            with contextlib.suppress(StoreError):
                await asyncio.to_thread(self._reclaim)

    async def _is_stopping(self) -> bool:
        """Returns True at the stop, or False when it is time to look."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return await self._stopping.wait()
        except TimeoutError:
            return False
