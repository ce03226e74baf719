"""Sends snapshots to other nodes in parts, over separate connections, so that messages never wait behind snapshots.

An interrupted transfer resumes where it stopped when the same snapshot is sent again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from codeq_internal.v1 import raft_pb2

from .channels import Credentials
from .network import Handler
from .snapshot_files import CHUNK_BYTES, MANIFEST, MANIFEST_BYTES_MAX, SnapshotFile, read_manifest
from .threads import in_thread
from .wire import (
    LOG_SECONDS,
    SERVICE,
    SNAPSHOT_ANSWER_SECONDS,
    SNAPSHOT_PROGRESS_SECONDS,
    Counters,
    Refused,
    Seldom,
    tell_failure,
    write_hello,
)

INSTALL_SECONDS: Final = 600.0
"""Time for the receiver to install a complete snapshot."""

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
        handler: Notified of the outcomes.
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
        """Queues a snapshot behind other snapshots for the same node; see `Network.send_snapshot`."""
        group_running, task = self._running.get(to, (None, None))
        if task is not None and group_running == group:
            task.cancel()
        self._waiting.setdefault(to, {})[group] = _Job(to, group, message, folder)
        if to not in self._lines:
            self._lines[to] = self._loop.create_task(self._run(to), name=f"raft-snapshots-{to:016x}")
            self._lines[to].add_done_callback(tell_failure)

    async def close(self) -> None:
        """Cancels all transfers; nothing more is reported."""
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
                if not task.cancelled():  # otherwise a later snapshot has replaced it
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
            fields = {"group": job.group, "to": f"{job.to:016x}", "address": address, "reason": why}
            _LOG.warning("raft_snapshot_failed", extra={"fields": fields})
        return False

    async def _connect(self, address: str, job: _Job) -> None:
        """Sends a snapshot over a connection of its own.

        Raises:
            AioRpcError: The receiver rejected the snapshot, or the connection broke.
            Refused: The node is not connected, the folder has no snapshot, or the receiver's answer is invalid.
            OSError: A file cannot be read.
            TimeoutError: The transfer made no progress.
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
        async with asyncio.timeout(SNAPSHOT_ANSWER_SECONDS):
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
                raise Refused(grpc.StatusCode.INTERNAL, "installed: the snapshot was not installed")

    async def _send_file(self, call: Any, number: int, path: Path, listed: SnapshotFile, offset: int) -> None:
        """Sends a file, starting at an offset."""
        while offset < listed.bytes:
            async with asyncio.timeout(SNAPSHOT_PROGRESS_SECONDS):
                content = await in_thread(_read_part, path, offset, min(CHUNK_BYTES, listed.bytes - offset))
                if not content:
                    raise Refused(grpc.StatusCode.DATA_LOSS, f"{path} is shorter than the manifest says")
                chunk = raft_pb2.SnapshotChunk(file=number, offset=offset, content=content)
                await _write(call, raft_pb2.InstallSnapshotRequest(chunk=chunk))
            offset += len(content)
            self._counters.snapshot_bytes_sent += len(content)


def _read_part(path: Path, offset: int, size: int) -> bytes:
    """Returns a part of a file; the last part may be shorter."""
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
        Refused: The receiver ended the call too early.
    """
    answer = await call.read()
    if answer is grpc.aio.EOF:
        raise Refused(grpc.StatusCode.ABORTED, "the receiver ended the call before it had installed the snapshot")
    assert isinstance(answer, raft_pb2.InstallSnapshotResponse)
    return answer
