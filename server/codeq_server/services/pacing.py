"""Keeps the deliveries of a worker stream within the rate limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from codeq_server.core.errors import Rejection

from .rate_limits import DELIVERIES, Pair, RateLimits, spare_of
from .stream_token import StreamToken


class Pacing:
    """What the rate limits allow a stream, and its wait for more.

    Args:
        rates: The rate limits.
        token: Token of the stream.
        go_on: Called when the stream may deliver again.
    """

    def __init__(self, rates: RateLimits, token: StreamToken, go_on: Callable[[], object]) -> None:
        self._rates, self._token, self._go_on = rates, token, go_on
        self._pair: Pair = (None, None)
        self._paid = 0
        """Deliveries for which the stream has waited; they are charged already."""
        self._waiting: asyncio.Task[None] | None = None

    @property
    def waits(self) -> bool:
        """Whether the stream waits for the rate limits, and must deliver nothing."""
        return self._waiting is not None

    def allowed(self) -> int:
        """Returns how many tasks the stream may deliver now."""
        self._pair = self._rates.buckets(DELIVERIES, self._token.claims)
        return self._paid + spare_of(self._pair)

    def delivered(self, count: int) -> None:
        """Charges deliveries, of those allowed in this turn; what was paid and not used is given back."""
        if count != self._paid:
            self._rates.take(self._pair, count - self._paid)
        self._paid = 0

    def wait(self, most: int) -> None:
        """Begins to wait for a part of `most` further deliveries."""
        part = self._rates.portion(DELIVERIES, self._token.claims, most)
        self._waiting = asyncio.get_running_loop().create_task(self._wait(part), name="worker-pacing")

    def end(self) -> None:
        """Ends the wait; the stream is over."""
        if self._waiting is not None:
            self._waiting.cancel()
        self._rates.charge(DELIVERIES, self._token.claims, -self._paid)

    async def _wait(self, count: int) -> None:
        try:
            await self._rates.wait(DELIVERIES, self._token.claims, count)
        except Rejection:
            return  # the server stops, and delivers nothing more
        self._paid, self._waiting = count, None
        self._go_on()
