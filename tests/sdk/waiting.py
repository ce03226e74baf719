"""Waiting for a condition."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

SECONDS_MAX = 20.0
_POLL_SECONDS = 0.01


async def eventually(condition: Callable[[], object], seconds: float = SECONDS_MAX) -> None:
    """Returns when the condition holds; fails the test if it does not hold in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(_POLL_SECONDS)


def eventually_blocking(condition: Callable[[], object], seconds: float = SECONDS_MAX) -> None:
    """Like `eventually`, for tests without an event loop."""
    asyncio.run(eventually(condition, seconds))
