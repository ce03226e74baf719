"""Ends a call whose client has left or whose time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from enum import Enum
from typing import Any, Final

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
"""ASGI's receive: the next event of a request."""

QUIET_SECONDS: Final = 0.05
"""Time a call runs unwatched: most end sooner, and a timer costs less than a task that listens."""


class End(Enum):
    """Why a call was cancelled."""

    DISCONNECTED = "the client has left"
    TIMED_OUT = "the time of the call is over"


class CallWatch:
    """Watches the connection and the time of a call that the current task makes, and cancels the task at their end.

    The request's body must have been read. `close` must be called when the call is over.

    Attributes:
        end: Why the task was cancelled; None: not by this watch.
    """

    __slots__ = ("_loop", "_receive", "_task", "_timeout_seconds", "_timer", "_watcher", "end")

    def __init__(self, receive: Receive, timeout_seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.end: End | None = None
        self._task = task
        self._receive = receive
        self._timeout_seconds = timeout_seconds
        self._watcher: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(min(QUIET_SECONDS, timeout_seconds), self._start)

    def close(self) -> None:
        """Stops watching."""
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _start(self) -> None:
        self._watcher = self._loop.create_task(self._watch())

    async def _watch(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_seconds - QUIET_SECONDS):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
            self.end = End.DISCONNECTED
        except TimeoutError:
            self.end = End.TIMED_OUT
        self._task.cancel()
