"""The port between a shard and the log that makes its batches durable."""

from __future__ import annotations

import asyncio
from typing import Protocol

from codeq_server.core.batch import SealedBatch


class Log(Protocol):
    """Makes batches durable in the order of their numbers.

    The log of a leadership ends with the leadership: first `ShardRunner.end` is called, and then the futures in flight
    are completed, with any outcome.

    Attributes:
        window: Maximum number of batches in flight.
    """

    window: int

    def append(self, batch: SealedBatch) -> asyncio.Future[None]:
        """Returns a future that is done when the batch is durable and its rows can be read.

        Called in the order of numbers, with at most `window` batches in flight; the futures are done in that order. Any
        exception means that the outcome of this batch and of all later ones is unknown: the shard is no longer served.
        A Rejection also means that nothing failed: another node serves the shard from now on.
        """
        ...

    def confirm(self) -> asyncio.Future[None] | None:
        """Returns a future that is done once it is certain that nobody else had decided anything when this was called.

        None: no other node can decide. Many callers may share the future, so none of them may cancel it.

        Raises:
            Rejection: Another node decides. The future fails with the same rejection.
        """
        ...

    async def close(self) -> None:
        """Releases the log's resources; everything appended is durable."""
        ...
