"""The open connections of a gateway: their limit, evictions for new connections, and the turns of strangers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Final, Generic, Protocol, TypeVar

CONNECTIONS_MAX: Final = 8_192
"""Default limit on open connections."""

UNREAD_BYTES_MAX: Final = 32 * 1024 * 1024
"""Limit on the total bytes of strangers' unfinished heads; beyond it, the oldest of these connections is closed."""

TURNS_AT_ONCE: Final = 4
"""Strangers' connections that continue at each turn."""

TURN_SECONDS = 0.005
"""Interval between two turns."""


class Open(Protocol):
    """An open connection."""

    def abort(self) -> None:
        """Closes the connection at once."""
        ...


_Connection = TypeVar("_Connection", bound=Open)


class Connections(Generic[_Connection]):
    """Tracks the open connections.

    A connection is a stranger until one of its calls has presented an accepted token. At the limit, a new connection
    evicts the stranger that has been silent the longest; if there is none, the new connection is closed.

    Args:
        connections_max: Limit on open connections.
    """

    def __init__(self, connections_max: int = CONNECTIONS_MAX) -> None:
        self._max = connections_max
        self._open: set[_Connection] = set()
        self._idle_strangers: dict[_Connection, None] = {}
        """Strangers without a running call, the longest silent one first."""
        self._unread: dict[_Connection, int] = {}
        """Bytes of unfinished heads, by stranger; the oldest first."""
        self._unread_bytes = 0
        self._waiting: dict[_Connection, Callable[[], None]] = {}
        """Callback of each connection waiting for its turn, first come, first served."""
        self._turns: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Returns the number of open connections."""
        return len(self._open)

    def __iter__(self) -> Iterator[_Connection]:
        """Iterates over the connections that are open now."""
        return iter(list(self._open))

    def admit(self, connection: _Connection) -> bool:
        """Adds a new connection; returns False if there is no room for it."""
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
        """Removes a connection that has ended."""
        self._open.discard(connection)
        self._idle_strangers.pop(connection, None)
        self._waiting.pop(connection, None)
        self.hold(connection, 0)

    def hold(self, connection: _Connection, size: int) -> None:
        """Counts the bytes of a stranger's unfinished head, in place of the previous count."""
        self._unread_bytes += size - self._unread.pop(connection, 0)
        if size:
            self._unread[connection] = size
        while self._unread_bytes > UNREAD_BYTES_MAX:
            oldest = next(iter(self._unread))
            self.discard(oldest)
            oldest.abort()

    def wait_turn(self, connection: _Connection, resume: Callable[[], None]) -> None:
        """Calls `resume` when it is the turn of a connection whose request was rejected.

        A rejected request costs its sender nothing, and the next input follows at once. It is another request, or the
        rest of the body, which is read so that the sender sees the reply. Without turns, such senders would take all of
        the event loop's time.
        """
        self._waiting[connection] = resume
        self._await_turns()

    def leave_queue(self, connection: _Connection) -> None:
        """Removes a connection from those waiting for their turn."""
        self._waiting.pop(connection, None)

    def _take_turns(self) -> None:
        self._turns = None
        try:
            for connection in list(itertools.islice(self._waiting, TURNS_AT_ONCE)):
                if (resume := self._waiting.pop(connection, None)) is not None:
                    resume()
        finally:
            self._await_turns()

    def _await_turns(self) -> None:
        if self._waiting and self._turns is None:
            self._turns = asyncio.get_running_loop().call_later(TURN_SECONDS, self._take_turns)

    def busy(self, connection: _Connection) -> None:
        """Protects a connection from eviction, because one of its calls is running or had an accepted token."""
        self._idle_strangers.pop(connection, None)

    def idle(self, connection: _Connection) -> None:
        """Makes a stranger whose call has ended evictable again."""
        if connection in self._open:
            self._idle_strangers[connection] = None
