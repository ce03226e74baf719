"""Admission: shares the time of the event loop and the room in a batch between tenants.

Every decision passes through here. While the turn of the loop and the batch have room, it passes at once. Otherwise it
queues behind its tenant's earlier entries, and tenants are served by deficit round robin: each tenant in turn spends
its credit, and an entry that costs more than the credit is paid off in later rounds. A tenant that floods the server
therefore delays only itself, and a tenant with a single call is served in the next round.

The lines are bounded by the number of their users: each stream has one frame in line (`STREAMS_MAX`), each unary call
one entry (`CALLS_MAX`, and for HTTP `CONNECTIONS_MAX`), each queue and each stream one piece of work.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from mypy_extensions import mypyc_attr

TURN_COST: Final = 512
"""Cost admitted per turn of the loop, in tasks. This takes a few milliseconds; then sockets and timers get their
turn."""
QUANTUM: Final = 128
"""Cost that a tenant may spend per round."""
CALL_COST: Final = 16
"""Cost of a call or frame in addition to its tasks: reading and answering it takes longer than deciding it."""
QUEUES_PER_COST: Final = 16
"""Queues of a tenant that are looked through in the time of deciding a task."""

Work = Callable[[], int]
"""Work for a tenant on which no caller waits; returns its cost."""


class _Line:
    """A tenant's entries in line, and the credit that the tenant may spend before the next tenant is served."""

    __slots__ = ("credit", "entries")

    def __init__(self) -> None:
        self.entries: OrderedDict[asyncio.Future[None] | Work, int] = OrderedDict()
        """Callers with their costs, and work."""
        self.credit = QUANTUM


@mypyc_attr(allow_interpreted_subclasses=True)  # tests extend it
class Admission:
    """Lets tenants take turns to decide."""

    def __init__(self, loop: asyncio.AbstractEventLoop, is_full: Callable[[], bool]) -> None:
        """Starts with empty lines.

        Args:
            loop: The event loop whose turns are shared.
            is_full: Returns whether the batch has no room; call `reopen` once it has room again.
        """
        self._loop = loop
        self._is_full = is_full
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        """Tenants in line, in the order of service; a tenant in debt stays until it has paid."""
        self._spent = 0
        """Cost admitted in this turn."""
        self._scheduled = False

    def __len__(self) -> int:
        """Returns the number of entries in line."""
        return sum(len(line.entries) for line in self._lines.values())

    async def enter(self, tenant: str, cost: int) -> None:
        """Waits until the tenant may make a decision of this cost; the caller must decide before it awaits anything.

        Raises:
            BaseException: The exception made by the argument of `fail`.
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
        """Schedules work for one of the tenant's turns; the same work is in line only once."""
        self._join(tenant, work, 0)

    def charge(self, tenant: str, cost: int) -> None:
        """Charges a tenant for work in its turn beyond the cost passed to `enter`."""
        self._spend(cost)
        line = self._lines.get(tenant)
        if line is not None:
            line.credit -= cost

    def reopen(self) -> None:
        """Continues, because the batch has room again."""
        if self._lines:
            self._schedule()

    def fail(self, problem: Callable[[], BaseException]) -> None:
        """Fails every caller in line, and drops the work."""
        lines, self._lines = self._lines, OrderedDict()
        for line in lines.values():
            for entry in line.entries:
                if isinstance(entry, asyncio.Future) and not entry.done():
                    entry.set_exception(problem())
                    entry.exception()  # marks it as retrieved: the caller may be gone

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
        """Serves the lines for one turn; runs in each turn of the loop in which cost was spent or an entry waits."""
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
                    return  # the work failed, and so did everyone in line
            elif line.credit > 0:
                del lines[tenant]
            else:
                line.credit += QUANTUM
                lines.move_to_end(tenant)

    @staticmethod
    def _serve(line: _Line) -> int:
        """Serves the first entry; returns its cost."""
        entry, cost = line.entries.popitem(last=False)
        if not isinstance(entry, asyncio.Future):
            return entry()
        if entry.done():
            return 0
        entry.set_result(None)
        return cost
