"""The seam between a shard and what makes its batches durable."""

from __future__ import annotations

import asyncio
from typing import Protocol

from codeq_server.core.model import SealedBatch


class Log(Protocol):
    """Makes batches durable in the order of their numbers.

    A log that stands for a leadership ends with it: whoever learns that it is over calls `ShardRunner.end` first, and
    settles what is on its way afterwards, in whatever way.

    Attributes:
        window: Batches that may be on their way at a time.
    """

    window: int

    def append(self, batch: SealedBatch) -> asyncio.Future[None]:
        """Returns what is done when the batch is durable and its rows can be read.

        Called in the order of numbers, with at most `window` batches on their way; the futures are done in that order.
        Any exception means that the outcome of this batch and of all later ones is unknown: the shard is not served any
        more. A Rejection says besides that this is no failure: somebody else serves the shard from now on.
        """
        ...

    def confirm(self) -> asyncio.Future[None] | None:
        """Returns what is done when it is sure that nobody else had decided anything when this was called.

        None: nobody else can. The future may be shared by many callers, so none of them may cancel it.

        Raises:
            Rejection: Somebody else decides. The future fails with the same.
        """
        ...

    async def close(self) -> None:
        """Releases what the log holds; everything appended is durable."""
        ...
