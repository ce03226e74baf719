"""Workers take tasks over streams, run a handler for each task, and report the outcomes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVar, get_args

from codeq import arguments, runtime, signals
from codeq.endpoint import Address, Endpoint, Token
from codeq.logs import log
from codeq.metrics import Metrics, told_safely
from codeq.ownership import Owner
from codeq.tls import Tls
from codeq.tracing import SpanRelation
from codeq.worker_chain import Handler, Middleware, check_middleware
from codeq.worker_executor import HandlerExecutor
from codeq.worker_handlers import Handlers, Registration
from codeq.worker_options import WorkerOptions
from codeq.worker_stats import WorkerStats
from codeq.worker_streams import WorkerStreams

CONCURRENCY: Final = 16
"""Default concurrency: number of tasks that run at once."""

LEASE_SECONDS: Final = 60
"""Default length of leases, which are renewed as long as a task is running."""

DRAIN_SECONDS: Final = 30.0
"""Default time for running tasks to finish once the worker is stopped."""

WINDOW_BYTES: Final = 16 * 1024 * 1024
"""Default bytes of payload that the worker holds at once."""

_CREDITS_MAX: Final = 65536
_LEASE_SECONDS_MAX: Final = 43_200
_WINDOW_BYTES_MAX: Final = 1 << 30
CANCELLED_SECONDS_MAX: Final = 5.0
"""Maximum time that Worker.run waits for async handlers that it has cancelled."""

_AnyHandler = TypeVar("_AnyHandler", bound=Handler)
_AnyMiddleware = TypeVar("_AnyMiddleware", bound=Middleware)


class _Worker:
    """Base of both workers: the handlers, and their streams, which run on the SDK's own thread."""

    def __init__(
        self,
        address: Address = None,
        *,
        token: Token = None,
        tls: Tls = None,
        name: str = "",
        concurrency: int = CONCURRENCY,
        lease_seconds: int = LEASE_SECONDS,
        drain_seconds: float = DRAIN_SECONDS,
        window_bytes: int = WINDOW_BYTES,
        metrics: Metrics | None = None,
        span_relation: SpanRelation = "link",
    ) -> None:
        """Creates a worker; it connects when it runs.

        Args:
            address: Host and port of a server, or of several members of a cluster; None: CODEQ_WORKER_ADDR, else
                localhost:9091.
            token: Token, or a function that returns one; None: CODEQ_TOKEN, else no token.
            tls: False: plaintext; True: TLS with the system's roots; TlsFiles; or an ssl.SSLContext. None: the files
                that CODEQ_TLS_CA_FILE, CODEQ_TLS_CERT_FILE and CODEQ_TLS_KEY_FILE name, else plaintext.
            name: Name within the token's subject, at most 64 characters of A-Z a-z 0-9 . _ -.
            concurrency: Tasks that run at once, 1 to 65536. Each sync handler gets a thread.
            lease_seconds: Time until the tasks of a vanished worker are redelivered, 1 to 43200.
            drain_seconds: Time for running tasks to finish once the worker is stopped, 0 to 86400.
            window_bytes: Bytes of payload that the worker holds at once, 1 to 1 GiB.
            metrics: Is told when handlers start and end; None: nobody is.
            span_relation: How the span of a handler belongs to that of the create, if the program uses OpenTelemetry:
                "link", in a trace of its own, or "child", in the same trace.

        Raises:
            ValueError, TypeError: An argument is out of range or has the wrong type.
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
        self._by_command: dict[str, Registration] = {}
        self._middleware: list[Middleware] = []
        self._metrics = told_safely(metrics)
        self._span_relation = arguments.one_of(span_relation, "span_relation", get_args(SpanRelation))
        self._stats = WorkerStats()
        self._guard = threading.RLock()  # guards the fields below; reentrant, as a signal may call stop in its holder
        self._streams: WorkerStreams | None = None
        self._stop_asked: float | None = None  # seconds
        self._has_stop_called = False
        self._is_running = False

    @property
    def stats(self) -> WorkerStats:
        """Counters since the worker was created."""
        return replace(self._stats)

    def task(
        self,
        *commands: str,
        type: type | None = None,  # noqa: A002 - what it is
        limit: int | None = None,
        timeout: float | None = None,
    ) -> Callable[[_AnyHandler], _AnyHandler]:
        """Returns a decorator that registers a function as the handler of these commands.

        The function returns the result (None: no result), or a Completed, Failed, Nack, Abandon, Snooze or ParkKey. It
        may also raise the last five. Any other exception counts as a Nack with the exception's text; the task is
        retried after the server's backoff.

        If its argument is annotated with `Task[Order]`, payloads are read as values of the type Order, which is a
        dataclass, a pydantic model, a msgspec struct, or a container of them. A task whose payload does not fit ends as
        FAILED, and its error names the place.

        Args:
            *commands: Names of queues.
            type: Type of the payloads; None: that of the annotation.
            limit: Maximum number of tasks of each of these commands that run at once, 1 to the concurrency. Further
                ones wait inside the worker, where they occupy places. None: the concurrency.
            timeout: Seconds, at most a day, after which a running handler counts as stuck: an async one is cancelled
                and its task is retried, a sync one goes on. Until it ends, it keeps its place. None: no timeout.

        Raises:
            ValueError: No command is given, a command already has a handler, or an option is out of range.
            TypeError: A command is not a str, the function cannot be called with a task as its only argument, or the
                type cannot be read from JSON.
        """
        if not commands or "" in commands:
            raise ValueError("task() needs a command")
        if not all(isinstance(command, str) for command in commands):
            raise TypeError('commands must be str: write @worker.task("COMMAND") above the handler')
        if limit is not None:
            arguments.whole(limit, "limit", self._options.concurrency)
        if timeout is not None:
            arguments.seconds(timeout, "timeout")

        def register(handler: _AnyHandler) -> _AnyHandler:
            registration = Registration.of(handler, type, limit, timeout)
            for command in commands:
                if command in self._by_command:
                    raise ValueError(f"command {command} already has a handler")
                self._by_command[command] = registration
            return handler

        return register

    def middleware(self, layer: _AnyMiddleware) -> _AnyMiddleware:
        """Registers a function that wraps every handler; use it as a decorator.

        It is called with the task and the next layer, and returns `call_next(task)` or another outcome. The function
        registered first is the outermost. Around async handlers `call_next(task)` is awaitable; an async function may
        also wrap sync handlers, which still run in threads.

        Raises:
            TypeError: The function cannot be called with a task and the next layer.
        """
        check_middleware(layer)
        self._middleware.append(layer)
        return layer

    def stop(self, drain_seconds: float | None = None) -> None:
        """Stops taking tasks, and makes `run` return once the running tasks have ended. Thread-safe.

        Tasks that do not end within drain_seconds go back to the server. A second call ends the worker at once, or in
        the given drain_seconds if that is earlier than before. A signal and a call do not add up, as a program may call
        `stop` on the signal that drains the worker anyway. If called before `run`, the next `run` returns at once.

        Args:
            drain_seconds: Time for running tasks to finish, 0 to 86400; None: the worker's own drain_seconds, and 0 for
                a second call.

        Raises:
            ValueError, TypeError: drain_seconds is out of range or not a number.
        """
        self._owner.check()
        if drain_seconds is not None:
            arguments.seconds_or_zero(drain_seconds, "drain_seconds")
        with self._guard:
            is_second, self._has_stop_called = self._has_stop_called, True
        self._stop(0.0 if is_second and drain_seconds is None else drain_seconds, "")

    def _stop(self, drain_seconds: float | None, cause: str) -> None:
        seconds = self._options.drain_seconds if drain_seconds is None else drain_seconds
        with self._guard:
            self._stop_asked = seconds if self._stop_asked is None else min(seconds, self._stop_asked)
            if self._streams is not None:
                runtime.loop().call_soon_threadsafe(self._streams.stop, seconds, cause)

    async def _run(self, handler: Handler | None, commands: Sequence[str], *, handle_signals: bool) -> None:
        self._owner.check()
        handlers = Handlers(self._by_command, handler, commands, self._middleware)
        with self._guard:
            if self._is_running:
                raise RuntimeError("the worker is already running")
            self._is_running = True
        loop = asyncio.get_running_loop()
        executor = HandlerExecutor(
            handlers, loop, self._options.concurrency, self._stats, self._metrics, self._span_relation
        )
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
                self._is_running = self._has_stop_called = False
                self._stop_asked = None

    async def _transport(self, options: WorkerOptions, executor: HandlerExecutor) -> None:
        """Runs the streams on the transport's loop."""
        streams = WorkerStreams(self._endpoint, options, executor, self._stats)
        with self._guard:
            self._streams = streams
            if self._stop_asked is not None:
                streams.stop(self._stop_asked)
        try:
            await streams.run()
        finally:
            with self._guard:
                self._streams = None


