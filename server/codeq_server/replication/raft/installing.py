"""Installs snapshots from the leader: imports the rows first, then replaces rows and log in one write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from codeq_raft_core import Snapshot, snapshot_of

from .applying import AppliedState
from .disk import Disk
from .stored_log import StoredLog


class SnapshotNotWanted(Exception):  # noqa: N818 - what it is
    """A received snapshot is not installed, for example because it is older than the local state."""


@dataclass(slots=True)
class _Staged:
    """A snapshot whose rows are imported but not yet current."""

    index: int
    rowset: str
    done: asyncio.Future[None]
    taken: bool = False


class Installer:
    """Installs the snapshots of a member, one at a time.

    Args:
        disk: Imports the files.
        log: The log that a snapshot replaces.
        state: The state that a snapshot replaces.
        receive: Passes a message to the core.
        pump: Handles the core's work.
    """

    def __init__(
        self,
        disk: Disk,
        log: StoredLog,
        state: AppliedState,
        receive: Callable[[bytes], None],
        pump: Callable[[], None],
    ) -> None:
        self._disk, self._log, self._state = disk, log, state
        self._receive, self._pump = receive, pump
        self._staged: _Staged | None = None
        self._stopped = False

    async def install(self, message: bytes, files: Sequence[Path]) -> None:
        """Replaces the rows and the log with a snapshot; returns when the snapshot is durable.

        A snapshot no newer than the local state counts as installed; otherwise the leader would send it forever.

        Args:
            message: The Raft message that came with the snapshot.
            files: Files with the snapshot's rows, in key order.

        Raises:
            SnapshotNotWanted: The message has no snapshot or is older than the term, or another snapshot is being
                installed.
            StoreError: The files cannot be imported.
        """
        snapshot = snapshot_of(message)
        if snapshot is None or self._staged is not None or self._stopped:
            raise SnapshotNotWanted
        if snapshot.index <= self._state.applied.index:
            self._receive(message)  # the core reports this member's progress to the leader
            return
        staged = self._staged = _Staged(snapshot.index, "", asyncio.get_running_loop().create_future())
        try:
            staged.rowset = await self._disk.import_rows(files)
            self._receive(message)
            self._pump()
            if not staged.taken:
                if not self._stopped:  # otherwise the next opening of the store drops them
                    await self._disk.drop_rows(staged.rowset)
                raise SnapshotNotWanted
            await staged.done
        finally:
            self._staged = None

    def take(self, snapshot: Snapshot) -> tuple[dict[bytes, bytes | None], str]:
        """Takes over the snapshot that the core has accepted; returns the row changes and the snapshot's row set."""
        staged = self._staged
        assert staged is not None, "a snapshot without its rows"
        assert staged.index == snapshot.index, "a snapshot without its rows"
        staged.taken = True
        rows = self._log.replace(snapshot.index, snapshot.term)
        self._state.replace(snapshot, rows)
        return rows, staged.rowset

    def persisted(self) -> None:
        """Ends an installation: the snapshot is durable."""
        if self._staged is not None and not self._staged.done.done():
            self._staged.done.set_result(None)

    def stop(self) -> None:
        """Rejects further snapshots."""
        self._stopped = True
