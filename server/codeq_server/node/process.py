"""A server as a process of its own: signals end it, a ready file, the log and the terminal announce it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from typing import Final, NoReturn

import structlog

from codeq_server.config import Settings
from codeq_server.core.errors import CorruptRows
from codeq_server.log.setup import Logs, configure_logging
from codeq_server.node import summary
from codeq_server.node.app import EXIT_FAILED, Node, StoreNotClosedError, files_of
from codeq_server.node.descriptors import TooFewFilesError
from codeq_server.node.event_loop import ServerLoop
from codeq_server.node.listeners import ListenError
from codeq_server.node.private_files import write_privately
from codeq_server.services.handshake import SERVER_VERSION
from codeq_server.storage.errors import StoreError

GARBAGE_THRESHOLDS: Final = (100_000, 20, 100)
"""Garbage collector thresholds: tasks create no reference cycles, and default collections take a tenth of the CPU."""

_log = structlog.get_logger()


def serve(settings: Settings, *, verify: bool = False, rest: bool = True) -> int:
    """Runs a server until SIGTERM or SIGINT; a second signal ends the process at once.

    Args:
        settings: Settings.
        rest: Whether to serve the REST API, too; otherwise standalone gateways do.
        verify: Whether to check every row of the store first, and to refuse to start on contradictions.

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
            return runner.run(_run(settings, logs, verify=verify, rest=rest))
    except (StoreError, CorruptRows, ListenError, TooFewFilesError, _ReadyFileError) as error:
        print(f"codeq: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_FAILED


class _ReadyFileError(Exception):
    """The ready file cannot be written."""


async def _run(settings: Settings, logs: Logs, *, verify: bool, rest: bool) -> int:
    node = Node(settings, files_of(settings, rest=rest), logs, verify=verify, rest=rest)
    process = _Process(settings, node, logs)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, process.on_signal, number)
    try:
        return await node.run(process.announce)
    except StoreNotClosedError:
        process.forget_ready_file()
        process.end_now(EXIT_FAILED)
    finally:
        process.forget_ready_file()


class _Process:
    """The process of a node."""

    def __init__(self, settings: Settings, node: Node, logs: Logs) -> None:
        self._settings, self._node, self._logs = settings, node, logs

    def announce(self, ready: summary.Ready) -> None:
        """Announces that requests are served: in the ready file, the log and on the terminal.

        Raises:
            _ReadyFileError: The ready file cannot be written.
        """
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GARBAGE_THRESHOLDS)
        settings = self._settings
        if settings.ready_file is not None:
            try:
                summary.write_ready_file(settings.ready_file, ready)
            except OSError as error:
                reason = error.strerror or error
                raise _ReadyFileError(f"cannot write the ready file {settings.ready_file}: {reason}") from None
        self._node.log_start(ready)
        if settings.dev or sys.stderr.isatty():
            text = summary.text(settings, ready, SERVER_VERSION, self._node.unready())
            print(text, file=sys.stderr, flush=True)

    def forget_ready_file(self) -> None:
        """Removes the ready file, if this process wrote one."""
        if self._settings.ready_file is not None:
            summary.forget_ready_file(self._settings.ready_file)

    def on_signal(self, number: int) -> None:
        """Stops the node; the second signal ends the process at once."""
        name = signal.Signals(number).name
        if self._node.is_stopping:
            _log.warning("server_killed", signal=name)
            self.end_now(128 + number)
        self._node.stop()
        _log.info("server_stopping", signal=name, grace_seconds=self._settings.shutdown_grace_seconds)

    def end_now(self, code: int) -> NoReturn:
        """Ends the process without waiting for anything."""
        self._logs.flush()
        os._exit(code)
