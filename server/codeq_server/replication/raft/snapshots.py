"""Snapshots between nodes: files sent in parts over separate connections, so that messages never wait behind them.

An interrupted transfer resumes where it stopped when the same snapshot is sent again. Received files are removed when
the snapshot is installed or rejected, when another snapshot of the group arrives, and some time after an interruption.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from codeq_internal.v1 import raft_pb2

from .channels import Credentials
from .network import Handler
from .snapshot_files import (
    CHUNK_BYTES,
    MANIFEST,
    MANIFEST_BYTES_MAX,
    IncomingFiles,
    SnapshotFile,
    read_manifest,
    remove_folders,
)
from .threads import in_thread
from .wire import (
    LOG_SECONDS,
    SERVICE,
    Counters,
    Refused,
    Seldom,
    meet,
    read_hello,
    refuse,
    tell_failure,
    write_hello,
)

ANSWER_SECONDS: Final = 30.0
"""Time for the offer of a snapshot to arrive or be answered: the receiver reads what it already has of it."""

PROGRESS_SECONDS: Final = 30.0
"""Time for each part to be sent or to arrive."""

INSTALL_SECONDS: Final = 600.0
"""Time for the receiver to install a complete snapshot."""

KEEP_SECONDS: Final = 600.0
"""How long parts of a snapshot are kept after its transfer was interrupted."""

CLOSE_SECONDS: Final = 10.0
"""Time for installations to finish when the node stops."""

_LOG: Final = logging.getLogger("codeq.raft.transport")


@dataclass(frozen=True, slots=True)
class _Job:
    """A snapshot to send."""

    to: int
    group: int
    message: bytes
    folder: Path


class SnapshotSender:
    """Sends snapshots: one at a time per node, and only the latest of each group.

    Args:
        credentials: Prove the identity of this node to others.
        handler: Told the outcome.
        counters: Counters to update.
        address_of: Returns the address of a node by its Raft id, empty if it is not connected.
    """

    def __init__(
        self, credentials: Credentials, handler: Handler, counters: Counters, address_of: Callable[[int], str]
    ) -> None:
        self._credentials = credentials
        self._handler = handler
        self._counters = counters
        self._address_of = address_of
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, dict[int, _Job]] = {}
        self._running: dict[int, tuple[int, asyncio.Task[bool]]] = {}
        self._lines: dict[int, asyncio.Task[None]] = {}
        self._logged = Seldom(LOG_SECONDS)

    def send(self, to: int, group: int, message: bytes, folder: Path) -> None:
        """Queues a snapshot behind those waiting for the same node; see `Network.send_snapshot`."""
        group_running, task = self._running.get(to, (None, None))
        if task is not None and group_running == group:
            task.cancel()
        self._waiting.setdefault(to, {})[group] = _Job(to, group, message, folder)
        if to not in self._lines:
            self._lines[to] = self._loop.create_task(self._run(to), name=f"raft-snapshots-{to:016x}")
            self._lines[to].add_done_callback(tell_failure)

    async def close(self) -> None:
        """Gives up all transfers; nothing more is reported."""
        self._waiting.clear()
        tasks = [*self._lines.values(), *(task for _, task in self._running.values())]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, to: int) -> None:
        """Sends the snapshots waiting for a node."""
        try:
            while waiting := self._waiting.get(to):
                group = next(iter(waiting))
                job = waiting.pop(group)
                task = self._loop.create_task(self._send(job), name=f"raft-snapshot-{group}-{to:016x}")
                self._running[to] = group, task
                await asyncio.wait([task])
                del self._running[to]
                if not task.cancelled():  # else a later one has replaced it
                    self._handler.snapshot_sent(group, to, task.result())
        finally:
            self._waiting.pop(to, None)
            del self._lines[to]

    async def _send(self, job: _Job) -> bool:
        """Sends a snapshot; returns whether it was installed."""
        address = self._address_of(job.to)
        try:
            await self._connect(address, job)
        except grpc.aio.AioRpcError as error:
            why = f"{error.code().name}: {error.details()}"
        except TimeoutError:
            why = "no progress"
        except (Refused, OSError) as error:
            why = str(error)
        else:
            self._counters.snapshots_sent += 1
            return True
        self._counters.snapshots_failed += 1
        if self._logged.allows((job.to, job.group, why)):
            _LOG.warning("raft_snapshot_failed group=%d to=%016x address=%s reason=%s", job.group, job.to, address, why)
        return False

    async def _connect(self, address: str, job: _Job) -> None:
        """Sends a snapshot over a connection of its own.

        Raises:
            AioRpcError: The receiver rejected it, or the connection broke.
            Refused: The node is not connected, the folder has no snapshot, or the receiver's answer is invalid.
            OSError: A file cannot be read.
            TimeoutError: There is no progress.
        """
        if not address:
            raise Refused(grpc.StatusCode.UNAVAILABLE, "the node is not connected")
        channel = self._credentials.open_channel(address)
        try:
            await self._transfer(channel, job)
        finally:
            await channel.close()

    async def _transfer(self, channel: grpc.aio.Channel, job: _Job) -> None:
        manifest = await in_thread(_read_part, job.folder / MANIFEST, 0, MANIFEST_BYTES_MAX + 1)
        files = read_manifest(manifest)
        mine = self._handler.hello()
        call: Any = channel.stream_stream(
            f"/{SERVICE}/InstallSnapshot",
            request_serializer=raft_pb2.InstallSnapshotRequest.SerializeToString,
            response_deserializer=raft_pb2.InstallSnapshotResponse.FromString,
        )(metadata=self._credentials.metadata)
        message = raft_pb2.RaftMessage(group_id=job.group, from_id=mine.raft_id, to_id=job.to, content=job.message)
        offer = raft_pb2.SnapshotOffer(hello=write_hello(mine), message=message, manifest=manifest)
        async with asyncio.timeout(ANSWER_SECONDS):
            await _write(call, raft_pb2.InstallSnapshotRequest(offer=offer))
            wanted = (await _read(call)).wanted
        if not 0 <= wanted.file <= len(files):
            raise Refused(grpc.StatusCode.OUT_OF_RANGE, f"wanted.file: {wanted.file} of {len(files)}")
        offset = wanted.offset
        for number in range(wanted.file, len(files)):
            await self._send_file(call, number, job.folder / files[number].name, files[number], offset)
            offset = 0
        async with asyncio.timeout(INSTALL_SECONDS):
            if not (await _read(call)).installed:
                raise Refused(grpc.StatusCode.INTERNAL, "installed: it is not")

    async def _send_file(self, call: Any, number: int, path: Path, listed: SnapshotFile, offset: int) -> None:
        """Sends a file, starting at an offset."""
        while offset < listed.bytes:
            async with asyncio.timeout(PROGRESS_SECONDS):
                content = await in_thread(_read_part, path, offset, min(CHUNK_BYTES, listed.bytes - offset))
                if not content:
                    raise Refused(grpc.StatusCode.DATA_LOSS, f"{path} is shorter than the manifest says")
                chunk = raft_pb2.SnapshotChunk(file=number, offset=offset, content=content)
                await _write(call, raft_pb2.InstallSnapshotRequest(chunk=chunk))
            offset += len(content)
            self._counters.snapshot_bytes_sent += len(content)


class _Transfer:
    """An incoming snapshot.

    Attributes:
        limit: When the transfer is given up.
        superseded: Whether another snapshot of the group is to replace it.
        installing: Whether it is complete and can no longer be given up.
        ended: Set when its files are no longer used.
    """

    def __init__(self, limit: asyncio.Timeout) -> None:
        self.limit = limit
        self.superseded = False
        self.installing = False
        self.ended = asyncio.Event()

    def go_on(self, seconds: float) -> None:
        """Extends its deadline.

        Raises:
            Refused: Another one is to replace it.
        """
        if self.superseded:
            raise Refused(grpc.StatusCode.ABORTED, "another snapshot of the group comes")
        self.limit.reschedule(asyncio.get_running_loop().time() + seconds)

    def supersede(self) -> None:
        """Makes it end soon.

        Raises:
            Refused: It is being installed.
        """
        if self.installing:
            raise Refused(grpc.StatusCode.UNAVAILABLE, "another snapshot of the group is being installed")
        if not self.superseded:
            self.superseded = True
            with suppress(RuntimeError):  # its time has just run out
                self.limit.reschedule(asyncio.get_running_loop().time())


class SnapshotReceiver:
    """Receives snapshots: one at a time per group, the latest.

    Args:
        incoming: Folder for their files.
        reserve_bytes: Free space to leave on its disk.
        handler: Installs them.
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
            OSError: It failed.
        """
        self._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def close(self) -> None:
        """Waits a while for installations, then cancels them; called when no calls are served any more."""
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
            async with asyncio.timeout(ANSWER_SECONDS) as limit:
                frame = await context.read()
                if frame is grpc.aio.EOF:
                    return
                task = await self._take(frame.offer, context, limit)
            # A complete snapshot is installed even if the sender goes away.
            await asyncio.shield(task)
            await context.write(raft_pb2.InstallSnapshotResponse(installed=True))
        except Refused as refusal:
            self._refuse(context, refusal.code, str(refusal))
        except TimeoutError:
            self._refuse(context, grpc.StatusCode.DEADLINE_EXCEEDED, "no progress, or a later snapshot comes")

    async def _take(self, offer: raft_pb2.SnapshotOffer, context: Any, limit: asyncio.Timeout) -> asyncio.Task[None]:
        """Receives a snapshot and starts to install it.

        Returns:
            A task that ends when it is installed, and fails with Refused if it was not.

        Raises:
            Refused: It is not wanted, incomplete, or cannot be stored.
            TimeoutError: There is no progress.
        """
        mine, message = self._handler.hello(), offer.message
        peer = read_hello(offer.hello, mine)
        if message.to_id != mine.raft_id or message.from_id != peer.raft_id:
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "offer.message: it is for another node, or not its own")
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
        """Receives the files; what has arrived stays if that fails."""
        await in_thread(files.begin)
        transfer.go_on(PROGRESS_SECONDS)
        position = raft_pb2.SnapshotPosition(file=files.file, offset=files.offset)
        await context.write(raft_pb2.InstallSnapshotResponse(wanted=position))
        while not files.whole:
            frame = await context.read()
            if frame is grpc.aio.EOF:
                raise Refused(grpc.StatusCode.ABORTED, "the sender ended before everything had come")
            chunk = frame.chunk
            before = files.taken
            try:
                await in_thread(files.write, chunk.file, chunk.offset, chunk.content)
            finally:
                self._counters.snapshot_bytes_received += files.taken - before
            transfer.go_on(PROGRESS_SECONDS)
        await in_thread(files.end)
        transfer.go_on(PROGRESS_SECONDS)
        transfer.installing = True

    async def _install(self, group: int, message: bytes, folder: Path, transfer: _Transfer) -> None:
        """Has a complete snapshot installed, and removes its remaining files."""
        try:
            await self._handler.install(group, message, folder)
            self._counters.snapshots_received += 1
        except Exception as error:
            # Whatever the reason, it concerns the sender and is no fault of the transport.
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, f"not installed: {error}") from error
        finally:
            await in_thread(remove_folders, self._incoming, group)
            self._release(group, transfer)

    def _release(self, group: int, transfer: _Transfer) -> None:
        """Lets the next snapshot of the group come; the files of this one are removed later, unless one does."""
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
            task.exception()  # marks it as retrieved: whoever waits for the task still gets it

    def _refuse(self, context: Any, code: grpc.StatusCode, why: str) -> None:
        if self._logged.allows(code):
            _LOG.warning("raft_snapshot_refused from=%s reason=%s", context.peer(), why)
        refuse(context, code, why)


def _read_part(path: Path, offset: int, size: int) -> bytes:
    """Returns a part of a file, shorter at the file's end."""
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        return file.read(size)


async def _write(call: Any, frame: raft_pb2.InstallSnapshotRequest) -> None:
    """Sends a frame.

    Raises:
        AioRpcError: The receiver ended the call.
    """
    try:
        await call.write(frame)
    except asyncio.InvalidStateError:
        await _read(call)


async def _read(call: Any) -> raft_pb2.InstallSnapshotResponse:
    """Returns the next answer.

    Raises:
        AioRpcError: The receiver ended the call.
        Refused: It ended the call too early.
    """
    answer = await call.read()
    if answer is grpc.aio.EOF:
        raise Refused(grpc.StatusCode.ABORTED, "the receiver ended before it had installed the snapshot")
    assert isinstance(answer, raft_pb2.InstallSnapshotResponse)
    return answer