class AsyncWorker(_Worker):
    """A worker inside a running event loop, which runs its async handlers. Sync handlers run in threads."""

    async def run(
        self, handler: Handler | None = None, *, commands: Sequence[str] = (), handle_signals: bool = True
    ) -> None:
        """Works until `stop` is called, SIGTERM or SIGINT arrives, or the asyncio task is cancelled (without a drain).

        Args:
            handler: Handler of commands without a decorated handler.
            commands: Commands to take in addition to the decorated commands; none, with a handler: all that the token
                allows.
            handle_signals: Whether SIGTERM and SIGINT drain this worker, together with all others of the process; they
                need a worker in the main thread. False leaves signals alone: call `stop`.

        Raises:
            Unauthenticated, PermissionDenied, InvalidField, Unsupported: The server rejects the worker for good. While
                the server is unreachable, the worker keeps trying.
            ValueError: No handler is given, or a command has none.
            TypeError: The handler cannot be called with a task, or the commands are not a list of str.
            RuntimeError: The worker is already running.
            Forked: The worker was created in another process, before a fork.
        """
        await self._run(handler, commands, handle_signals=handle_signals)


class Worker(_Worker):
    """A worker for programs without an event loop; `run` blocks. Sync handlers run in threads, async ones on a loop."""

    def run(self, handler: Handler | None = None, *, commands: Sequence[str] = (), handle_signals: bool = True) -> None:
        """Works until another thread calls `stop`, or SIGTERM or SIGINT arrives; see AsyncWorker.run."""
        runner = asyncio.Runner()
        try:
            runner.run(self._run(handler, commands, handle_signals=handle_signals))
        finally:
            _close(runner.get_loop())


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Closes a loop. Handlers that swallow their cancellation are left behind, like handlers in threads."""
    if left := asyncio.all_tasks(loop):
        for task in left:
            task.cancel()
        _, deaf = loop.run_until_complete(asyncio.wait(left, timeout=CANCELLED_SECONDS_MAX))
        if deaf:
            log.warning("%d handlers are still running after their cancellation", len(deaf))
    loop.run_until_complete(loop.shutdown_asyncgens())
    asyncio.set_event_loop(None)
    loop.close()
