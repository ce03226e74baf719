"""Workers: take tasks over one stream, run a handler for each, report the outcomes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from codeq import arguments, runtime, signals
from codeq.backoff import Backoff
from codeq.dialing import Tls
from codeq.endpoint import Address, Endpoint, Token
from codeq.logs import log
from codeq.ownership import Owner
from codeq.worker_handlers import Handler, HandlerExecutor, Handlers, check_handler
from codeq.worker_stream import WorkerOptions, WorkerStats, WorkerStream

CONCURRENCY: Final = 16
"""Tasks that run at a time where the worker does not say."""

LEASE_SECONDS: Final = 60
"""Length of leases where the worker does not say; they are renewed while a task runs, whatever their length."""

DRAIN_SECONDS: Final = 30.0
"""Time that running tasks have to end once the worker is stopped, where it does not say."""

WINDOW_BYTES: Final = 16 * 1024 * 1024
"""Bytes of payload that may be with the worker at a time, where it does not say."""

_CREDITS_MAX: Final = 65536
_LEASE_SECONDS_MAX: Final = 43_200
_WINDOW_BYTES_MAX: Final = 1 << 30
CANCELLED_SECONDS_MAX: Final = 5.0
"""Longest wait of Worker.run for async handlers that it has cancelled."""

_AnyHandler = TypeVar("_AnyHandler", bound=Handler)


class _Worker:
    """What both workers are: handlers, and one run at a time of the stream on the SDK's own thread."""

    def __init__(
        self,
        address: Address = None,
        *,
        token: Token = None,
        tls: Tls = False,
        name: str = "",
        concurrency: int = CONCURRENCY,
        lease_seconds: int = LEASE_SECONDS,
        drain_seconds: float = DRAIN_SECONDS,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        """A worker; it connects when it runs.

        Args:
            address: Host and port, or those of several members of a cluster; None: CODEQ_WORKER_ADDR, else
                localhost:9091.
            token: Token, or a function that returns one; None: CODEQ_TOKEN, else no token.
            tls: False: plaintext; True: TLS with the system's roots; or an ssl.SSLContext.
            name: Name within the token's subject, at most 64 characters of A-Z a-z 0-9 . _ -.
            concurrency: Tasks that run at a time, 1 to 65536. Sync handlers have a thread each.
            lease_seconds: Time after which a task of a worker that vanished is delivered again, 1 to 43200.
            drain_seconds: Time that running tasks have to end once the worker is stopped, 0 to 86400.
            window_bytes: Bytes of payload that may be with the worker at a time, 1 to 1 GiB.

        Raises:
            ValueError, TypeError: An argument is out of its bounds, or of another type.
        """
        self._owner = Owner(type(self).__name__)
        self._endpoint = Endpoint.for_worker(address, token, tls)
        self._options = WorkerOptions(
            name=arguments.worker_name(name),
            commands=(),
            concurrency=arguments.whole(concurrency, "concurrency", _CREDITS_MAX),
            lease_seconds=arguments.whole(lease_seconds, "lease_seconds", _LEASE_SECONDS_MAX),
            window_bytes=arguments.whole(window_bytes, "window_bytes", _WINDOW_BYTES_MAX),
            drain_seconds=arguments.seconds_or_zero(drain_seconds, "drain_seconds"),
        )
        self._by_command: dict[str, Handler] = {}
        self._stats = WorkerStats()
        self._guard = threading.RLock()  # of the two below; a signal may interrupt its holder with a stop
        self._stream: WorkerStream | None = None
        self._stop_asked: float | None = None
        self._is_running = False

    @property
    def stats(self) -> WorkerStats:
        """What the worker has seen since it was made."""
        return replace(self._stats)

    def task(self, *commands: str) -> Callable[[_AnyHandler], _AnyHandler]:
        """Decorator: the function takes the tasks of these commands.

        What the function returns is the result (None: no result), or a Completed, Failed, Nack or Abandon. It may raise
        the latter three; any other exception is a Nack with its text, tried again after the server's backoff.

        Raises:
            ValueError: No command, or one that has a handler already.
            TypeError: A command is no text, or the function cannot be called with a task alone.
        """
        if not commands or "" in commands:
            raise ValueError("task() needs a command")
        if not all(isinstance(command, str) for command in commands):
            raise TypeError('commands are texts: write @worker.task("COMMAND") above the handler')

        def register(handler: _AnyHandler) -> _AnyHandler:
            check_handler(handler)
            for command in commands:
                if command in self._by_command:
                    raise ValueError(f"command {command} has a handler already")
                self._by_command[command] = handler
            return handler

        return register

    def stop(self, drain_seconds: float | None = None) -> None:
        """Take no more tasks, and let `run` return when those running have ended; any thread may call it.

        What has not ended within the time (None: the worker's drain_seconds) is given back to the server. Called before
        `run`, it lets the next one return at once.

        Raises:
            ValueError, TypeError: drain_seconds is out of its bounds, or no number.
        """
        self._owner.check()
        if drain_seconds is not None:
            arguments.seconds_or_zero(drain_seconds, "drain_seconds")
        self._stop(drain_seconds, "")

    def _stop(self, drain_seconds: float | None, cause: str) -> None:
        seconds = self._options.drain_seconds if drain_seconds is None else drain_seconds
        with self._guard:
            self._stop_asked = seconds
            if self._stream is not None:
                runtime.loop().call_soon_threadsafe(self._stream.stop, seconds, cause)

    async def _run(self, handler: Handler | None, commands: Sequence[str], *, handle_signals: bool) -> None:
        self._owner.check()
        handlers = Handlers(self._by_command, handler, commands)
        with self._guard:
            if self._is_running:
                raise RuntimeError("the worker runs already")
            self._is_running = True
        loop = asyncio.get_running_loop()
        executor = HandlerExecutor(handlers, loop, self._options.concurrency)
        options = replace(self._options, commands=handlers.commands)
        transport = asyncio.run_coroutine_threadsafe(self._transport(options, executor), runtime.loop())
        ended = asyncio.wrap_future(transport)
        try:
            with signals.stopping(self._stop) if handle_signals else contextlib.nullcontext():
                await asyncio.shield(ended)
        except asyncio.CancelledError:
            self.stop(0.0)
            await asyncio.gather(ended, return_exceptions=True)
            raise
        finally:
            executor.close()
            with self._guard:
                self._is_running = False
                self._stop_asked = None

    async def _transport(self, options: WorkerOptions, executor: HandlerExecutor) -> None:
        """The part that runs on the transport's loop."""
        stream = WorkerStream(self._endpoint, options, executor, self._stats, Backoff())
        with self._guard:
            self._stream = stream
            if self._stop_asked is not None:
                stream.stop(self._stop_asked)
        try:
            await stream.run()
        finally:
            with self._guard:
                self._stream = None


class AsyncWorker(_Worker):
    """A worker within a running event loop, on which its async handlers run; sync ones run in threads."""

    async def run(
        self, handler: Handler | None = None, *, commands: Sequence[str] = (), handle_signals: bool = True
    ) -> None:
        """Work until `stop` is called, SIGTERM or SIGINT comes, or the task is cancelled (then without a drain).

        Args:
            handler: Handler of the commands that have none by decorator.
            commands: Commands to take beside the decorated ones; none with a handler: all that the token allows.
            handle_signals: Whether to drain at SIGTERM and SIGINT, together with all other workers of the process; only
                in the main thread. False leaves signals alone: call `stop`.

        Raises:
            Unauthenticated, PermissionDenied, InvalidField, Unsupported: The server refuses the worker for good. While
                it cannot be reached, the worker keeps trying.
            ValueError: A command without a handler.
            Forked: The worker was made in another process, before a fork.
        """
        await self._run(handler, commands, handle_signals=handle_signals)


class Worker(_Worker):
    """A worker for programs without an event loop: `run` blocks. Sync handlers run in threads, async ones on a loop."""

    def run(self, handler: Handler | None = None, *, commands: Sequence[str] = (), handle_signals: bool = True) -> None:
        """Work until `stop` is called from another thread, or SIGTERM or SIGINT comes; see AsyncWorker.run."""
        runner = asyncio.Runner()
        try:
            runner.run(self._run(handler, commands, handle_signals=handle_signals))
        finally:
            _close(runner.get_loop())


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop. Handlers that do not let themselves be cancelled are left behind, as those in threads are."""
    if left := asyncio.all_tasks(loop):
        for task in left:
            task.cancel()
        _, deaf = loop.run_until_complete(asyncio.wait(left, timeout=CANCELLED_SECONDS_MAX))
        if deaf:
            log.warning("%d handlers do not end though they were cancelled", len(deaf))
    loop.run_until_complete(loop.shutdown_asyncgens())
    asyncio.set_event_loop(None)
    loop.close()
