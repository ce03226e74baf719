"""A server of several shards: a parent process that starts one process per shard, and starts it again when it ends.

The parent serves nothing. It holds the ports, so that no other program takes them while a process is down, and passes
on the signal to stop. The processes share the ports: the system spreads connections over them. With Raft, the parent
also accepts the connections of other nodes, and passes each on to the process of its group.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from codeq_server.config import Address, Settings
from codeq_server.node import summary
from codeq_server.node.descriptors import raise_limit, tunnels_in
from codeq_server.node.listeners import listeners_of, refuse_taken, reserve
from codeq_server.node.peer_front import TUNNELS_MAX, PeerFront
from codeq_server.node.place import BEAT_SECONDS, LOOPBACK, VARIABLE, Place
from codeq_server.storage.errors import StoreError
from codeq_server.storage.layout import (
    held_layout,
    is_store_lost,
    note_store,
    prepare_layout,
    shard_path,
)
from codeq_server.storage.moved import prepare_moved

PAUSE_SECONDS_MIN: Final = 0.1
"""Pause before a process that ended is started again; it doubles each time that the process ends early."""
PAUSE_SECONDS_MAX: Final = 5.0
"""Longest pause."""
SOUND_SECONDS: Final = 30.0
"""A process that has served this long did not end early."""
HANG_BEATS: Final = 15
"""A process that has served and misses this many beats in a row hangs, and is killed."""
PIPE_BYTES: Final = 65_536
"""Bytes read from a pipe at a time: all that it can hold."""
KILL_SECONDS: Final = 5.0
"""Time beyond the grace period after which a process that does not stop is killed."""

_log = structlog.get_logger()


@dataclass(slots=True)
class _Process:
    """The process of a shard, over all its starts.

    Attributes:
        shard: Index of the shard.
        tried: Set once it has become ready or ended for the first time.
        pid: Id of the running process; 0: none runs.
        is_ready: Whether it answers calls.
        missed: Beats that are missing from a process that was ready.
    """

    shard: int
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    pid: int = 0
    is_ready: bool = False
    missed: int = 0


class ShardProcesses:
    """Runs the processes of a server's shards.

    Args:
        settings: Settings of the server.
        rest: Whether the processes serve the REST API, too.
    """

    def __init__(self, settings: Settings, *, rest: bool) -> None:
        assert settings.persistence.path is not None
        self._path = settings.persistence.path
        self._settings, self._rest = settings, rest
        self._processes = [_Process(shard) for shard in range(settings.persistence.num_shards)]
        self._stopping = asyncio.Event()

    @property
    def is_stopping(self) -> bool:
        """Whether the processes are being stopped."""
        return self._stopping.is_set()

    async def run(self, announce: Callable[[summary.Ready], None]) -> int:
        """Runs the processes until `stop`.

        Args:
            announce: Called once each process answers calls or has failed to start.

        Returns:
            The exit code: 1 if no process could be started.

        Raises:
            ListenError: A port cannot be opened.
            StoreError: The folder holds another number of shards, is in use, or cannot be used.
            TooFewFilesError: This process may open too few files to pass on connections of other nodes.
        """
        with ExitStack() as stack:
            ready, place = self._hold_ports(stack)
            prepare_layout(self._path, self._settings.persistence.num_shards)
            stack.enter_context(held_layout(self._path))
            prepare_moved(self._path, self._settings.persistence.num_shards)
            if self._settings.raft is not None:
                tunnels_max = min(TUNNELS_MAX, tunnels_in(raise_limit()))
                front = PeerFront({"raft": place.raft, "calls": place.peers}, tunnels_max)
                stack.callback(front.stop)
                await front.start(self._settings.raft.bind_addr)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._keep(process, place)) for process in self._processes]
                await asyncio.wait([group.create_task(process.tried.wait()) for process in self._processes])
                if not any(process.is_ready for process in self._processes) and not self.is_stopping:
                    _log.error("no_shard_started", hint="each process says why in its lines")
                    self.stop()
                    await asyncio.wait(tasks)
                    return 1
                if not self.is_stopping:
                    announce(ready)
        _log.info("server_stopped")
        return 0

    def stop(self) -> None:
        """Stops the processes like SIGTERM; called again, kills them."""
        if self.is_stopping:
            for process in self._processes:
                if process.pid:
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)
        self._stopping.set()

    # -- ports ---------------------------------------------------------------------------------------------------------

    def _hold_ports(self, stack: ExitStack) -> tuple[summary.Ready, Place]:
        """Binds every port without listening; returns the addresses, and the place of the first process."""
        settings = self._settings
        wanted = listeners_of(settings, rest=self._rest)
        refuse_taken(wanted)
        rest, streams = wanted.get("PORT"), dict.fromkeys((settings.worker_stream_addr, settings.producer_stream_addr))
        http = None if rest is None else Address(rest.host, self._hold(stack, rest))
        bound = {a: None if a is None else Address(a.host, self._hold(stack, a)) for a in streams}
        worker, producer = bound[settings.worker_stream_addr], bound[settings.producer_stream_addr]
        ports = self._loopback_ports(stack)
        numbers = [0 if address is None else address.port for address in (http, worker, producer)]
        place = Place(0, ports, secrets.token_hex(32), numbers[0], numbers[1], numbers[2])
        if settings.raft is not None:
            place = replace(place, raft=self._loopback_ports(stack), peers=self._loopback_ports(stack))
        return summary.Ready(http, worker, producer), place

    def _loopback_ports(self, stack: ExitStack) -> tuple[int, ...]:
        """Holds one loopback port for each process."""
        return tuple(self._hold(stack, Address(LOOPBACK, 0)) for _ in self._processes)

    @staticmethod
    def _hold(stack: ExitStack, address: Address) -> int:
        held: socket.socket = stack.enter_context(reserve(address))
        port: int = held.getsockname()[1]
        return port

    # -- processes -----------------------------------------------------------------------------------------------------

    async def _keep(self, process: _Process, first: Place) -> None:
        """Starts the process of a shard again and again, until the server stops."""
        place = replace(first, shard=process.shard)
        loop, pause = asyncio.get_running_loop(), PAUSE_SECONDS_MIN
        try:
            while not self.is_stopping:
                started = loop.time()
                is_lost = is_store_lost(self._path, process.shard)
                code = None if is_lost else await self._run(process, place)
                process.tried.set()
                if self.is_stopping:
                    return
                pause = PAUSE_SECONDS_MIN if loop.time() - started > SOUND_SECONDS else pause
                if is_lost:
                    _log.error("shard_store_missing", **self._missing(process.shard), pause_seconds=pause)
                else:
                    _log.error(
                        "shard_process_ended",
                        shard=process.shard,
                        exit_code=code,
                        pause_seconds=pause,
                        hint="calls on this shard are rejected until its process serves again",
                    )
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._stopping.wait()
                pause = min(2 * pause, PAUSE_SECONDS_MAX)
        finally:
            process.tried.set()

    async def _run(self, process: _Process, place: Place) -> int:
        """Runs a process to its end; returns its exit code."""
        life, told = os.pipe()
        ready, answered = os.pipe()
        try:
            os.write(told, place.encoded())
            try:
                child = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *sys.orig_argv[1:],
                    env={**os.environ, VARIABLE: f"{life},{answered}"},
                    pass_fds=(life, answered),
                    start_new_session=True,  # the terminal's signals reach the parent only, which passes them on
                )
            finally:
                os.close(life)
                os.close(answered)
            process.pid = child.pid
            return await self._watch(process, child, ready)
        finally:
            process.pid, process.is_ready = 0, False
            os.close(told)
            os.close(ready)

    async def _watch(self, process: _Process, child: asyncio.subprocess.Process, ready: int) -> int:
        loop = asyncio.get_running_loop()

        def hear() -> None:
            process.missed = 0
            if not os.read(ready, PIPE_BYTES):
                loop.remove_reader(ready)
            elif not process.is_ready:
                process.is_ready = True
                process.tried.set()
                self._note_store(process.shard)

        loop.add_reader(ready, hear)
        tasks = [loop.create_task(self._stop_in_time(child)), loop.create_task(self._kill_if_hung(process, child))]
        try:
            return await child.wait()
        finally:
            for task in tasks:
                task.cancel()
            loop.remove_reader(ready)

    async def _kill_if_hung(self, process: _Process, child: asyncio.subprocess.Process) -> None:
        """Kills a process that answers no more, so that it is started again, unless the server stops.

        A process that is being started is left alone: the recovery of a large store keeps its event loop busy for as
        long as it takes, and would begin anew.

        It counts its own turns, not time: if this process was suspended, the beats of the others wait in their pipes.
        """
        process.missed = 0
        while process.missed < HANG_BEATS:
            await asyncio.sleep(BEAT_SECONDS)
            process.missed += process.is_ready and not self.is_stopping
        seconds = round(HANG_BEATS * BEAT_SECONDS)
        _log.error("shard_process_hangs", shard=process.shard, seconds=seconds, hint="it is killed, and started again")
        with suppress(ProcessLookupError):
            child.kill()

    def _note_store(self, shard: int) -> None:
        try:
            note_store(self._path, shard)
        except StoreError as error:
            hint = "if the store of this shard is ever missing, it is taken for a new one"
            _log.warning("shard_store_not_noted", shard=shard, error=str(error), hint=hint)

    def _missing(self, shard: int) -> dict[str, object]:
        """Returns what the log says of a missing store."""
        hint = "mount the disk with the folder, or restore the store of this shard from a backup; then it is served"
        return {"shard": shard, "path": str(shard_path(self._path, shard)), "hint": hint}

    async def _stop_in_time(self, child: asyncio.subprocess.Process) -> None:
        """Passes on the signal to stop, and kills a process that does not stop within the grace period."""
        await self._stopping.wait()
        with suppress(ProcessLookupError):
            child.terminate()
            await asyncio.sleep(self._settings.shutdown_grace_seconds + KILL_SECONDS)
            child.kill()
