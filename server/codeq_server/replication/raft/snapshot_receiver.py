"""Receives snapshots from other nodes and passes them on for installation.

Received files are removed when the snapshot is installed or rejected, when another snapshot of the group arrives, and
KEEP_SECONDS after an interruption.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from codeq_internal.v1 import raft_pb2

from .network import Handler
from .snapshot_files import IncomingFiles, remove_folders
from .threads import in_thread
from .wire import (
    LOG_SECONDS,
    SNAPSHOT_ANSWER_SECONDS,
    SNAPSHOT_PROGRESS_SECONDS,
    Counters,
    Refused,
    Seldom,
    meet,
    read_hello,
    refuse,
)

KEEP_SECONDS: Final = 600.0
"""How long parts of a snapshot are kept after its transfer was interrupted."""

CLOSE_SECONDS: Final = 10.0
"""Time for installations to finish when the node stops."""

_LOG: Final = logging.getLogger("codeq.raft.transport")


class _Transfer:
    """An incoming snapshot.

    Attributes:
        limit: Deadline of the transfer.
        superseded: Whether another snapshot of the group replaces it.
        installing: Whether the snapshot is complete and the transfer can no longer be given up.
        ended: Set when the files are no longer used.
    """

    def __init__(self, limit: asyncio.Timeout) -> None:
        self.limit = limit
        self.superseded = False
        self.installing = False
        self.ended = asyncio.Event()

    def go_on(self, seconds: float) -> None:
        """Extends the deadline.

        Raises:
            Refused: Another snapshot replaces this one.
        """
        if self.superseded:
            raise Refused(grpc.StatusCode.ABORTED, "another snapshot of the group has arrived")
        self.limit.reschedule(asyncio.get_running_loop().time() + seconds)

    def supersede(self) -> None:
        """Makes the transfer end soon.

        Raises:
            Refused: The snapshot is being installed.
        """
        if self.installing:
            raise Refused(grpc.StatusCode.UNAVAILABLE, "another snapshot of the group is being installed")
        if not self.superseded:
            self.superseded = True
            with suppress(RuntimeError):  # the transfer has just timed out
                self.limit.reschedule(asyncio.get_running_loop().time())


class SnapshotReceiver:
    """Receives snapshots: one at a time per group, the latest.

    Args:
        incoming: Folder for the snapshots' files.
        reserve_bytes: Free space to leave on its disk.
        handler: Installs the snapshots.
        counters: Counters to update.
    """

    def __init__(self, incoming: Path, reserve_bytes: int, handler: Handler, counters: Counters) -> None:
        self._incoming = incoming
        self._reserve_bytes = reserve_bytes
        self._handler = handler
        self._counters = counters
        self._transfers: dict[int, _Transfer] = {}
        self._removals: dict[int, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._logged = Seldom(LOG_SECONDS)

    async def start(self) -> None:
        """Creates the folder if it is missing.

        Raises:
            OSError: The folder cannot be created.
        """
        self._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def close(self) -> None:
        """Waits for installations for a limited time, then cancels them; called when no more calls are served."""
        for removal in self._removals.values():
            removal.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def install_snapshot(self, _: object, context: Any) -> None:
        """Serves InstallSnapshot."""
        try:
            async with asyncio.timeout(SNAPSHOT_ANSWER_SECONDS) as limit:
                frame = await context.read()
                if frame is grpc.aio.EOF:
                    return
                task = await self._take(frame.offer, context, limit)
            # A complete snapshot is installed even if the sender disconnects.
            await asyncio.shield(task)
            await context.write(raft_pb2.InstallSnapshotResponse(installed=True))
        except Refused as refusal:
            self._refuse(context, refusal.code, str(refusal))
        except TimeoutError:
            self._refuse(context, grpc.StatusCode.DEADLINE_EXCEEDED, "no progress, or a later snapshot arrived")

    async def _take(self, offer: raft_pb2.SnapshotOffer, context: Any, limit: asyncio.Timeout) -> asyncio.Task[None]:
        """Receives a snapshot and starts to install it.

        Returns:
            A task that ends when the snapshot is installed, and fails with Refused if it cannot be installed.

        Raises:
            Refused: The snapshot is not wanted, is incomplete, or cannot be stored.
            TimeoutError: The transfer made no progress.
        """
        mine, message = self._handler.hello(), offer.message
        peer = read_hello(offer.hello, mine)
        if message.to_id != mine.raft_id or message.from_id != peer.raft_id:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION, "offer.message: not for this node, or not from its sender"
            )
        if peer.cluster_id != mine.cluster_id:
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "offer.hello: this node has not joined the cluster yet")
        meet(self._handler, peer, "")
        group = message.group_id
        while (earlier := self._transfers.get(group)) is not None:
            earlier.supersede()
            await earlier.ended.wait()
        if group in self._removals:
            self._removals.pop(group).cancel()
        transfer = self._transfers[group] = _Transfer(limit)
        files = IncomingFiles(self._incoming, group, offer.manifest, self._reserve_bytes)
        try:
            await self._fetch(files, context, transfer)
        except OSError as error:
            # Frees the space that the snapshot took on a full disk.
            await in_thread(remove_folders, self._incoming, group)
            raise Refused(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"the snapshot cannot be stored: {error.strerror or error}"
            ) from error
        finally:
            if not transfer.installing:
                self._release(group, transfer)
        return self._keep(self._install(group, message.content, files.folder, transfer))

    async def _fetch(self, files: IncomingFiles, context: Any, transfer: _Transfer) -> None:
        """Receives the files; if this fails, the parts that have arrived stay."""
        await in_thread(files.begin)
        transfer.go_on(SNAPSHOT_PROGRESS_SECONDS)
        position = raft_pb2.SnapshotPosition(file=files.file, offset=files.offset)
        await context.write(raft_pb2.InstallSnapshotResponse(wanted=position))
        while not files.whole:
            frame = await context.read()
            if frame is grpc.aio.EOF:
                raise Refused(grpc.StatusCode.ABORTED, "the sender ended the call before everything had arrived")
            chunk = frame.chunk
            before = files.taken
            try:
                await in_thread(files.write, chunk.file, chunk.offset, chunk.content)
            finally:
                self._counters.snapshot_bytes_received += files.taken - before
            transfer.go_on(SNAPSHOT_PROGRESS_SECONDS)
        await in_thread(files.end)
        transfer.go_on(SNAPSHOT_PROGRESS_SECONDS)
        transfer.installing = True

    async def _install(self, group: int, message: bytes, folder: Path, transfer: _Transfer) -> None:
        """Installs a complete snapshot through the handler, and removes its remaining files."""
        try:
            await self._handler.install(group, message, folder)
            self._counters.snapshots_received += 1
        except Exception as error:
            # Whatever the reason, it concerns the sender and is not an error of the transport.
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, f"not installed: {error}") from error
        finally:
            await in_thread(remove_folders, self._incoming, group)
            self._release(group, transfer)

    def _release(self, group: int, transfer: _Transfer) -> None:
        """Admits the next snapshot of the group. If none arrives, the files of this snapshot are removed later."""
        del self._transfers[group]
        transfer.ended.set()
        self._removals[group] = asyncio.get_running_loop().call_later(KEEP_SECONDS, self._remove, group)

    def _remove(self, group: int) -> None:
        del self._removals[group]
        self._keep(asyncio.to_thread(remove_folders, self._incoming, group))

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts a task that outlives the call that started it."""
        task = asyncio.get_running_loop().create_task(work, name="raft-snapshot-install")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # marks the exception as retrieved; a caller that waits for the task still gets it

    def _refuse(self, context: Any, code: grpc.StatusCode, why: str) -> None:
        if self._logged.allows(code):
            _LOG.warning("raft_snapshot_refused", extra={"fields": {"from": context.peer(), "reason": why}})
        refuse(context, code, why)
