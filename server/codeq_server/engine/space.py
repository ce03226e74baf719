"""Watches the free space of the store. If it runs low, new tasks are rejected so that accepted tasks can still end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from codeq_server.storage.errors import StoreError

LOOK_SECONDS = 1.0
"""Time between two checks of the disk."""


class SpaceWatch:
    """Checks the free space periodically, in a thread, so that a slow disk does not block the event loop.

    Attributes:
        free_bytes: Free bytes at the last check; 0 if the disk could not be queried.
        full: Whether the free space was less than the reserve.
    """

    def __init__(
        self, free_bytes: Callable[[], int], reserve_bytes: int, on_change: Callable[[bool, int], None]
    ) -> None:
        """Makes the first check.

        Args:
            free_bytes: Returns how many bytes can still be stored; may raise a StoreError.
            reserve_bytes: Bytes to keep free for work in progress; 0: the store never counts as full.
            on_change: Called on the event loop with `full` and `free_bytes` when `full` has changed.
        """
        self._ask = free_bytes
        self._reserve = reserve_bytes
        self._on_change = on_change
        self._task: asyncio.Task[None] | None = None
        self.free_bytes = 0
        self.full = False
        self._note(self._look())

    def start(self) -> None:
        """Checks repeatedly until `stop`."""
        self._task = asyncio.get_running_loop().create_task(self._watch(), name="space-watch")

    def stop(self) -> None:
        """Stops checking."""
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._note(await asyncio.to_thread(self._look))

    def _look(self) -> int:
        try:
            return self._ask()
        except StoreError:
            return 0

    def _note(self, free_bytes: int) -> None:
        self.free_bytes = free_bytes
        full = free_bytes < self._reserve
        if full != self.full:
            self.full = full
            self._on_change(full, free_bytes)
