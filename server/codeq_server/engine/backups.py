"""Backups of a store that is being served."""

from __future__ import annotations

import asyncio
from pathlib import Path

from codeq_server.core.errors import Reason, Rejection, invalid_field
from codeq_server.storage.backup import back_up
from codeq_server.storage.store import RowSets

from .artifacts import ArtifactKeeper


class Backups:
    """Makes backups in a folder, one at a time. The operator decides how many to keep.

    Args:
        row_sets: Sets of rows of the store.
        keeper: Keeper of the store's artifacts; None: the store has no artifacts.
        folder: Folder of the backups.
    """

    def __init__(self, row_sets: RowSets, keeper: ArtifactKeeper | None, folder: Path) -> None:
        self._row_sets = row_sets
        self._keeper = keeper
        self._folder = folder
        self._making: asyncio.Task[int] | None = None

    async def make(self, name: str) -> int:
        """Makes a backup, and returns the number of artifacts in it. The backup continues if the caller is cancelled.

        Args:
            name: Name of the backup's folder: a single path component.

        Raises:
            Rejection: LIMIT_REACHED: another backup is in progress; INVALID_FIELD: the name is taken.
            StoreError: The backup failed and left nothing behind.
        """
        if self._making is not None and not self._making.done():
            raise Rejection(Reason.LIMIT_REACHED, "another backup is being made")
        self._making = asyncio.get_running_loop().create_task(self._make(self._folder / name), name="backup")
        return await asyncio.shield(self._making)

    async def stop(self) -> None:
        """Waits for the backup in progress, because the store must stay open for it."""
        if self._making is not None:
            await asyncio.gather(self._making, return_exceptions=True)

    async def _make(self, target: Path) -> int:
        if await asyncio.to_thread(target.exists):
            raise invalid_field("name", "is the name of an existing backup")
        if self._keeper is None:
            return await asyncio.to_thread(back_up, self._row_sets, target, None)
        async with self._keeper.held() as files:
            return await asyncio.to_thread(back_up, self._row_sets, target, files)
