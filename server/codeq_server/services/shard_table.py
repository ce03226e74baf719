"""Which shard a call belongs to, and what serves it here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from google.protobuf.message import Message

from codeq_server.core.errors import Rejection

from .methods import Method
from .serving import Serving


class ShardTable:
    """Routes calls to shards. There is one shard, which this node serves for as long as it leads.

    Attributes:
        serving: What serves the shard here; None: nothing does.

    Args:
        absence: Returns the refusal of a call about a shard that nothing serves here.
        stale: Returns what answers reads that may be stale while nothing serves the shard here; None: nothing does.
    """

    def __init__(self, absence: Callable[[], Rejection], stale: Callable[[], Awaitable[Serving]] | None = None) -> None:
        self.serving: Serving | None = None
        self._absence = absence
        self._stale = stale

    def present(self, serving: Serving | None) -> None:
        """Takes what serves the shard from now on."""
        self.serving = serving

    def current(self) -> Serving:
        """Returns what serves the shard.

        Raises:
            Rejection: Nothing does here.
        """
        if self.serving is None:
            raise self._absence()
        return self.serving

    def route(self, method: Method, request: Message) -> Serving:  # noqa: ARG002 - all calls belong to the one shard
        """Returns what serves the shard that a call belongs to.

        Raises:
            Rejection: Nothing serves it here.
        """
        return self.current()

    async def route_stale(self, method: Method, request: Message) -> Serving:
        """Returns what answers a call whose reply may be stale: where this node does not lead, it may be what it has.

        A call that waits goes to the leader: what it waits for shows there first.

        Raises:
            Rejection: Nothing answers it here.
        """
        if self.serving is None and self._stale is not None and method.reads and not method.waits(request):
            return await self._stale()
        return self.route(method, request)
