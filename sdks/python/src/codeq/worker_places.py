"""Divides the places of a worker among its streams. Belongs to one event loop; sends nothing itself.

A worker has as many places as tasks may run at once. Each belongs to one stream, where it is occupied by a running
task, granted to the server as a credit, or owed to it. A place that becomes free goes to a stream that has used all its
own and has fewer; credits of a stream without work are returned, and go to one that has used its own. A stream keeps at
least one place, so that work of any shard reaches the worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

ASK_AGAIN_SECONDS: Final = 0.05
"""Pause after a stream returned no credit: its server was asking a process for tasks with them."""


class Part:
    """The places of one stream.

    Attributes:
        places: Their number.
        running: Tasks that occupy places.
        credits: Credits granted on the open stream, and neither spent nor returned.
        credits_max: Maximum number of credits that the server accepts.
        wanted: Credits that another stream needs.
        is_asked: Whether the server was asked for credits and has returned none yet.
        is_taking: Whether the stream is open and takes tasks.
        is_retiring: Whether the stream takes no more tasks for good, so that others get its places.
        wake: Called when there is something to send.
    """

    __slots__ = (
        "again",
        "credits",
        "credits_max",
        "is_asked",
        "is_retiring",
        "is_taking",
        "places",
        "running",
        "wake",
        "wanted",
    )

    def __init__(self, wake: Callable[[], None]) -> None:
        """Starts without places."""
        self.places = self.running = self.credits = self.credits_max = self.wanted = 0
        self.is_asked = self.is_taking = self.is_retiring = False
        self.wake = wake
        self.again: asyncio.TimerHandle | None = None

    @property
    def owed(self) -> int:
        """Credits to grant."""
        return max(0, min(self.places, self.credits_max) - self.running - self.credits)

    @property
    def is_starving(self) -> bool:
        """Whether the stream has a task in each of its places."""
        return self.is_taking and self.credits <= 0 and self.owed == 0

    @property
    def may_give(self) -> bool:
        """Whether the stream can be asked for credits, of which it keeps at least one."""
        return self.is_taking and self.credits > 1 and not self.wanted and not self.is_asked

    def ask_back(self, *, all_credits: bool) -> int:
        """Returns the number of credits to ask back now: all of them, or those that another stream needs."""
        if self.is_asked:
            return 0
        count = max(0, self.credits) if all_credits else self.wanted
        self.wanted = 0
        self.is_asked = count > 0
        return count


class Places:
    """The parts of all streams of a worker; together they have all places."""

    def __init__(self) -> None:
        self._parts: list[Part] = []

    @property
    def running(self) -> int:
        """Tasks that are running."""
        return sum(part.running for part in self._parts)

    def add(self, part: Part) -> None:
        """Adds the part of a new stream."""
        self._parts.append(part)

    def remove(self, part: Part) -> None:
        """Removes the part of a stream that has ended for good."""
        self._parts.remove(part)

    def retire(self, part: Part) -> None:
        """Gives the free places of a stream to those that do not retire, and later each that becomes free."""
        part.is_retiring, part.is_taking = True, False
        self._share_out(part)
        part.wake()

    def closed(self, part: Part) -> None:
        """Notes that a stream has ended, and its credits with it."""
        part.credits = part.wanted = 0
        part.is_asked = part.is_taking = False
        if part.again is not None:
            part.again.cancel()
            part.again = None
        self._share_out(part)

    def granted(self, part: Part) -> int:
        """Returns the number of credits to grant now, and counts them."""
        count = part.owed
        part.credits += count
        if count:
            self.balance()
        return count

    def freed(self, part: Part) -> None:
        """Passes on the place of a task that has ended, if another stream needs it more."""
        if part.is_retiring:
            self._share_out(part)
        elif len(self._parts) > 1 and (taker := self._starving()) is not None and taker.places + 1 < part.places:
            _move(part, 1, taker)

    def returned(self, part: Part, count: int) -> None:
        """Passes on credits that a server has returned; without need for them, their stream grants them again."""
        part.credits -= count
        if not count:
            part.again = asyncio.get_running_loop().call_later(ASK_AGAIN_SECONDS, self._ask_again, part)
            return
        part.is_asked = False
        self._share_out(part)
        if part.is_taking and (taker := self._starving()) is not None:
            _move(part, count, taker)
            self.balance()

    def balance(self) -> None:
        """Asks the stream with the most credits for half of them, if another stream has used its own."""
        if len(self._parts) < 2 or self._starving() is None:
            return
        givers = [part for part in self._parts if part.may_give]
        if givers:
            giver = max(givers, key=lambda part: part.credits)
            giver.wanted = giver.credits // 2
            giver.wake()

    def _ask_again(self, part: Part) -> None:
        part.again, part.is_asked = None, False
        part.wake()
        self.balance()

    def _starving(self) -> Part | None:
        """Returns the part with the fewest places among those that have a task in each; None: there is none."""
        return min((part for part in self._parts if part.is_starving), key=lambda part: part.places, default=None)

    def _share_out(self, part: Part) -> None:
        """Divides the free places of a stream that retires evenly among the others; those with few places first."""
        if not part.is_retiring:
            return
        free = part.places - part.running - max(0, part.credits)
        takers = sorted((each for each in self._parts if not each.is_retiring), key=lambda each: each.places)
        if free <= 0 or not takers:
            return
        share, rest = divmod(free, len(takers))
        for index, taker in enumerate(takers):
            _move(part, share + (index < rest), taker)


def _move(giver: Part, count: int, taker: Part) -> None:
    if count:
        giver.places -= count
        taker.places += count
        taker.wake()
