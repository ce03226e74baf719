"""The interface between a node, which owns ports and draining, and a host, which owns the store and its shard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from prometheus_client.registry import Collector

from codeq_server.core.errors import Rejection
from codeq_server.node.upkeep import Upkeep
from codeq_server.services.cluster import Cluster
from codeq_server.services.serving import Serving

Present = Callable[[Serving | None], None]
"""Sets the `Serving` of the shard from now on; None: this node does not serve it."""


class Host(Protocol):
    """Opens the store and creates the shard's `Serving`: once, or once per leadership of this node.

    A host presents each Serving once it may receive calls, and None before it ends the Serving. At the end of a
    leadership, all within one iteration of the event loop: present None, call `upkeep.follow(None)`, call `Serving.end`
    with the result of `absence`, and only then settle the batches in flight in the log. `Serving.close` releases the
    log afterwards.

    Attributes:
        mode: Mode reported by GetServerInfo.
        cluster: Status and membership of the cluster.
        upkeep: Background work on the store; set by `start`.
        collectors: Metrics of the host; set by `start`.
    """

    mode: str
    cluster: Cluster
    upkeep: Upkeep
    collectors: Sequence[Collector]

    async def start(self, present: Present, absence_changed: Callable[[], None]) -> None:
        """Opens the store; on return calls may arrive, whether or not a Serving has been presented.

        Args:
            present: Sets the current Serving of the shard.
            absence_changed: Called when the result of `absence` may have changed.

        Raises:
            StoreError, CorruptRows: The store cannot be opened. Nothing is left open.
        """
        ...

    def absence(self) -> Rejection:
        """Returns the rejection of calls while no Serving is presented."""
        ...

    def behind(self) -> str:
        """Returns why this node cannot yet take another one's place; empty: it can, or there is no other."""
        ...

    async def stale(self) -> Serving:
        """Returns a Serving for stale reads only, while no Serving is presented.

        Raises:
            Rejection: Stale reads are not possible.
        """
        ...

    async def drain(self, grace_ms: int) -> None:
        """Ends waits, notifies streams that they end in `grace_ms`, and hands over leadership if another node can lead.

        A Serving may stay presented: the node already rejects new calls. Takes no longer than `grace_ms`.
        """
        ...

    async def close(self) -> None:
        """Commits pending decisions and closes the store; called once after `start`, even if startup failed later."""
        ...
