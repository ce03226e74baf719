"""A server inside another program's process, for its tests: in memory, on a thread of its own, with a movable clock.

The SDK's `codeq.testing.memory_server` finds it by the entry point `memory_server` in the group `codeq.testing`. All
parts are those of a server process, except the store and the clock of the shard. Nothing else of the process changes,
apart from its soft limit on open files and, until the program configures structlog itself, structlog's output: events
go to `logging` under the name `codeq_server`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Final

import structlog

from codeq_server.config import DEV_TOKEN, ConfigError, Settings, load
from codeq_server.core import timers
from codeq_server.engine.runner import ShardRunner, system_clock
from codeq_server.log.setup import Logs
from codeq_server.node import summary
from codeq_server.node.app import Node, files_of
from codeq_server.node.event_loop import ServerLoop

START_SECONDS_MAX: Final = 60.0
"""Maximum time to start. It is generous, since many tests may run at once on a busy machine."""

ANSWER_SECONDS_MAX: Final = 60.0
"""Maximum time for due work after the clock was moved, and to stop beyond the grace period."""

GRACE_SECONDS: Final = 2
"""Grace period at the end, unless the settings name another: no test has to wait long for a client that stays."""

_FLAGS: Final = {
    "port": 0,
    "http_host": "127.0.0.1",
    "worker_stream_addr": "127.0.0.1:0",
    "producer_stream_addr": "127.0.0.1:0",
}


class MovableClock:
    """The system's clock, moved ahead; once it is frozen, it only moves when it is told to."""

    def __init__(self) -> None:
        self._ahead_ms = 0
        self._frozen: tuple[int, int] | None = None

    def __call__(self) -> tuple[int, int]:
        """Returns Unix milliseconds and monotonic milliseconds."""
        wall_ms, mono_ms = self._frozen or system_clock()
        return wall_ms + self._ahead_ms, mono_ms + self._ahead_ms

    def move(self, milliseconds: int) -> None:
        """Moves the clock ahead."""
        self._ahead_ms += milliseconds

    def freeze(self) -> None:
        """Stops the clock, unless it is stopped already."""
        self._frozen = self._frozen or system_clock()


class EmbeddedServer:
    """A server that runs from its creation until `close`. All methods may be called from any thread but its own.

    Attributes:
        producer_addr: Address for producers and clients.
        worker_addr: Address for workers.
        http_url: URL of the REST API.
        token: Token that may do everything.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        """Starts a server, and returns once it is ready.

        Args:
            env: Settings as variables; the store and the listeners cannot be set.

        Raises:
            ValueError: A setting is invalid; the message begins with its name.
        """
        _lead_events_to_logging()
        self._clock = MovableClock()
        self._ready: Future[summary.Ready] = Future()
        self._settings = _settings(env)
        self._thread = threading.Thread(target=self._serve, name="codeq-server", daemon=True)
        self._thread.start()
        ready = self._ready.result(START_SECONDS_MAX)
        assert ready.producer is not None
        assert ready.worker is not None
        assert ready.http is not None
        self.producer_addr = summary.reachable(ready.producer)
        self.worker_addr = summary.reachable(ready.worker)
        self.http_url = f"http://{summary.reachable(ready.http)}"
        self.token = DEV_TOKEN

    def unix_ms(self) -> int:
        """Returns the server's time in Unix milliseconds."""
        return self._clock()[0]

    def freeze(self) -> None:
        """Stops the server's clock: from now on only `advance` moves it."""
        self._clock.freeze()

    def advance(self, milliseconds: int) -> None:
        """Moves the server's clock ahead, from one due time to the next; returns once all due work is done."""
        asyncio.run_coroutine_threadsafe(self._advance(milliseconds), self._loop).result(ANSWER_SECONDS_MAX)

    def close(self) -> None:
        """Stops the server like SIGTERM, and waits for its end.

        Raises:
            RuntimeError: It does not end.
        """
        if not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._node.stop)
        self._thread.join(self._settings.shutdown_grace_seconds + ANSWER_SECONDS_MAX)
        if self._thread.is_alive():
            raise RuntimeError("the server in this process does not end")

    def _serve(self) -> None:
        try:
            with asyncio.Runner(loop_factory=ServerLoop) as runner:
                runner.run(self._run())
        except BaseException as problem:
            if self._ready.done():
                raise
            self._ready.set_exception(problem)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        files = files_of(self._settings, rest=True)
        self._node = Node(self._settings, files, _no_access_log(), clock=self._clock)
        await self._node.run(self._ready.set_result)

    async def _advance(self, milliseconds: int) -> None:
        runner = self._runner()
        await runner.catch_up()
        left = milliseconds
        while left > 0:
            wait = timers.next_wake(runner.shard, runner.now())
            step = left if wait is None else min(left, max(1, wait))
            self._clock.move(step)
            left -= step
            await runner.catch_up()

    def _runner(self) -> ShardRunner:
        runner = self._node.runner
        if runner is None:
            raise RuntimeError("the server in this process has stopped")
        return runner


def _settings(env: Mapping[str, str]) -> Settings:
    given = {"SHUTDOWN_GRACE_SECONDS": str(GRACE_SECONDS), **env, "PERSISTENCE_PROVIDER": "memory"}
    try:
        return load(None, given, _FLAGS, dev=True)
    except ConfigError as error:
        raise ValueError(f"{error.key}: {error.message}") from None


@functools.cache
def _no_access_log() -> Logs:
    """Returns logging without lines of calls; it is one for all servers of the process, since it has a thread."""
    return Logs("error", "text")


def _lead_events_to_logging() -> None:
    if not structlog.is_configured():
        structlog.configure(
            processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
            logger_factory=lambda *_: logging.getLogger("codeq_server"),
        )
