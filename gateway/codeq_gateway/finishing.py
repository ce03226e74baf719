"""Work after which something has to be awaited, even if it fails or is cancelled.

Compiled coroutines must not await anything while they handle an exception (see docs/adr/0025): this does it for them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def finish(work: Awaitable[T], last: Callable[[], Awaitable[None]]) -> T:
    """Awaits work and then what comes last, however the work ends; returns the result of the work."""
    try:
        return await work
    finally:
        await last()
