"""The pages of metrics: those of this process, and those of all processes of the server."""

from __future__ import annotations

from codeq_gateway.exposition import Exposition

from codeq_server.node.siblings import Siblings


class MetricsPages:
    """Makes the pages.

    Args:
        exposition: Metrics of the process, except those of its HTTP requests.
        siblings: The processes of the other shards; None: there are none.

    Attributes:
        requests: Metrics of the HTTP requests.
    """

    def __init__(self, exposition: Exposition, siblings: Siblings | None) -> None:
        self.requests = Exposition()
        self._exposition, self._siblings = exposition, siblings

    async def own(self) -> bytes:
        """Returns the metrics of this process."""
        return await self.requests.text() + await self._exposition.text()

    async def for_rest(self) -> bytes:
        """Returns the page of the REST API in this process."""
        own = await self.own()
        return own if self._siblings is None else await self._siblings.page(own)

    async def for_gateways(self) -> bytes:
        """Returns the page for standalone gateways, which have metrics of their own HTTP requests."""
        return await self._exposition.text() if self._siblings is None else await self.for_rest()
