"""Whose turn it is: the time of the event loop and the room of a batch, shared between tenants.

Whatever is to be decided passes here. While a turn of the loop and the batch have room, it passes at once. Else it
stands in line behind what its tenant has there already, and the lines are served by deficit round robin: each tenant
in turn spends its credit, and what one entry costs above it is paid off in later rounds. So a tenant that floods the
server is its own queue's victim, and one that comes with a single call is served in the next round.

The lines are bounded by those who stand in them: each stream with one frame (`STREAMS_MAX`), each unary call once
(`CALLS_MAX`, and for HTTP `CONNECTIONS_MAX`), each queue and each stream with one piece of work.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

TURN_COST: Final = 512
"""Cost that one turn of the loop takes on, in tasks: some milliseconds, then sockets and timers have theirs."""
QUANTUM: Final = 128
"""Cost that a tenant may spend in one round."""
CALL_COST: Final = 16
"""Cost of a call or frame beside that of its tasks: reading and answering it, which takes longer than to decide it."""

Work = Callable[[], int]
"""Something the server does for a tenant without a caller that waits; returns what it cost."""


class _Line:
    """What of a tenant waits, and what the tenant may spend before the next one is served."""

    __slots__ = ("credit", "entries")

    def __init__(self) -> None:
        self.entries: OrderedDict[asyncio.Future[None] | Work, int] = OrderedDict()
        """Callers with their costs, and work."""
        self.credit = QUANTUM


class Admission:
    """Lets tenants decide in turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop, is_full: Callable[[], bool]) -> None:
        """Begins with nobody in line.

        Args:
            loop: Whose turns are shared.
            is_full: Whether the batch has no room; once it has again, `reopen` is to be called.
        """
        self._loop = loop
        self._is_full = is_full
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        """Of each tenant in line, the one to be served next first; those that owe something stay until it is paid."""
        self._spent = 0
        """Cost taken on in this turn."""
        self._scheduled = False

    def __len__(self) -> int:
        """Returns the number of entries in line."""
        return sum(len(line.entries) for line in self._lines.values())

    async def enter(self, tenant: str, cost: int) -> None:
        """Returns when the tenant may decide what costs so much; then nothing may be awaited before it is decided.

        Raises:
            BaseException: What `fail` was told.
        """
        if not self._lines and self._spent < TURN_COST and not self._is_full():
            self._spend(cost)
            return
        future = self._loop.create_future()
        self._join(tenant, future, cost)
        try:
            await future
        finally:
            line = self._lines.get(tenant)
            if line is not None:
                line.entries.pop(future, None)

    def push(self, tenant: str, work: Work) -> None:
        """Has work done in one of the tenant's turns; the same work waits once."""
        self._join(tenant, work, 0)

    def charge(self, tenant: str, cost: int) -> None:
        """Takes notice of what a tenant did in its turn beyond what it entered with."""
        self._spend(cost)
        line = self._lines.get(tenant)
        if line is not None:
            line.credit -= cost

    def reopen(self) -> None:
        """Goes on because the batch has room again."""
        if self._lines:
            self._schedule()

    def fail(self, problem: Callable[[], BaseException]) -> None:
        """Tells every caller in line that it will not be served, and drops the work."""
        lines, self._lines = self._lines, OrderedDict()
        for line in lines.values():
            for entry in line.entries:
                if isinstance(entry, asyncio.Future) and not entry.done():
                    entry.set_exception(problem())
                    entry.exception()  # the caller may be gone: its absence is no error

    def _join(self, tenant: str, entry: asyncio.Future[None] | Work, cost: int) -> None:
        line = self._lines.get(tenant)
        if line is None:
            line = self._lines[tenant] = _Line()
        line.entries[entry] = cost
        self._schedule()

    def _spend(self, cost: int) -> None:
        self._spent += cost
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        """Serves the lines, as far as one turn goes; called once in each turn in which something was spent or waits."""
        self._scheduled = False
        self._spent = 0
        lines = self._lines
        while lines and self._spent < TURN_COST and not self._is_full():
            tenant, line = next(iter(lines.items()))
            if line.entries and line.credit > 0:
                cost = self._serve(line)
                line.credit -= cost
                self._spend(cost)
                if lines is not self._lines:
                    return  # the work failed, and everybody was told
            elif line.credit > 0:
                del lines[tenant]
            else:
                line.credit += QUANTUM
                lines.move_to_end(tenant)

    @staticmethod
    def _serve(line: _Line) -> int:
        """Serves who is first; returns what it costs."""
        entry, cost = line.entries.popitem(last=False)
        if not isinstance(entry, asyncio.Future):
            return entry()
        if entry.done():
            return 0
        entry.set_result(None)
        return cost
