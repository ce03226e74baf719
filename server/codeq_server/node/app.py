"""A node: builds the shard's host, the listeners and the services from settings, and shuts them down in order.

Shutdown: health reports NOT_SERVING and new calls are rejected; streams are notified and running calls drain; pending
decisions are committed; the store is closed. All of this fits within the configured grace period.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

import grpc.aio
import structlog
from codeq_gateway.app import Gateway, Probes
from codeq_gateway.bodies import InFlight
from codeq_gateway.exposition import Exposition
from codeq_gateway.metrics import HttpMetrics
from codeq_gateway.remote import Forwarder
from codeq_gateway.server import GatewayServer
from google.protobuf import descriptor_pool
from grpc_health.v1 import health, health_pb2_grpc
from prometheus_client import GCCollector, ProcessCollector

from codeq_server.config import Address, Settings
from codeq_server.engine.runner import Clock, ShardRunner, system_clock
from codeq_server.log.setup import Logs, LostLines
from codeq_server.node import summary
from codeq_server.node.authentication import Authentication
from codeq_server.node.certificates import Certificates
from codeq_server.node.descriptors import Files, raise_limit, share
from codeq_server.node.doorkeeper import Doorkeeper
from codeq_server.node.hosting import Host
from codeq_server.node.listeners import ListenError, listen, listeners_of, new_server, refuse_taken
from codeq_server.node.local_host import LocalHost
from codeq_server.node.owners import owners_of
from codeq_server.node.pages import MetricsPages
from codeq_server.node.place import Place
from codeq_server.node.readiness import Readiness
from codeq_server.node.siblings import Siblings
from codeq_server.node.start_log import log_start
from codeq_server.node.telemetry import Spans, spans_of
from codeq_server.profiling.listener import DebugListener
from codeq_server.replication.raft.channels import CONNECTIONS_MAX as PEER_CONNECTIONS_MAX
from codeq_server.services.call_stream import CallStreams, ServerProbes
from codeq_server.services.calls import Calls
from codeq_server.services.cluster import ClusterService
from codeq_server.services.grpc_front import PRODUCE, WORK, GrpcFront
from codeq_server.services.grpc_metrics import GrpcMetrics
from codeq_server.services.handshake import SERVER_VERSION
from codeq_server.services.local_dispatch import LocalDispatcher
from codeq_server.services.metrics import ShardCollector
from codeq_server.services.reflection import enable_reflection
from codeq_server.services.server_info import ServerService
from codeq_server.services.serving import Serving
from codeq_server.services.shard_table import ShardTable
from codeq_server.services.tokenless import TokenlessServer
from codeq_server.storage.errors import StoreError
from codeq_server.webhooks.outgoing import outgoing_of

HTTP_GRACE_SECONDS_MAX: Final = 2.0
"""Maximum time to drain HTTP requests at shutdown; those that take longer wait for work that will not come."""

FINISH_SECONDS: Final = 1.5
"""Part of the grace period reserved for committing and closing after the last call."""

FATAL_GRACE_SECONDS: Final = 2.0
"""Time to report unknown outcomes to callers after a failed commit."""

EXIT_FAILED: Final = 1
"""Exit code of a server that failed to start or to continue."""

_log = structlog.get_logger()


class StoreNotClosedError(Exception):
    """The store did not close in time; threads that wait for its disk may keep the process alive."""


class Node:
    """A server on the running event loop.

    Args:
        settings: Settings.
        files: Shares of the open files.
        logs: Where calls are logged.
        verify: Whether to check every row of the store first, and to refuse to start on contradictions.
        rest: Whether to serve the REST API, too; otherwise standalone gateways do.
        clock: Clock of the shard on a single node.
        spans: Makes spans; None: those of the settings.
        place: Place of this process, if there are several shards. The settings are those of this process.
    """

    def __init__(
        self,
        settings: Settings,
        files: Files,
        logs: Logs,
        *,
        verify: bool = False,
        rest: bool = True,
        clock: Clock = system_clock,
        spans: Spans | None = None,
        place: Place | None = None,
    ) -> None:
        self._rest, self._owners = rest, owners_of(settings.cluster, place, settings.raft)
        self._is_child = place is not None
        self._siblings: Siblings | None = None
        self._streams: CallStreams | None = None
        self._settings, self._files = settings, files
        self._logs = logs
        self._stopping = asyncio.Event()
        self._failed = False
        self._end_by = 0.0
        self._health = health.aio.HealthServicer()
        self._http: GatewayServer | None = None
        self._doorkeeper = Doorkeeper(lambda: 0 if self._http is None else self._http.connections)
        self._door = self._doorkeeper.door(files.grpc)
        self._certificates = Certificates(
            settings.http_tls if rest else None, settings.grpc_tls, settings.server_tls, "codeq"
        )
        self._spans = spans_of(settings) if spans is None else spans
        self._outgoing = outgoing_of(settings, None if self._spans is None else self._spans.callbacks)
        self._host = self._new_host(verify=verify, clock=clock)
        self._in_flight = InFlight()
        self._authentication = Authentication(settings.auth)
        self._calls = Calls(
            self._authentication.authenticator,
            ShardTable(self._host.absence, self._host.stale),
            viewers_see_content=settings.auth.viewer_sees_payloads,
        )
        self._readiness = Readiness(self._calls, self._host.absence, self._host.behind)

    async def run(self, announce: Callable[[summary.Ready], None]) -> int:
        """Starts the server, serves until `stop` or a failure, and shuts down.

        Args:
            announce: Called once requests are served; an exception that it raises shuts the server down.

        Returns:
            The exit code.

        Raises:
            StoreError, CorruptRows: The store cannot be opened.
            StoreNotClosedError: The store did not close in time.
            ListenError: A port cannot be opened, or two listeners name the same one.
        """
        if not self._is_child:  # before anything is created on disk; otherwise the parent has checked the ports
            refuse_taken(listeners_of(self._settings, rest=self._rest))
        await self._host.start(self._present, self._readiness.changed)
        async with AsyncExitStack() as stack:
            if self._spans is not None:
                stack.push_async_callback(self._spans.stop)
            stack.push_async_callback(self._close)
            stack.callback(self._authentication.stop)
            self._authentication.start()
            server = new_server(self._files.grpc, processes=self._processes)
            stack.push_async_callback(server.stop, 0)
            exposition = self._exposition()
            if self._owners is not None:
                credentials = self._certificates.server_credentials
                known = self._door.known.add
                moved = self._owners.moved(self._settings.persistence.path)
                self._siblings = Siblings(self._owners, self._calls, server, known, _log_defect, credentials, moved)
                self._siblings.shards.on_change = self._readiness.changed
                stack.push_async_callback(self._siblings.close)
            pages = MetricsPages(exposition, self._siblings)
            others = None if self._siblings is None else self._siblings.groups
            cluster = ClusterService(
                self._host.cluster, fsync=self._settings.persistence.fsync_on_commit, others=others
            )
            probes = ServerProbes(
                lambda: self._told(self._readiness.grpc()), pages.for_gateways, pages.own, cluster.own_groups
            )
            streams = self._serve_grpc(server, cluster, probes, exposition, stack)
            exposition.add(streams)
            worker, producer = self._listen(server)
            if self._rest:
                self._http = self._gateway(stack, pages)
            await server.start()
            http = None if self._http is None else await self._start_rest(stack, self._http)
            stack.push_async_callback(self._certificates.stop)
            self._certificates.start()
            stack.push_async_callback(self._doorkeeper.stop)
            self._doorkeeper.start()
            if self._settings.codeq_pprof:
                stack.callback(self._debug_listener().stop)
            if self._siblings is not None:
                await self._siblings.meet()
            announce(summary.Ready(http, worker, producer))
            await self._stopping.wait()
            await self._drain(server, streams)
        _log.info("server_stopped")
        return EXIT_FAILED if self._failed else 0

    @property
    def _processes(self) -> int:
        """Number of processes that share the ports."""
        return 1 if self._owners is None else self._owners.processes

    @property
    def runner(self) -> ShardRunner | None:
        """Runner of the shard; None: this node does not serve it."""
        serving = self._calls.shards.serving
        return None if serving is None else serving.runner

    # -- parts -------------------------------------------------------------------------------------------------------

    def _new_host(self, *, verify: bool, clock: Clock) -> Host:
        settings, files = self._settings, self._files
        if settings.raft is None:
            at = 0 if self._owners is None else self._owners.mine.shard
            outgoing = self._outgoing
            return LocalHost(settings, files, self._on_fatal, verify=verify, outgoing=outgoing, clock=clock, shard=at)
        # Imported only here: a single node runs without the extension that Raft needs.
        from codeq_server.node.raft_host import RaftHost  # noqa: PLC0415

        door = self._doorkeeper.door(files.peers)
        at = 0 if self._owners is None else self._owners.mine.shard
        return RaftHost(
            settings,
            settings.raft,
            files,
            door,
            self._certificates,
            self._outgoing,
            self._on_fatal,
            verify=verify,
            shard=at,
        )

    def _serve_grpc(
        self,
        server: grpc.aio.Server,
        cluster: ClusterService,
        probes: ServerProbes,
        exposition: Exposition,
        stack: AsyncExitStack,
    ) -> CallStreams:
        """Adds every service to the server, with reflection and health; returns the gateways' call streams."""
        persistence = self._settings.persistence
        self._calls.register("codeq.v1.ClusterService", cluster, cluster.members)
        self._calls.register(
            "codeq.v1.ServerService",
            ServerService(
                version=SERVER_VERSION,
                mode=self._host.mode,
                fsync=persistence.fsync_on_commit,
                persistence_provider=self._settings.persistence_provider,
                num_shards=self._settings.num_shards,
                backups=self._host.upkeep.backups,
                settled=self._calls.settled,
                on_trouble=_log_backup,
            ),
        )
        grpc_metrics = GrpcMetrics((*(method.name for method in self._calls.public_methods()), PRODUCE, WORK))
        exposition.add(grpc_metrics)
        access_log = grpc_metrics.counting(self._logs.access.grpc)
        front = GrpcFront(
            self._calls,
            self._in_flight,
            self._door.known.add,
            access_log,
            _log_defect,
            grpc_metrics.ended,
            None if self._spans is None else self._spans.grpc,
        )
        names = front.register(server)
        telling = asyncio.get_running_loop().create_task(self._readiness.tell(self._health, names), name="health")
        stack.callback(telling.cancel)
        tokenless: Any = TokenlessServer(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, tokenless)
        enable_reflection(tokenless, (*names, health.SERVICE_NAME))
        streams = CallStreams(
            self._calls,
            self._in_flight,
            [self._settings.gateway_secret],
            None if self._owners is None else self._owners.mine,
            probes,
            self._door.known.add,
            access_log,
            _log_defect,
            self._calls.shards.current,
        )
        streams.register(server)
        self._streams = streams
        return streams

    def _listen(self, server: grpc.aio.Server) -> tuple[Address | None, Address | None]:
        """Opens the gRPC ports; returns the addresses for workers and producers."""
        wanted = (self._settings.worker_stream_addr, self._settings.producer_stream_addr)
        owners, shared = self._owners, self._processes > 1
        ports = {
            address: listen(server, address, self._certificates.grpc_credentials(), shared=shared)
            for address in dict.fromkeys(wanted)
            if address is not None
        }
        self._door.ports.update(ports.values())
        if owners is not None and owners.are_one_server:
            listen(server, owners.listen, shared=True)
            if owners.groups is not None:
                listen(server, owners.groups.listen, self._certificates.grpc_credentials(), shared=True)
                self._door.ports.add(owners.groups.listen.port)
        elif owners is not None:
            self._door.ports.add(listen(server, owners.listen, self._certificates.grpc_credentials()))
        worker, producer = (None if a is None else Address(a.host, ports[a]) for a in wanted)
        return worker, producer

    def _exposition(self) -> Exposition:
        """Returns the server's metrics, except those of gRPC and HTTP."""
        exposition = Exposition()
        ProcessCollector(registry=exposition.registry)
        GCCollector(registry=exposition.registry)
        exposition.add(LostLines(self._logs, "codeq"))
        exposition.add(self._certificates)
        shard = ShardCollector(
            lambda: self._calls.shards.serving,
            self._host.upkeep.space,
            by_tenant=self._settings.metrics_tenant_label,
        )
        exposition.add(shard, shard.refresh)
        for collector in self._host.collectors:
            exposition.add(collector)
        return exposition

    def _gateway(self, stack: AsyncExitStack, pages: MetricsPages) -> GatewayServer:
        http_metrics = HttpMetrics()
        pages.requests.add(http_metrics)

        async def ready() -> tuple[bool, Mapping[str, object]]:
            return self._told(self._readiness.rest())

        forwarder = Forwarder(
            descriptor_pool.Default(),
            self._calls.services,
            self._settings.gateway_secret,
            self._certificates.server_credentials,
        )
        stack.push_async_callback(forwarder.close)
        gateway = Gateway(
            self._calls.services,
            LocalDispatcher(self._calls, forwarder.call),
            Probes(ready, pages.for_rest, self._readiness.starting),
            http_metrics,
            access_log=self._logs.access.http,
            allowed_hosts=self._settings.allowed_hosts or None,
            version=SERVER_VERSION,
            cors_origins=self._settings.cors_origins,
            bodies=self._in_flight,
            spans=None if self._spans is None else self._spans.requests,
        )
        address, files = self._settings.http, self._files
        return GatewayServer(
            gateway,
            address.host,
            address.port,
            connections_max=files.http,
            backlog=files.backlog,
            tls=self._certificates.http,
            shared=self._processes > 1,
        )

    async def _start_rest(self, stack: AsyncExitStack, gateway: GatewayServer) -> Address:
        """Opens the REST port; returns its address."""
        stack.push_async_callback(gateway.stop, 0)
        try:
            return Address(self._settings.http.host, await gateway.start())
        except OSError as error:
            raise ListenError(str(error)) from None

    def _debug_listener(self) -> DebugListener:
        """Opens the port for profiles.

        Raises:
            ListenError: The port cannot be opened.
        """
        address = self._settings.codeq_pprof_addr
        try:
            return DebugListener(address.host, address.port, lambda: self._logs.level, self._change_log_level)
        except OSError as error:
            raise ListenError(f"CODEQ_PPROF_ADDR {address}: {error.strerror or error}") from None

    def _change_log_level(self, level: str) -> None:
        """Changes the level of the log, and logs that; called from another thread."""
        former = self._logs.level
        if level == former:
            return
        if level == "error":  # which hides the line
            _log.warning("log_level_changed", level=level, former=former)
        self._logs.set_level(level)
        _log.warning("log_level_changed", level=level, former=former)

    def _present(self, serving: Serving | None) -> None:
        if serving is not None and self._spans is not None:
            serving.trace(self._spans.tasks.take)
        self._calls.shards.present(serving)
        if serving is None and self._streams is not None:
            self._streams.part()
        self._readiness.changed()

    def _told(self, unready: str) -> tuple[bool, Mapping[str, object]]:
        """Returns readiness and its details; `unready` is the reason why the node is not ready, empty: it is."""
        persistence = self._settings.persistence
        return not unready, {
            **({"reason": unready} if unready else {}),
            "persistence": self._settings.persistence_provider,
            "fsync": persistence.fsync_on_commit,
            # Does not affect readiness: an unready node gets no calls, but calls that end tasks must still arrive.
            "storageFull": self._host.upkeep.space.full,
            **({} if self._siblings is None else self._siblings.told()),
        }

    # -- life --------------------------------------------------------------------------------------------------------

    @property
    def is_stopping(self) -> bool:
        """Whether the server shuts down, or is about to."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Begins to shut down."""
        self._stopping.set()
        self._readiness.stop()

    def unready(self) -> str:
        """Returns why calls are not answered yet; empty: they are."""
        return self._readiness.grpc()

    def log_start(self, ready: summary.Ready) -> None:
        """Logs that requests are served, and what operators should know about the settings."""
        log_start(self._settings, self._files, ready, rest=self._rest)

    async def _drain(self, server: grpc.aio.Server, streams: CallStreams) -> None:
        """Rejects new calls, notifies streams, and drains calls and streams."""
        seconds = FATAL_GRACE_SECONDS if self._failed else float(self._settings.shutdown_grace_seconds)
        self._end_by = asyncio.get_running_loop().time() + seconds
        calls_seconds = max(0.0, seconds - FINISH_SECONDS)
        await self._health.enter_graceful_shutdown()
        self._calls.draining = True
        streams.end()
        if self._calls.passing is not None:
            self._calls.passing.end()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._host.drain(int(calls_seconds * 1000)), name="host-drain")
            group.create_task(server.stop(calls_seconds), name="grpc-stop")
            if self._http is not None:
                group.create_task(self._http.stop(min(calls_seconds, HTTP_GRACE_SECONDS_MAX)), name="gateway-stop")

    async def _close(self) -> None:
        """Commits pending decisions and closes store and artifacts.

        Raises:
            StoreNotClosedError: The disk hangs.
        """
        least = asyncio.get_running_loop().time() + FINISH_SECONDS
        try:
            async with asyncio.timeout_at(max(least, self._end_by)):
                await self._host.close()
                await self._outgoing.sender.close()
        except TimeoutError:
            _log.error("store_not_closed", hint="the disk does not respond; the next start recovers the store")
            raise StoreNotClosedError from None

    def _on_fatal(self, problem: BaseException) -> None:
        self._failed = True
        self.stop()
        trace = None if isinstance(problem, StoreError) else problem  # a store error's message is sufficient
        _log.error("store_failed", error=problem, exc_info=trace, hint="the server stops; restart it")


def files_of(settings: Settings, *, rest: bool) -> Files:
    """Returns the shares of the open files; raises the process's limit as far as allowed.

    Raises:
        TooFewFilesError: The process may not open enough files.
    """
    ports = {address for address in (settings.worker_stream_addr, settings.producer_stream_addr) if address is not None}
    return share(
        raise_limit(),
        http=settings.http_connections_max if rest else 0,
        grpc=settings.grpc_connections_max,
        grpc_ports=len(ports),
        peers=0 if settings.raft is None else PEER_CONNECTIONS_MAX,
    )


def _log_defect(method: str, problem: BaseException) -> None:
    _log.error("call_failed", method=method, exc_info=problem)


def _log_backup(what: str, problem: Exception) -> None:
    _log.error("backup_failed", what=what, error=problem)
