"""Whose turn it is among many that have something due: by time until it is due, from then on tenant by tenant.

However much one tenant has due, another one's turn comes after one turn of each other tenant.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from typing import Final, Generic, Protocol, TypeVar

NEVER: Final = 1 << 62
"""A time that does not come."""
MOVES_MAX: Final = 256
"""Sources that become due in one step; the others do in the next."""
STALE_MAX: Final = 64
"""Alarms that hold no more, beyond as many as hold, at which they are thrown away."""

_DUE: Final = -1


class Source(Protocol):
    """Something with a next time."""

    @property
    def tenant(self) -> str:
        """Whose turn it takes."""
        ...


S = TypeVar("S", bound=Source)


class Alarms(Generic[S]):
    """The next time of each source; never later than the true one, which its owner finds out in its turn.

    Attributes:
        first_ms: The earliest of all, 0 while something is due, NEVER if there is none.
    """

    __slots__ = ("_due", "_heap", "_pushed", "_times", "first_ms")

    def __init__(self) -> None:
        self.first_ms = NEVER
        self._times: dict[S, int] = {}
        """Of each source the time of its alarm that holds, or _DUE."""
        self._heap: list[tuple[int, int, S]] = []
        """(time, number that makes it unique, source)."""
        self._pushed = 0
        self._due: OrderedDict[str, deque[S]] = OrderedDict()
        """Of each tenant, in turn: the sources that are due, in turn."""

    def set(self, source: S, at_ms: int) -> None:
        """Brings the alarm of a source forward to `at_ms`, if it is later or there is none."""
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
        """Forgets a source that has nothing to come; one that is due is asked once more."""
        if self._times.get(source, _DUE) != _DUE:
            del self._times[source]
            self._look()

    def turn(self, now_ms: int) -> S | None:
        """Returns the source that has the next turn, or None: nothing is due. `rest` ends the turn."""
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
        """Ends a turn; the source has something due next at `at_ms`, or never."""
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
