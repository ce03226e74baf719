"""The open connections of a gateway: how many there may be, and which of them makes room for a new one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Final, Generic, Protocol, TypeVar

CONNECTIONS_MAX: Final = 8_192
"""Open connections unless it is set otherwise."""

UNREAD_BYTES_MAX: Final = 32 * 1024 * 1024
"""Bytes of unfinished heads that strangers' connections may hold together; the oldest of them ends for more."""


TURNS_AT_ONCE: Final = 4
"""Strangers' connections that go on at a time."""

TURN_SECONDS: Final = 0.005
"""Time between two such times."""


class Open(Protocol):
    """An open connection."""

    def abort(self) -> None:
        """Ends the connection at once."""
        ...


_Connection = TypeVar("_Connection", bound=Open)


class Connections(Generic[_Connection]):
    """Holds the open connections.

    A connection is a stranger's until a call of it has shown a token that is accepted. With as many connections as
    there may be, a new one takes the place of the stranger that has been silent for the longest time; only where there
    is none, the new one is turned away.

    Args:
        connections_max: How many there may be.
    """

    def __init__(self, connections_max: int = CONNECTIONS_MAX) -> None:
        self._max = connections_max
        self._open: set[_Connection] = set()
        self._idle_strangers: dict[_Connection, None] = {}
        """Strangers' connections without a call that runs; the one that has been silent for the longest time first."""
        self._unread: dict[_Connection, int] = {}
        """Bytes of unfinished heads that strangers' connections hold."""
        self._unread_bytes = 0
        self._in_line: dict[_Connection, Callable[[], None]] = {}
        """What goes on when it is a connection's turn."""
        self._turns: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Returns how many are open."""
        return len(self._open)

    def __iter__(self) -> Iterator[_Connection]:
        """Iterates over those that were open when it began."""
        return iter(list(self._open))

    def admit(self, connection: _Connection) -> bool:
        """Takes a new connection; returns whether there is a place for it."""
        if len(self._open) >= self._max:
            stranger = next(iter(self._idle_strangers), None)
            if stranger is None:
                return False
            self.discard(stranger)
            stranger.abort()
        self._open.add(connection)
        self._idle_strangers[connection] = None
        return True

    def discard(self, connection: _Connection) -> None:
        """Forgets a connection that has ended."""
        self._open.discard(connection)
        self._idle_strangers.pop(connection, None)
        self._in_line.pop(connection, None)
        self.hold(connection, 0)

    def hold(self, connection: _Connection, size: int) -> None:
        """Notes how many bytes of an unfinished head a stranger's connection holds."""
        self._unread_bytes += size - self._unread.pop(connection, 0)
        if size:
            self._unread[connection] = size
        while self._unread_bytes > UNREAD_BYTES_MAX:
            oldest = next(iter(self._unread))
            self.discard(oldest)
            oldest.abort()

    def in_turn(self, connection: _Connection, go_on: Callable[[], None]) -> None:
        """Has a connection go on when it is its turn: one that was refused something.

        What is refused costs its sender nothing, and the next of it is there as soon as one is dealt with: the rest of
        a body, which is read so that its sender sees why it was refused, or one request more. Unless they wait, such
        senders keep everybody else from being heard.
        """
        self._in_line[connection] = go_on
        self._await_turns()

    def leave_line(self, connection: _Connection) -> None:
        """Has a connection wait no more."""
        self._in_line.pop(connection, None)

    def _take_turns(self) -> None:
        self._turns = None
        try:
            for connection in list(itertools.islice(self._in_line, TURNS_AT_ONCE)):
                if (go_on := self._in_line.pop(connection, None)) is not None:
                    go_on()
        finally:
            self._await_turns()

    def _await_turns(self) -> None:
        if self._in_line and self._turns is None:
            self._turns = asyncio.get_running_loop().call_later(TURN_SECONDS, self._take_turns)

    def busy(self, connection: _Connection) -> None:
        """Notes that a call of a connection runs, or that a token came with one: it keeps its place."""
        self._idle_strangers.pop(connection, None)

    def idle(self, connection: _Connection) -> None:
        """Notes that a call of a stranger's connection has ended."""
        if connection in self._open:
            self._idle_strangers[connection] = None
