"""Work followed by a step that must be awaited even if the work fails or is cancelled.

Compiled coroutines must not await anything while they handle an exception (see docs/adr/0025): this module does it for
them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def finish(work: Awaitable[T], last: Callable[[], Awaitable[None]]) -> T:
    """Awaits work and then `last`, however the work ends; returns the result of the work."""
    try:
        return await work
    finally:
        await last()
