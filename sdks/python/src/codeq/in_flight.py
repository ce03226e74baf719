"""Limits the creates in flight of a producer: at the limit, callers wait for room, or fail at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from typing import Final

from codeq.errors import DeadlineExceeded, LimitReached

IN_FLIGHT_MAX: Final = 65_536
"""Default maximum number of creates of a producer that are not yet answered."""

IN_FLIGHT_LIMIT: Final = 1_000_000
"""Highest value of that maximum."""


class InFlight:
    """Counts the creates of threads. A batch that exceeds the limit alone is let in when nothing else is in flight."""

    def __init__(self, most: int, *, fail_fast: bool) -> None:
        self._most = most
        self._fail_fast = fail_fast
        self._used = 0
        self._waiting = 0
        self._room = threading.Condition(threading.RLock())  # reentrant: a signal may interrupt its holder

    def enter(self, count: int, deadline: float) -> None:
        """Waits for room for a number of creates, and takes it.

        Args:
            count: Number of creates.
            deadline: Time on the monotonic clock at which the wait ends.

        Raises:
            LimitReached: There is no room, and callers should not wait.
            DeadlineExceeded: There was no room by the deadline.
        """
        with self._room:
            while self._used and self._used + count > self._most:
                if self._fail_fast:
                    raise _full(self._most)
                self._waiting += 1
                try:
                    has_time = self._room.wait(max(0.0, deadline - time.monotonic()))
                finally:
                    self._waiting -= 1
                if not has_time and time.monotonic() >= deadline:
                    raise _late(self._most)
            self._used += count

    def leave(self, count: int) -> None:
        """Gives room back."""
        with self._room:
            self._used -= count
            if self._waiting:
                self._room.notify_all()


class AsyncInFlight:
    """Counts the creates of one event loop, which may be replaced by another one. First come, first served."""

    def __init__(self, most: int, *, fail_fast: bool) -> None:
        self._most = most
        self._fail_fast = fail_fast
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def enter(self, count: int, deadline: float) -> None:
        """Waits for room for a number of creates, and takes it.

        Args:
            count: Number of creates.
            deadline: Time of the running loop at which the wait ends.

        Raises:
            LimitReached: There is no room, and callers should not wait.
            DeadlineExceeded: There was no room by the deadline.
        """
        if self._is_free(count) and not self._waiting:
            self._used += count
            return
        if self._fail_fast:
            raise _full(self._most)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, waiter))
        try:
            async with asyncio.timeout_at(deadline):
                await waiter
        except TimeoutError:
            self._give_up(count, waiter)
            raise _late(self._most) from None
        except BaseException:
            self._give_up(count, waiter)
            raise

    def leave(self, count: int) -> None:
        """Gives room back, to those who wait longest."""
        self._used -= count
        self._let_in()

    def _is_free(self, count: int) -> bool:
        return not self._used or self._used + count <= self._most

    def _let_in(self) -> None:
        while self._waiting:
            count, waiter = self._waiting[0]
            if waiter.done() or waiter.get_loop().is_closed():  # cancelled, or left behind by an earlier loop
                self._waiting.popleft()
            elif self._is_free(count):
                self._waiting.popleft()
                self._used += count
                waiter.set_result(None)
            else:
                return

    def _give_up(self, count: int, waiter: asyncio.Future[None]) -> None:
        if waiter.done() and not waiter.cancelled():  # let in at the last moment
            self._used -= count
        waiter.cancel()
        self._let_in()


def _full(most: int) -> LimitReached:
    return LimitReached(f"in_flight_max: {most} creates are in flight", retryable=True)


def _late(most: int) -> DeadlineExceeded:
    return DeadlineExceeded(f"not sent within the timeout: in_flight_max ({most}) creates were in flight")
