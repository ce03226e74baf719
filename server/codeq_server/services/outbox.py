"""Outgoing frames of a stream, in order; each is sent once everything it saw is durable."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from codeq_server.engine.runner import ShardRunner

Frame = TypeVar("Frame")


class Outbox(Generic[Frame]):
    """Frames waiting for durability and for the client to read."""

    def __init__(self, runner: ShardRunner) -> None:
        self._runner = runner
        self._frames: deque[tuple[asyncio.Future[Any] | None, Frame]] = deque()
        self._wake = asyncio.Event()
        self._ended = False

    def __len__(self) -> int:
        """Returns the number of unsent frames."""
        return len(self._frames)

    def put(self, frame: Frame, complete: asyncio.Future[None] | None = None) -> None:
        """Adds a frame that reflects everything decided so far.

        Args:
            frame: The frame.
            complete: Resolves once other shards have added their part to the frame; None: it is complete.

        Raises:
            Rejection: OUTCOME_UNKNOWN.
        """
        future: asyncio.Future[Any] | None = self._runner.durable()
        if complete is not None:
            future = complete if future is None else asyncio.gather(future, complete)
        self._frames.append((future, frame))
        self._wake.set()

    def end(self) -> None:
        """Marks the end: no further frames follow."""
        self._ended = True
        self._wake.set()

    async def run(self, send: Callable[[list[Frame]], Awaitable[None]]) -> None:
        """Sends frames until the last one is sent; frames that become durable together are sent in one call.

        Raises:
            Rejection: OUTCOME_UNKNOWN.
        """
        while True:
            while not self._frames:
                if self._ended:
                    return
                self._wake.clear()
                await self._wake.wait()
            durable, _ = self._frames[0]
            if durable is not None:
                await durable
            ready = [self._frames[0][1]]
            for future, frame in list(self._frames)[1:]:
                if future is not None and (not future.done() or future.exception() is not None):
                    break
                ready.append(frame)
            await send(ready)
            for _ in ready:
                self._frames.popleft()

    def unsent(self) -> list[Frame]:
        """Returns the unsent frames."""
        return [frame for _, frame in self._frames]
