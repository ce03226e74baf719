"""Workers waiting for work, found by command without scanning the waiters for other commands."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from codeq_server.core.errors import Rejection
from codeq_server.core.model import Queue


class Waiter(Protocol):
    """A worker that found nothing to claim."""

    def wake(self) -> None:
        """Tries to claim at once; if the worker still wants work afterwards, it waits again."""
        ...

    def drain(self, refusal: Rejection) -> None:
        """Stops waiting, because the server hands out no more work; the rejection says why."""
        ...


class WaitingRoom:
    """Workers and the commands they wait for, first come first served."""

    def __init__(self) -> None:
        self._rooms: dict[tuple[str, str | None], OrderedDict[Waiter, int]] = {}
        """Waiters with their turns. A plain dict would have to skip all deleted entries to find its first entry."""
        self._keys: dict[Waiter, list[tuple[str, str | None]]] = {}
        self._turn = 0

    def __len__(self) -> int:
        """Returns the number of waiters."""
        return len(self._keys)

    def wait(self, waiter: Waiter, tenant: str, commands: Sequence[str] | None) -> None:
        """Registers a waiter for any of the commands; None: for every command of the tenant."""
        if waiter in self._keys:
            return
        names: Sequence[str | None] = [None] if commands is None else commands
        self._turn += 1
        self._keys[waiter] = keys = [(tenant, name) for name in dict.fromkeys(names)]
        for key in keys:
            self._rooms.setdefault(key, OrderedDict())[waiter] = self._turn

    def leave(self, waiter: Waiter) -> None:
        """Removes a waiter; no error if it is not waiting."""
        for key in self._keys.pop(waiter, ()):
            room = self._rooms[key]
            del room[waiter]
            if not room:
                del self._rooms[key]

    @property
    def turn(self) -> int:
        """Turn of the latest waiter; a waiter that waits again gets a later turn."""
        return self._turn

    def wake(self, queue: Queue, last: int) -> bool:
        """Wakes the longest waiting waiter for a queue with work, up to turn `last`; returns whether there was one."""
        waiter = self._first(queue, last) if queue.claimable and not queue.held else None
        if waiter is None:
            return False
        self.leave(waiter)
        waiter.wake()
        return True

    def has_waiter(self, queue: Queue) -> bool:
        """Returns whether anybody waits for tasks of the queue."""
        return (queue.tenant, queue.command) in self._rooms or (queue.tenant, None) in self._rooms

    def _first(self, queue: Queue, last: int) -> Waiter | None:
        """Returns the first waiter for the queue, up to turn `last`."""
        first, first_turn = None, last + 1
        for name in (queue.command, None):
            room = self._rooms.get((queue.tenant, name))
            if room:
                waiter, turn = next(iter(room.items()))
                if turn < first_turn:
                    first, first_turn = waiter, turn
        return first

    def drain(self, refusal: Rejection) -> None:
        """Ends every wait with a rejection that says why no more work will come."""
        for waiter in list(self._keys):
            self.leave(waiter)
            waiter.drain(refusal)
