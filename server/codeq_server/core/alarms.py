"""Gives turns to many sources of timed work: in order of time until they are due, and then tenant by tenant.

However much work one tenant has due, another tenant waits for at most one turn of every other tenant.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from typing import Final, Generic, Protocol, TypeVar

NEVER: Final = 1 << 62
"""A time that never comes."""
MOVES_MAX = 256
"""Maximum number of sources that become due in one step; the rest follow in the next step."""
STALE_MAX: Final = 64
"""Number of stale alarms, beyond the number of valid alarms, at which the heap is rebuilt."""

_DUE: Final = -1


class Source(Protocol):
    """A source of timed work."""

    @property
    def tenant(self) -> str:
        """Tenant in whose turns the source works."""
        ...


S = TypeVar("S", bound=Source)


class Alarms(Generic[S]):
    """The next time of each source. A time may be too early, as the source finds out in its turn, but never late.

    Attributes:
        first_ms: The earliest time of any source; 0 while a source is due, NEVER if there are no sources.
    """

    __slots__ = ("_due", "_heap", "_pushed", "_times", "first_ms")

    def __init__(self) -> None:
        self.first_ms = NEVER
        self._times: dict[S, int] = {}
        """Time of each source's valid alarm, or _DUE."""
        self._heap: list[tuple[int, int, S]] = []
        """(time, number that makes it unique, source)."""
        self._pushed = 0
        self._due: OrderedDict[str, deque[S]] = OrderedDict()
        """Due sources of each tenant. Tenants take turns, and so do the sources of a tenant."""

    def set(self, source: S, at_ms: int) -> None:
        """Brings a source's alarm forward to `at_ms`; does nothing if it is already that early."""
        known = self._times.get(source)
        if known is not None and known <= at_ms:
            return
        self._times[source] = at_ms
        self._pushed += 1
        heapq.heappush(self._heap, (at_ms, self._pushed, source))
        self.first_ms = min(self.first_ms, at_ms)
        if len(self._heap) > 2 * len(self._times) + STALE_MAX:
            self._heap = [alarm for alarm in self._heap if self._times.get(alarm[2]) == alarm[0]]
            heapq.heapify(self._heap)

    def drop(self, source: S) -> None:
        """Forgets a source that has no further work; a source that is due still gets its turn."""
        if self._times.get(source, _DUE) != _DUE:
            del self._times[source]
            self._look()

    def turn(self, now_ms: int) -> S | None:
        """Returns the source whose turn it is, or None if nothing is due. `rest` ends the turn."""
        heap = self._heap
        for _ in range(MOVES_MAX):
            if not heap or heap[0][0] > now_ms:
                break
            at_ms, _, source = heapq.heappop(heap)
            if self._times.get(source) == at_ms:
                self._times[source] = _DUE
                self._due.setdefault(source.tenant, deque()).append(source)
        if not self._due:
            self._look()
            return None
        tenant, sources = next(iter(self._due.items()))
        source = sources.popleft()
        if sources:
            self._due.move_to_end(tenant)
        else:
            del self._due[tenant]
        return source

    def rest(self, source: S, at_ms: int | None, now_ms: int) -> None:
        """Ends a turn; `at_ms` is the source's next time, or None if it has no further work."""
        if at_ms is not None and at_ms <= now_ms:
            self._due.setdefault(source.tenant, deque()).append(source)
        else:
            del self._times[source]
            if at_ms is not None:
                self.set(source, at_ms)
        self._look()

    def _look(self) -> None:
        heap, times = self._heap, self._times
        while heap and times.get(heap[0][2]) != heap[0][0]:
            heapq.heappop(heap)
        self.first_ms = 0 if self._due else heap[0][0] if heap else NEVER
