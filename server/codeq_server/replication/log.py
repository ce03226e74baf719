"""The seam between a shard and what makes its batches durable."""

from __future__ import annotations

from typing import Protocol

from codeq_server.core.model import SealedBatch


class Log(Protocol):
    """Makes batches durable, one at a time, in the order of their numbers."""

    async def append(self, batch: SealedBatch) -> None:
        """Returns when the batch is durable and its rows can be read.

        Any exception means that the outcome is unknown: the shard is not served any more.
        """
        ...

    async def close(self) -> None:
        """Releases what the log holds; everything appended is durable."""
        ...
