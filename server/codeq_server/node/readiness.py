"""Whether a node is ready: it answers calls now, or sends callers to the node that does. Else it says why not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final, NoReturn

from codeq_gateway.dispatch import LEADER_GRPC, LEADER_HTTP, LEADER_NAME
from grpc_health.v1 import health, health_pb2

from codeq_server.core.errors import Rejection
from codeq_server.services.calls import Calls

NODE_SERVICES: Final = frozenset({"codeq.v1.ClusterService", "codeq.v1.ServerService"})
"""Services of the node itself: they answer whoever serves the shard, and where nobody does."""


class Readiness:
    """The readiness of a node, asked at any moment by REST and told to those who watch over gRPC.

    Args:
        calls: Knows what serves the shard here.
        absence: Returns the refusal of calls while nothing does, with the addresses of the leader where it is known.
    """

    def __init__(self, calls: Calls, absence: Callable[[], Rejection]) -> None:
        self._calls, self._absence = calls, absence
        self._may_differ = asyncio.Event()
        self._is_stopping = False

    def stop(self) -> None:
        """Is ready no more."""
        self._is_stopping = True
        self.changed()

    def changed(self) -> None:
        """Takes notice that the node may be ready now, or not any more."""
        self._may_differ.set()

    def rest(self) -> str:
        """Returns why requests over HTTP are neither answered nor redirected; empty: they are."""
        return self._unready(LEADER_HTTP)

    def grpc(self) -> str:
        """Returns why calls over gRPC are neither answered nor sent on; empty: they are."""
        return self._unready(LEADER_GRPC)

    async def tell(self, servicer: health.aio.HealthServicer, names: Collection[str]) -> NoReturn:
        """Keeps the health of services, and of the server as a whole, as it is. Does not return."""
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
        refusal = self._absence()
        if refusal.metadata.get(address_of_leader):
            return ""
        if LEADER_NAME in refusal.metadata:
            return f"{refusal.message}; where clients reach it is not known"
        return refusal.message
