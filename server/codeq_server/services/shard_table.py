"""Routes each call to its shard, and to the `Serving` of that shard on this node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from google.protobuf.message import Message

from codeq_server.core.errors import Rejection

from .methods import Method
from .serving import Serving


class ShardTable:
    """Routes calls to shards. There is one shard, which this node serves for as long as it leads.

    Attributes:
        serving: Serves the shard on this node; None: this node does not serve it.

    Args:
        absence: Returns the rejection of a call on a shard that this node does not serve.
        stale: Returns a Serving for stale reads while this node does not serve the shard; None: stale reads are
            rejected.
    """

    def __init__(self, absence: Callable[[], Rejection], stale: Callable[[], Awaitable[Serving]] | None = None) -> None:
        self.serving: Serving | None = None
        self._absence = absence
        self._stale = stale

    def present(self, serving: Serving | None) -> None:
        """Sets the Serving of the shard from now on."""
        self.serving = serving

    def current(self) -> Serving:
        """Returns the Serving of the shard.

        Raises:
            Rejection: This node does not serve the shard.
        """
        if self.serving is None:
            raise self._absence()
        return self.serving

    def route(self, method: Method, request: Message) -> Serving:  # noqa: ARG002 - all calls belong to the one shard
        """Returns the Serving of the shard that a call belongs to.

        Raises:
            Rejection: This node does not serve the shard.
        """
        return self.current()

    async def route_stale(self, method: Method, request: Message) -> Serving:
        """Returns the Serving for a call that allows a stale reply; a follower's may read only the follower's own rows.

        A call that waits for an event goes to the leader, where the event is visible first.

        Raises:
            Rejection: This node cannot answer the call.
        """
        if self.serving is None and self._stale is not None and method.reads and not method.waits(request):
            return await self._stale()
        return self.route(method, request)
