"""Workers that wait for work, found by command without looking at the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from codeq_server.core.model import Queue


class Waiter(Protocol):
    """A worker that found nothing to claim."""

    def wake(self) -> None:
        """Tries to claim at once; a waiter that still wants work waits again."""
        ...

    def drain(self) -> None:
        """Stops waiting: the server takes nothing new."""
        ...


class WaitingRoom:
    """Who waits for which commands, first come first served."""

    def __init__(self) -> None:
        self._rooms: dict[tuple[str, str | None], dict[Waiter, None]] = {}
        self._keys: dict[Waiter, list[tuple[str, str | None]]] = {}

    def __len__(self) -> int:
        """Returns the number of waiters."""
        return len(self._keys)

    def wait(self, waiter: Waiter, tenant: str, commands: Sequence[str] | None) -> None:
        """Lets a waiter wait for any of the commands; None: for every command of the tenant."""
        if waiter in self._keys:
            return
        keys: list[tuple[str, str | None]] = (
            [(tenant, c) for c in commands] if commands is not None else [(tenant, None)]
        )
        self._keys[waiter] = keys
        for key in keys:
            self._rooms.setdefault(key, {})[waiter] = None

    def leave(self, waiter: Waiter) -> None:
        """Forgets a waiter; no error where it does not wait."""
        for key in self._keys.pop(waiter, ()):
            room = self._rooms[key]
            room.pop(waiter, None)
            if not room:
                del self._rooms[key]

    def wake(self, queue: Queue) -> None:
        """Wakes waiters of a queue one by one while it has work, each at most once."""
        for key in ((queue.tenant, queue.command), (queue.tenant, None)):
            for _ in range(len(self._rooms.get(key, ()))):
                room = self._rooms.get(key)
                if not room or not queue.ready:
                    break
                waiter = next(iter(room))
                self.leave(waiter)
                waiter.wake()

    def drain(self) -> None:
        """Tells every waiter that no work will come any more."""
        for waiter in list(self._keys):
            self.leave(waiter)
            waiter.drain()
