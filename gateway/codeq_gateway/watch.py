"""Ends calls whose client has left or whose time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from enum import Enum
from typing import Any, Final

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
"""ASGI's receive: the next event of a request."""

QUIET_SECONDS: Final = 0.05
"""Time a call runs unwatched, or up to twice so long: most end sooner, and cost neither a task nor a timer."""


class End(Enum):
    """Why a call was cancelled."""

    DISCONNECTED = "the client has left"
    TIMED_OUT = "the time of the call is over"


class CallWatch:
    """Watches the connection and the time of a call that the current task makes, and cancels the task at their end.

    The request's body must have been read.

    Attributes:
        end: Why the task was cancelled; None: not by this watch.
    """

    __slots__ = ("_deadline", "_loop", "_receive", "_task", "_watcher", "end")

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Receive, timeout_seconds: float) -> None:
        task = asyncio.current_task(loop)
        assert task is not None
        self.end: End | None = None
        self._loop = loop
        self._task = task
        self._receive = receive
        self._deadline = loop.time() + timeout_seconds
        self._watcher: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts to watch."""
        self._watcher = self._loop.create_task(self._watch())

    def stop(self) -> None:
        """Stops watching."""
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch(self) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
            self.end = End.DISCONNECTED
        except TimeoutError:
            self.end = End.TIMED_OUT
        self._task.cancel()


class CallWatches:
    """Starts the watches of all calls that last, by one timer for them all."""

    def __init__(self) -> None:
        self._new: dict[CallWatch, None] = {}
        self._older: dict[CallWatch, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def open(self, receive: Receive, timeout_seconds: float) -> CallWatch:
        """Returns a watch of the current task, which starts unless it is closed first."""
        loop = asyncio.get_running_loop()
        watch = CallWatch(loop, receive, timeout_seconds)
        self._new[watch] = None
        if self._timer is None:
            self._timer = loop.call_later(QUIET_SECONDS, self._tick, loop)
        return watch

    def close(self, watch: CallWatch) -> None:
        """Ends a watch; to be called when its call is over."""
        if self._new.pop(watch, self) is self and self._older.pop(watch, self) is self:
            watch.stop()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        for watch in self._older:
            watch.start()
        self._older, self._new = self._new, {}
        self._timer = loop.call_later(QUIET_SECONDS, self._tick, loop) if self._older else None
