"""The line of the streams that wait for a token bucket: first come, first served, on one timer."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from codeq_server.core.buckets import Bucket
from codeq_server.core.limits import Rate

LOOK_MS_MAX: Final = 1000
"""Maximum time between two looks at a bucket: a changed rate takes effect at the next one."""


class RateLine:
    """Streams that wait for a bucket. While there are any, calls on the bucket are refused rather than served first."""

    def __init__(self, bucket: Bucket, rate: Callable[[], Rate], mono_ms: Callable[[], int]) -> None:
        """Starts without streams.

        Args:
            bucket: The bucket.
            rate: Returns the rate in force.
            mono_ms: Returns the monotonic time in milliseconds.
        """
        self._bucket, self._rate, self._mono_ms = bucket, rate, mono_ms
        self._loop = asyncio.get_running_loop()
        self._costs: OrderedDict[asyncio.Future[None], int] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Returns the number of streams that wait."""
        return len(self._costs)

    async def take(self, cost: int) -> None:
        """Waits until the bucket allows a cost, and takes it; takes nothing if cancelled.

        Raises:
            BaseException: The exception made by the argument of `fail`.
        """
        turn = self._loop.create_future()
        self._costs[turn] = cost
        self._bucket.reserved += cost
        if self._timer is None:
            self.look()
        try:
            await turn
        except asyncio.CancelledError:
            self._leave(turn, cost)
            raise

    def fail(self, problem: Callable[[], BaseException]) -> None:
        """Ends the waits of all streams; nothing is taken."""
        costs, self._costs = self._costs, OrderedDict()
        for turn, cost in costs.items():
            self._bucket.reserved -= cost
            if not turn.done():
                turn.set_exception(problem())
        self.look()

    def look(self) -> None:
        """Serves the streams that the bucket allows, and sets the timer for the next one.

        Call it when a cost was given back to the bucket, or streams would wait for it until the timer rings.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        bucket, rate = self._bucket, self._rate()
        if rate.limits:
            bucket.fill(rate, self._mono_ms())
        while self._costs:
            turn, cost = next(iter(self._costs.items()))
            wait_ms = bucket.wait_ms(cost, 0) if rate.limits else 0
            if wait_ms:
                self._timer = self._loop.call_later(min(wait_ms, LOOK_MS_MAX) / 1000, self.look)
                return
            del self._costs[turn]
            bucket.reserved -= cost
            if rate.limits:
                bucket.take(cost)
            if not turn.done():
                turn.set_result(None)

    def _leave(self, turn: asyncio.Future[None], cost: int) -> None:
        if self._costs.pop(turn, None) is None:
            self._bucket.take(-cost)  # its turn had come
        else:
            self._bucket.reserved -= cost
        self.look()
