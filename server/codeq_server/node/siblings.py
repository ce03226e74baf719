"""What a process that serves one of several shards has of the other processes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import grpc.aio
from codeq_gateway.links import Credentials, Reach, plaintext

from codeq_server.node.owners import Owners
from codeq_server.replication.raft.routes import Route
from codeq_server.services.calls import Calls
from codeq_server.services.cluster import Others
from codeq_server.services.leader_seeker import LeaderSeeker
from codeq_server.services.merged_metrics import merged
from codeq_server.services.part_server import PartServer
from codeq_server.services.passing import PassingOn
from codeq_server.services.process_pages import ProcessPages
from codeq_server.services.routing.router import Router
from codeq_server.services.shard_links import AGAIN_SECONDS, Moved, ShardLinks

MEET_SECONDS: Final = 10.0
"""Time for the processes of all shards to reach each other, before the server is announced."""

_PINGS: Final = (
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
)
"""A leader that hangs is noticed in 8 s: its group has another one soon. Servers allow a ping every 5 s."""


class Siblings:
    """The owners of the other shards; must be created within the event loop. From then on calls reach all shards.

    Attributes:
        shards: Reaches all shards.

    Args:
        owners: The owners of the shards.
        calls: Executes the calls of this process.
        server: Gets the service for streams of the other processes.
        on_known: Called with the gRPC peer of each connection of another process.
        on_defect: Called with the method and exception of an unexpected failure.
        credentials: Returns the credentials for connections to other nodes.
        moved: As of `ShardLinks`.
    """

    def __init__(
        self,
        owners: Owners,
        calls: Calls,
        server: grpc.aio.Server,
        on_known: Callable[[str], None],
        on_defect: Callable[[str, BaseException], None],
        credentials: Credentials,
        moved: Moved | None,
    ) -> None:
        PartServer(calls, owners.mine, on_known, on_defect).register(server)
        self._are_one_server, self._has_members = owners.are_one_server, owners.groups is not None
        self._pages: ProcessPages | None = None
        if owners.are_one_server:
            self._pages = ProcessPages(owners.mine, owners.addresses)
        self.shards = ShardLinks(
            owners.mine,
            owners.names,
            owners.addresses,
            calls,
            credentials=credentials if not owners.are_one_server else plaintext,
            patience_seconds=AGAIN_SECONDS if owners.are_one_server else 0,
            seekers=_seekers(owners, credentials),
            moved=moved,
        )
        calls.siblings = self.shards
        if owners.groups is not None:
            calls.passing = PassingOn(self.shards)
        calls.router = Router(self.shards, calls.charge, time.time)

    async def meet(self) -> None:
        """Waits until the other processes can be reached, which start at the same time; some may not start at all."""
        if self._are_one_server and not self._has_members:  # members may have no leader for long
            await self.shards.reach_all(MEET_SECONDS)

    async def close(self) -> None:
        """Closes all connections."""
        await self.shards.close()
        if self._pages is not None:
            await self._pages.close()

    async def page(self, own: bytes) -> bytes:
        """Returns the metrics of all processes of this server that answer, given those of this one."""
        return own if self._pages is None else merged({self.shards.mine: own, **await self._pages.metrics()})

    @property
    def groups(self) -> Others | None:
        """Returns the Raft groups of the other processes of this server that answer; None: nothing is replicated."""
        return self._pages.groups if self._pages is not None and self._has_members else None

    def told(self) -> Mapping[str, object]:
        """Returns which shards are served, as details of readiness."""
        states = {str(shard): self.shards.is_up(shard) for shard in range(self.shards.count)}
        return {"shards": {shard: "served" if up else "not served" for shard, up in states.items()}}


def _seekers(owners: Owners, credentials: Credentials) -> list[LeaderSeeker]:
    """Returns for each shard how its leader is found; empty: owners do not change."""
    groups = owners.groups
    if groups is None:
        return []

    def reach(name: str, shard: int) -> Reach:
        if name == groups.mine:
            return Reach(owners.addresses[shard])
        target, options = Route(shard, owners.mine.shards, "calls").to(groups.nodes[name])
        return Reach(target, credentials(), (*options, *_PINGS))

    return [
        LeaderSeeker(groups.mine, {name: partial(reach, name, shard) for name in groups.nodes})
        for shard in range(owners.mine.shards)
    ]


def watch_parent(life: int, on_gone: Callable[[], None]) -> None:
    """Calls `on_gone` once the parent is gone.

    Args:
        life: File descriptor that reaches its end then.
        on_gone: Ends this process.
    """
    loop = asyncio.get_running_loop()

    def hear() -> None:
        if not os.read(life, 1):
            loop.remove_reader(life)
            on_gone()

    loop.add_reader(life, hear)
