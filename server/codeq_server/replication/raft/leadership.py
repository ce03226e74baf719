"""The log of one leadership, to which the shard's runner hands its batches."""

from __future__ import annotations

import asyncio
from typing import Final

from codeq_server.core.batch import SealedBatch

from .group import Group

WINDOW: Final = 4
"""Batches of one leadership in flight: while one is being agreed on, the next ones fill and follow."""


class LeaderLog:
    """Makes batches durable on a majority, as long as this member leads in the term it was made for."""

    window = WINDOW

    def __init__(self, group: Group, term: int) -> None:
        self._group, self._term = group, term

    def append(self, batch: SealedBatch) -> asyncio.Future[None]:
        """See `Log.append`; fails with a Rejection if the outcome is unknown."""
        return self._group.propose(self._term, batch)

    def confirm(self) -> asyncio.Future[None] | None:
        """See `Log.confirm`: asks the other members once for all callers in one turn of the loop."""
        return self._group.confirm(self._term)

    async def close(self) -> None:
        """See `Log.close`; the store belongs to the member and stays open."""
