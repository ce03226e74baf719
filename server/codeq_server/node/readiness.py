"""Readiness of a node: whether it answers calls or redirects them to the leader; otherwise the reason.

Also whether the node has started, so that another one may be stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final, NoReturn

from codeq_gateway.dispatch import LEADER_GRPC, LEADER_HTTP, LEADER_NAME
from grpc_health.v1 import health, health_pb2

from codeq_server.core.errors import Rejection
from codeq_server.services.calls import Calls

NODE_SERVICES: Final = frozenset({"codeq.v1.ClusterService", "codeq.v1.ServerService"})
"""Services of the node itself: they answer even while no node serves the shard."""


class Readiness:
    """The readiness of a node, queried by REST and published through the gRPC health service.

    Args:
        calls: Holds the current Serving of the shard.
        absence: Returns the rejection of calls without a Serving, with the leader's addresses if known.
        behind: Returns why the node cannot yet take another one's place; empty: it can.
    """

    def __init__(self, calls: Calls, absence: Callable[[], Rejection], behind: Callable[[], str]) -> None:
        self._calls, self._absence, self._behind = calls, absence, behind
        self._has_started = False
        self._may_differ = asyncio.Event()
        self._is_stopping = False

    def stop(self) -> None:
        """Makes the node unready for good: the server is stopping."""
        self._is_stopping = True
        self.changed()

    def changed(self) -> None:
        """Signals that readiness may have changed."""
        self._may_differ.set()

    def starting(self) -> str:
        """Returns why the node has not started: it has not caught up yet; empty: it once had, and it stays so."""
        why = "" if self._has_started else self._behind()
        self._has_started = not why
        return why

    def rest(self) -> str:
        """Returns why HTTP requests are neither answered nor redirected; empty: they are."""
        return self._unready(LEADER_HTTP)

    def grpc(self) -> str:
        """Returns why gRPC calls are neither answered nor referred to the leader; empty: they are."""
        return self._unready(LEADER_GRPC)

    async def tell(self, servicer: health.aio.HealthServicer, names: Collection[str]) -> NoReturn:
        """Keeps the health status of the services and of the server as a whole up to date. Does not return."""
        for name in NODE_SERVICES.intersection(names):
            await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        while True:
            self._may_differ.clear()
            is_ready = not self.grpc()
            status = health_pb2.HealthCheckResponse.SERVING if is_ready else health_pb2.HealthCheckResponse.NOT_SERVING
            for name in ("", *names):
                if name not in NODE_SERVICES:
                    await servicer.set(name, status)
            await self._may_differ.wait()

    def _unready(self, address_of_leader: str) -> str:
        if self._is_stopping:
            return "the server is stopping"
        if self._calls.shards.serving is not None:
            return ""
        passing = self._calls.passing
        if passing is not None:
            return "" if passing.reaches_any else "no shard has a leader that this node reaches"
        refusal = self._absence()
        if refusal.metadata.get(address_of_leader):
            return ""
        if LEADER_NAME in refusal.metadata:
            return f"{refusal.message}; its address for clients is unknown"
        return refusal.message
