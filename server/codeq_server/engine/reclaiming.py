"""Reclaims the space of removed tasks, even if little is written afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from codeq_server.storage.errors import StoreError

LOOK_SECONDS = 5.0
"""Pause between two attempts."""


class Reclaiming:
    """Periodically asks a store to reclaim space, in a thread because it may take seconds."""

    def __init__(self, reclaim: Callable[[], None]) -> None:
        """Creates the task; `start` begins it.

        Args:
            reclaim: Reclaims space; may raise a StoreError.
        """
        self._reclaim = reclaim
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Asks the store repeatedly until `stop`."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="reclaiming")

    async def stop(self) -> None:
        """Stops asking; returns once nothing uses the store any more."""
        self._stopping.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while not await self._is_stopping():
            # A store that cannot reclaim space cannot write either, and the next write reports that.
            with contextlib.suppress(StoreError):
                await asyncio.to_thread(self._reclaim)

    async def _is_stopping(self) -> bool:
        """Returns True on stop, or False when the pause is over."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return await self._stopping.wait()
        except TimeoutError:
            return False
