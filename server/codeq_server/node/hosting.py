"""The seam between a node and where its shard comes from: the node owns ports and drains, a host owns stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from prometheus_client.registry import Collector

from codeq_server.core.errors import Rejection
from codeq_server.node.upkeep import Upkeep
from codeq_server.services.cluster import Cluster
from codeq_server.services.serving import Serving

Present = Callable[[Serving | None], None]
"""Takes what serves the shard from now on; None: nothing does here."""


class Host(Protocol):
    """Opens the store, and makes what serves the shard: once, or once for each leadership of this node.

    A host presents each Serving when it may take calls, and None before it ends it. At the end of a leadership, all in
    one turn of the event loop: present None, let the upkeep follow None, `Serving.end` with what `absence` returns, and
    only then settle what is on its way in the log. `Serving.close` releases the log afterwards.

    Attributes:
        mode: Mode that GetServerInfo tells.
        cluster: The members that hold the store together.
        upkeep: What works beside the shard; there since `start`.
        collectors: Metrics of its own; there since `start`.
    """

    mode: str
    cluster: Cluster
    upkeep: Upkeep
    collectors: Sequence[Collector]

    async def start(self, present: Present, absence_changed: Callable[[], None]) -> None:
        """Opens the store; on return calls may come, whether something is presented by then or not.

        Args:
            present: Takes what serves the shard.
            absence_changed: Called when what `absence` returns may be another from now on.

        Raises:
            StoreError, CorruptRows: The store cannot be opened. Nothing is left open.
        """
        ...

    def absence(self) -> Rejection:
        """Returns the refusal of calls while nothing is presented."""
        ...

    async def stale(self) -> Serving:
        """Returns what answers reads that may be stale, and nothing else, while nothing is presented.

        Raises:
            Rejection: Nothing does.
        """
        ...

    async def drain(self, grace_ms: int) -> None:
        """Ends waits, tells streams that they end in so many milliseconds, and hands the shard over if others can lead.

        What is presented may stay so: the node refuses new calls by now. Takes no longer than the time given.
        """
        ...

    async def close(self) -> None:
        """Commits what is decided and closes the store; called once after `start`, also when it failed later on."""
        ...
