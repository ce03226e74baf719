"""The addresses of the servers that a client knows, and which of them it goes to now. Shared by threads; no I/O."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Sequence
from typing import Final

DELAY_SECONDS_MIN: Final = 0.05
"""Shortest delay before another server is asked, but for the one that another named as the leader."""

DELAY_SECONDS_MAX: Final = 0.5
"""Longest such delay: an election takes one or two seconds."""

REFRESH_SECONDS: Final = 60.0
"""Time after which a server that answers is asked again for the members of its cluster."""

KNOWN_MAX: Final = 64
"""Addresses kept; a cluster has far fewer members."""


class Servers:
    """Servers that hold the same tasks, one of which leads. Calls go to it; the others name it, or it is looked for."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """Servers by host and port; the first one is asked first.

        Raises:
            ValueError: There is none.
        """
        if not addresses:
            raise ValueError("an address is needed")
        self._guard = threading.RLock()  # a signal may interrupt its holder
        self._given = tuple(dict.fromkeys(addresses))[:KNOWN_MAX]
        self._known = list(self._given)
        self._current = self._given[0]
        self._asked = self._current  # the last one that was chosen in turn, and not because it was named
        self._followed: set[str] = set()  # leaders gone to since the last delay
        self._failures = 0
        self._refreshed_at: float | None = None

    @property
    def current(self) -> str:
        """The server to go to."""
        return self._current

    @property
    def known(self) -> tuple[str, ...]:
        """Every server that is known, those that were given first."""
        return tuple(self._known)

    @property
    def are_many(self) -> bool:
        """Whether there is another server to go to."""
        return len(self._known) > 1

    def reached(self) -> None:
        """Note that the current server does what it is asked."""
        if self._failures or self._followed:
            with self._guard:
                self._failures = 0
                self._followed.clear()

    def left(self, address: str, leader: str = "") -> float:
        """Note that a server does not do what it is asked, and choose where to go next.

        Args:
            address: The server.
            leader: The server that leads, if it said so.

        Returns:
            Seconds to wait before going there: none to a leader that was just named, unless it was tried already.
        """
        with self._guard:
            if leader and leader != address and leader not in self._followed:
                self._followed.add(leader)
                self._add(leader)
                self._current = leader
                return 0.0
            if self._current != address:  # another call went on already
                return 0.0
            self._followed.clear()
            self._failures += 1
            self._current = self._next(address)
            bound = min(DELAY_SECONDS_MAX, DELAY_SECONDS_MIN * 2.0 ** min(self._failures, 10))
        return max(DELAY_SECONDS_MIN, bound * (0.5 + random.random() / 2))

    def learn(self, members: Iterable[str]) -> None:
        """Take the members of the cluster: they replace those that were learned before, not those that were given."""
        with self._guard:
            self._known = list(self._given)
            for address in members:
                self._add(address)
            self._add(self._current)

    def is_refresh_due(self, now: float) -> bool:
        """Whether to ask for the members now; then not again for a while.

        Args:
            now: Time of a monotonic clock, in seconds.
        """
        with self._guard:
            due = self._refreshed_at is None or now - self._refreshed_at >= REFRESH_SECONDS
            if due:
                self._refreshed_at = now
            return due

    def _next(self, address: str) -> str:
        """The server after the one that was asked last in turn: who is misled in between still comes round to all."""
        others = [known for known in self._known if known != address]
        if not others:
            return address
        place = self._known.index(self._asked) if self._asked in self._known else -1
        turn = self._known[place + 1 :] + self._known[: place + 1]
        self._asked = next(known for known in turn if known != address)
        return self._asked

    def _add(self, address: str) -> None:
        if address and address not in self._known and len(self._known) < KNOWN_MAX:
            self._known.append(address)
