"""A standalone gateway: serves the REST API and sends all calls to servers over call streams.

It reads its routes from a server, so it starts once one answers. The server authenticates every call.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Final

import grpc.aio
import structlog
from codeq_gateway.app import Gateway, Probes
from codeq_gateway.exposition import Exposition
from codeq_gateway.links import open_channel
from codeq_gateway.metrics import HttpMetrics
from codeq_gateway.reflection import Schema, SchemaError, read_schema
from codeq_gateway.remote import RemoteDispatcher
from codeq_gateway.server import GatewayServer
from prometheus_client import ProcessCollector

from codeq_server.config import Address, GatewaySettings
from codeq_server.log.setup import Logs, LostLines, configure_logging
from codeq_server.node import summary
from codeq_server.node.certificates import Certificates
from codeq_server.node.descriptors import Files, TooFewFilesError, raise_limit, share
from codeq_server.node.event_loop import ServerLoop
from codeq_server.node.listeners import warn_plaintext
from codeq_server.node.private_files import write_privately

START_SECONDS: Final = 60.0
"""Time for a server to answer at startup."""

ASK_SECONDS: Final = 0.2
"""Pause before all servers are asked again."""

LAST_WORDS_SECONDS: Final = 1.0
"""Part of the grace period reserved for replying to clients whose calls were cancelled."""

EXIT_FAILED: Final = 1
"""Exit code of a gateway that failed to start."""

_VERSION: Final = version("codeq-server")
_log = structlog.get_logger()


class StartError(Exception):
    """The gateway cannot start; the text says why."""


def serve_gateway(settings: GatewaySettings) -> int:
    """Runs a gateway until SIGTERM or SIGINT; a second signal ends the process at once.

    Returns:
        The exit code: 0 after a requested shutdown, otherwise EXIT_FAILED. The reason for a failed start is printed on
        stderr.

    Raises:
        ConfigError: Files that the settings name cannot be used.
    """
    logs = configure_logging(settings.log_level, settings.log_format)
    try:
        write_privately()
        files = share(raise_limit(), http=settings.http_connections_max, grpc=0, grpc_ports=0, peers=0)
        with asyncio.Runner(loop_factory=ServerLoop) as runner:
            return runner.run(_Process(settings, files, logs).run())
    except (StartError, TooFewFilesError) as error:
        print(f"codeq: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_FAILED


class _Process:
    """The gateway of this process."""

    def __init__(self, settings: GatewaySettings, files: Files, logs: Logs) -> None:
        self._settings, self._files = settings, files
        self._logs = logs
        self._stopping = asyncio.Event()
        self._exposition = Exposition()
        self._http_metrics = HttpMetrics()
        self._certificates = Certificates(settings.http_tls, None, settings.server_tls, "codeq_gateway")

    async def run(self) -> int:
        """Starts the gateway, serves until a signal, and shuts down; returns the exit code.

        Raises:
            StartError: No server answered, the port cannot be opened or the ready file cannot be written.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        self._certificates.start()
        try:
            await self._serve()
        finally:
            await self._certificates.stop()
        _log.info("gateway_stopped")
        return 0

    async def _serve(self) -> None:
        """Serves until a signal; see `run`."""
        schema = await self._schema()
        if schema is None:
            return
        dispatcher = RemoteDispatcher(
            self._settings.server_addrs,
            schema.pool,
            schema.services,
            self._settings.gateway_secret,
            credentials=self._certificates.server_credentials,
        )
        try:
            gateway = self._server(self._gateway(schema, dispatcher))
            try:
                http = Address(self._settings.http.host, await gateway.start())
            except OSError as error:
                raise StartError(str(error)) from None
            try:
                self._announce(http)
                await self._stopping.wait()
            finally:
                await gateway.stop(max(0.0, self._settings.shutdown_grace_seconds - LAST_WORDS_SECONDS))
                self._forget_ready_file()
        finally:
            await dispatcher.close()

    async def _schema(self) -> Schema | None:
        """Returns the schema of the first server that answers; None: the process was asked to stop.

        Raises:
            StartError: No server answered in time, or one does not describe its services.
        """
        give_up = asyncio.get_running_loop().time() + START_SECONDS
        problem, is_told = "", False
        while not self._stopping.is_set():
            for address in self._settings.server_addrs:
                async with open_channel(address, self._certificates.server_credentials()) as channel:
                    try:
                        return await read_schema(channel)
                    except grpc.aio.AioRpcError as error:
                        problem = f"{address}: {error.details() or error.code().name}"
                    except SchemaError as error:
                        raise StartError(f"{address}: {error}") from None
            if asyncio.get_running_loop().time() > give_up:
                raise StartError(f"no server answered within {START_SECONDS:.0f} seconds; {problem}")
            if not is_told:
                _log.info("server_awaited", servers=",".join(self._settings.server_addrs), problem=problem)
                is_told = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASK_SECONDS):
                    await self._stopping.wait()
        return None

    def _gateway(self, schema: Schema, dispatcher: RemoteDispatcher) -> Gateway:
        http_metrics = self._http_metrics
        self._exposition.add(http_metrics)
        self._exposition.add(self._certificates)
        ProcessCollector(namespace="codeq_gateway", registry=self._exposition.registry)
        self._exposition.add(LostLines(self._logs, "codeq_gateway"))

        async def ready() -> tuple[bool, Mapping[str, object]]:
            is_ready, details = await dispatcher.readiness()
            return is_ready and not self._stopping.is_set(), details

        async def metrics() -> bytes:
            return await self._exposition.text() + await dispatcher.metrics()

        try:
            return Gateway(
                schema.services,
                dispatcher,
                Probes(ready, metrics),
                http_metrics,
                access_log=self._logs.access.http,
                allowed_hosts=self._settings.allowed_hosts or None,
                version=_VERSION,
                cors_origins=self._settings.cors_origins,
            )
        except (TypeError, ValueError) as error:
            raise StartError(f"this version cannot serve the server's calls: {error}") from None

    def _server(self, gateway: Gateway) -> GatewayServer:
        address, files = self._settings.http, self._files
        return GatewayServer(
            gateway,
            address.host,
            address.port,
            connections_max=files.http,
            backlog=files.backlog,
            tls=self._certificates.http,
        )

    def _announce(self, http: Address) -> None:
        """Announces that requests are served: in the ready file, the log and on the terminal."""
        settings = self._settings
        if settings.ready_file is not None:
            try:
                summary.write_ready_file(settings.ready_file, summary.Ready(http, None, None))
            except OSError as error:
                reason = error.strerror or error
                raise StartError(f"cannot write the ready file {settings.ready_file}: {reason}") from None
        servers = ",".join(settings.server_addrs)
        _log.info("gateway_started", version=_VERSION, http=str(http), servers=servers, pid=os.getpid())
        if settings.http_tls is None:
            warn_plaintext({"http": http})
        for note in settings.notes:
            _log.warning("configuration_note", setting=note.key, hint=note.message)
        if self._files.http < settings.http_connections_max:
            _log.warning(
                "few_open_files",
                limit=self._files.limit,
                http_connections=self._files.http,
                hint="raise RLIMIT_NOFILE (ulimit -Hn, systemd LimitNOFILE) to allow the configured connections",
            )
        if settings.dev or sys.stderr.isatty():
            lines = [
                f"codeq {_VERSION} gateway is ready",
                *summary.rest_line(settings, http),
                f"  servers    {servers}  (gRPC)",
            ]
            print("\n".join(lines) + "\n", file=sys.stderr, flush=True)

    def _forget_ready_file(self) -> None:
        if self._settings.ready_file is not None:
            summary.forget_ready_file(self._settings.ready_file)

    def _on_signal(self, number: int) -> None:
        name = signal.Signals(number).name
        if self._stopping.is_set():
            _log.warning("gateway_killed", signal=name)
            self._logs.flush()
            os._exit(128 + number)
        self._stopping.set()
        _log.info("gateway_stopping", signal=name, grace_seconds=self._settings.shutdown_grace_seconds)
