"""Limits the creates in flight of a producer: at the limit, callers wait for room, or fail at once."""

from __future__ import annotations

import asyncio
import queue
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
    """Counts the creates of threads. A batch that exceeds the limit alone is let in when nothing else is in flight.

    Room is given back on the SDK's own thread, which never waits for a lock of the callers: a signal may interrupt one
    of them anywhere, and the signal's handler may wait for that thread.
    """

    def __init__(self, most: int, *, fail_fast: bool) -> None:
        self._most = most
        self._fail_fast = fail_fast
        self._guard = threading.RLock()  # of the callers; reentrant: a signal may interrupt its holder
        self._entered = 0  # guarded
        self._left = 0  # written only by the SDK's own thread
        self._waiting: deque[queue.SimpleQueue[None]] = deque()

    def enter(self, count: int, deadline: float) -> None:
        """Waits for room for a number of creates, and takes it.

        Args:
            count: Number of creates.
            deadline: Time on the monotonic clock at which the wait ends.

        Raises:
            LimitReached: There is no room, and callers should not wait.
            DeadlineExceeded: There was no room by the deadline.
        """
        if self._has_entered(count):
            return
        if self._fail_fast:
            raise _full(self._most)
        while True:
            bell: queue.SimpleQueue[None] = queue.SimpleQueue()
            self._waiting.append(bell)
            if self._has_entered(count):  # room that was given back before the bell hung
                return
            try:
                bell.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise _late(self._most) from None

    def leave(self, count: int) -> None:
        """Gives room back; called on the SDK's own thread."""
        self._left += count
        for _ in range(len(self._waiting)):
            self._waiting.popleft().put(None)

    def _has_entered(self, count: int) -> bool:
        with self._guard:
            used = self._entered - self._left
            if used and used + count > self._most:
                return False
            self._entered += count
            return True


class AsyncInFlight:
    """Counts the creates of one event loop, which may be replaced by another one. First come, first served."""

    def __init__(self, most: int, *, fail_fast: bool) -> None:
        self._most = most
        self._fail_fast = fail_fast
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def enter(self, count: int, deadline: float) -> None:
        """Waits for room for a number of creates, and takes it.

        Args:
            count: Number of creates.
            deadline: Time of the running loop at which the wait ends.

        Raises:
            LimitReached: There is no room, and callers should not wait.
            DeadlineExceeded: There was no room by the deadline.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # whatever an earlier loop left behind is in flight no more
            self._loop, self._used = loop, 0
            self._waiting.clear()
        if self._is_free(count) and not self._waiting:
            self._used += count
            return
        if self._fail_fast:
            raise _full(self._most)
        waiter: asyncio.Future[None] = loop.create_future()
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
            if waiter.done():
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
