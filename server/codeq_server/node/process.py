"""A server as a process of its own: signals end it, a ready file, the log and the terminal announce it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from typing import Final, NoReturn, Protocol

import structlog

from codeq_server.config import Settings
from codeq_server.core.errors import CorruptRows
from codeq_server.log.setup import Logs, configure_logging
from codeq_server.node import summary
from codeq_server.node.app import EXIT_FAILED, Node, StoreNotClosedError, files_of
from codeq_server.node.descriptors import TooFewFilesError
from codeq_server.node.event_loop import ServerLoop
from codeq_server.node.listeners import ListenError
from codeq_server.node.place import Child
from codeq_server.node.private_files import write_privately
from codeq_server.node.shard_processes import ShardProcesses
from codeq_server.node.siblings import watch_parent
from codeq_server.services.handshake import SERVER_VERSION
from codeq_server.storage.errors import StoreError

GARBAGE_THRESHOLDS: Final = (100_000, 20, 100)
"""Garbage collector thresholds: tasks create no reference cycles, and default collections take a tenth of the CPU."""

_log = structlog.get_logger()


def serve(settings: Settings, *, verify: bool = False, rest: bool = True, child: Child | None = None) -> int:
    """Runs a server until SIGTERM or SIGINT; a second signal ends the process at once.

    With several shards, this process starts one process for each, and ends with them.

    Args:
        settings: Settings of the server.
        rest: Whether to serve the REST API, too; otherwise standalone gateways do.
        verify: Whether to check every row of the store first, and to refuse to start on contradictions.
        child: This process serves one of several shards; None: it serves all.

    Returns:
        The exit code: 0 after a requested shutdown, otherwise EXIT_FAILED. The reason for a failed start is printed on
        stderr.

    Raises:
        ConfigError: Files that the settings name cannot be used, or the settings do not match the store.
    """
    logs = configure_logging(settings.log_level, settings.log_format)
    try:
        write_privately()
        with asyncio.Runner(loop_factory=ServerLoop) as runner:
            if child is None and settings.persistence.num_shards > 1:
                return runner.run(_run_all(settings, logs, rest=rest))
            return runner.run(_run(settings, logs, verify=verify, rest=rest, child=child))
    except (StoreError, CorruptRows, ListenError, TooFewFilesError, _ReadyFileError) as error:
        print(f"codeq: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_FAILED


class _ReadyFileError(Exception):
    """The ready file cannot be written."""


class _Stoppable(Protocol):
    """What a process runs."""

    @property
    def is_stopping(self) -> bool:
        """Whether it shuts down, or is about to."""
        ...

    def stop(self) -> None:
        """Begins to shut down."""
        ...


async def _run(settings: Settings, logs: Logs, *, verify: bool, rest: bool, child: Child | None) -> int:
    place = None if child is None else child.place
    own = settings if place is None else place.settings(settings)
    if place is not None:
        logs.about["shard"] = place.shard
    elif own.cluster is not None:
        logs.about["node"] = own.cluster.self_id
    node = Node(own, files_of(own, rest=rest), logs, verify=verify, rest=rest, place=place)
    process = _Process(own, node, logs)
    process.take_signals()

    def announce(ready: summary.Ready) -> None:
        process.save_collections()
        if child is None:
            process.announce(ready, node.unready())
        else:
            child.tell_ready()
        node.log_start(ready)

    if child is not None:
        watch_parent(child.life, process.on_orphaned)
    try:
        return await node.run(announce)
    except StoreNotClosedError:
        process.forget_ready_file()
        process.end_now(EXIT_FAILED)
    finally:
        process.forget_ready_file()


async def _run_all(settings: Settings, logs: Logs, *, rest: bool) -> int:
    shards = ShardProcesses(settings, rest=rest)
    process = _Process(settings, shards, logs)
    process.take_signals()
    try:
        return await shards.run(process.announce)
    finally:
        process.forget_ready_file()


class _Process:
    """The process of a node, or of the parent of several."""

    def __init__(self, settings: Settings, running: _Stoppable, logs: Logs) -> None:
        self._settings, self._running, self._logs = settings, running, logs

    def take_signals(self) -> None:
        """Has signals stop what runs."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.on_signal, number)

    @staticmethod
    def save_collections() -> None:
        """Tunes the garbage collector for a process that has started."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GARBAGE_THRESHOLDS)

    def announce(self, ready: summary.Ready, unready: str = "") -> None:
        """Announces that requests are served: in the ready file, and on the terminal.

        Args:
            ready: Addresses of the listeners.
            unready: Why calls are not answered yet; empty: they are.

        Raises:
            _ReadyFileError: The ready file cannot be written.
        """
        settings = self._settings
        if settings.ready_file is not None:
            try:
                summary.write_ready_file(settings.ready_file, ready)
            except OSError as error:
                reason = error.strerror or error
                raise _ReadyFileError(f"cannot write the ready file {settings.ready_file}: {reason}") from None
        if settings.dev or sys.stderr.isatty():
            print(summary.text(settings, ready, SERVER_VERSION, unready), file=sys.stderr, flush=True)

    def forget_ready_file(self) -> None:
        """Removes the ready file, if this process wrote one."""
        if self._settings.ready_file is not None:
            summary.forget_ready_file(self._settings.ready_file)

    def on_signal(self, number: int) -> None:
        """Stops the node; the second signal ends the process at once."""
        name = signal.Signals(number).name
        if self._running.is_stopping:
            _log.warning("server_killed", signal=name)
            self._running.stop()
            self.end_now(128 + number)
        self._running.stop()
        _log.info("server_stopping", signal=name, grace_seconds=self._settings.shutdown_grace_seconds)

    def on_orphaned(self) -> None:
        """Ends the process at once, because its parent is gone: the next parent needs the ports and the store."""
        _log.error("parent_gone", hint="the processes of all shards end; restart the server")
        self.end_now(EXIT_FAILED)

    def end_now(self, code: int) -> NoReturn:
        """Ends the process without waiting for anything."""
        self._logs.flush()
        os._exit(code)
