"""The servers known to a client, and the one that it currently uses. Thread-safe; no I/O."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Sequence
from typing import Final

DELAY_SECONDS_MIN: Final = 0.05
"""Minimum delay before trying another server, unless the current one named it as the leader."""

DELAY_SECONDS_MAX: Final = 0.5
"""Upper limit of this delay; an election takes one or two seconds."""

REFRESH_SECONDS: Final = 60.0
"""Interval between refreshes of the cluster's members."""

KNOWN_MAX: Final = 64
"""Maximum number of addresses kept; a cluster has far fewer members."""


class Servers:
    """The members of a cluster. Calls go to the leader; the other members name it, or the client searches for it."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """Starts with the given addresses; the first address is tried first.

        Raises:
            ValueError: No address is given.
        """
        if not addresses:
            raise ValueError("an address is needed")
        self._guard = threading.RLock()  # reentrant: a signal may interrupt its holder
        self._given = tuple(dict.fromkeys(addresses))[:KNOWN_MAX]
        self._known = list(self._given)
        self._current = self._given[0]
        self._asked = self._current  # the last server chosen in turn, not because it was named as the leader
        self._followed: set[str] = set()  # named leaders tried since the last delay
        self._failures = 0
        self._refreshed_at: float | None = None

    @property
    def current(self) -> str:
        """The server to use."""
        return self._current

    @property
    def known(self) -> tuple[str, ...]:
        """Every known server, beginning with the configured servers."""
        return tuple(self._known)

    @property
    def are_many(self) -> bool:
        """Whether more than one server is known."""
        return len(self._known) > 1

    def reached(self) -> None:
        """Records that the current server served a request."""
        if self._failures or self._followed:
            with self._guard:
                self._failures = 0
                self._followed.clear()

    def left(self, address: str, leader: str = "") -> float:
        """Records that a server did not serve a request, and chooses the next server.

        Args:
            address: The server.
            leader: The leader that it named; empty: none.

        Returns:
            Seconds to wait before using the next server; 0 for a leader just named, unless it was already tried.
        """
        with self._guard:
            if leader and leader != address and leader not in self._followed:
                self._followed.add(leader)
                self._add(leader)
                self._current = leader
                return 0.0
            if self._current != address:  # another call has moved on already
                return 0.0
            self._followed.clear()
            self._failures += 1
            self._current = self._next(address)
            bound = min(DELAY_SECONDS_MAX, DELAY_SECONDS_MIN * 2.0 ** min(self._failures, 10))
        return max(DELAY_SECONDS_MIN, bound * (0.5 + random.random() / 2))

    def learn(self, members: Iterable[str]) -> None:
        """Sets the members of the cluster. They replace the members learned before, but not the configured servers."""
        with self._guard:
            self._known = list(self._given)
            for address in members:
                self._add(address)
            self._add(self._current)

    def is_refresh_due(self, now: float) -> bool:
        """Returns whether to refresh the members now; if so, starts the next interval.

        Args:
            now: Current time on a monotonic clock, in seconds.
        """
        with self._guard:
            due = self._refreshed_at is None or now - self._refreshed_at >= REFRESH_SECONDS
            if due:
                self._refreshed_at = now
            return due

    def _next(self, address: str) -> str:
        """Returns the next server in turn; wrong hints about the leader never make the rotation skip a server."""
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
