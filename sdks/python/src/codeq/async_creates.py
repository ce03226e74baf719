"""Creates the tasks of a source with a bounded number in flight, and yields the results in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable
from typing import Any

from codeq.producer_frames import Result
from codeq.records import NewTask

_Creating = asyncio.Task[Result]


class InOrder:
    """One run over a source of tasks."""

    def __init__(self, in_flight: int, create: Callable[[NewTask], Coroutine[Any, Any, Result]]) -> None:
        """Prepares a run.

        Args:
            in_flight: Maximum number of tasks that are read but have no result that was taken.
            create: Creates one task.
        """
        self._create = create
        self._room = asyncio.Semaphore(in_flight)
        self._begun: asyncio.Queue[_Creating | None] = asyncio.Queue()  # bounded by the semaphore; None: the end

    async def results(self, tasks: Iterable[NewTask] | AsyncIterable[NewTask]) -> AsyncGenerator[Result, None]:
        """Yields the results; at the end raises what the source raised. Ends the creates in flight if it is closed."""
        reading = asyncio.create_task(self._read(tasks), name="codeq-create-all")
        creating: _Creating | None = None
        try:
            while (creating := await self._begun.get()) is not None:
                result = await creating
                self._room.release()
                yield result
            await reading
        finally:
            left: list[asyncio.Task[Any]] = [reading, *([] if creating is None else [creating]), *self._left()]
            for each in left:
                each.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _read(self, tasks: Iterable[NewTask] | AsyncIterable[NewTask]) -> None:
        try:
            if isinstance(tasks, AsyncIterable):
                async for task in tasks:
                    await self._begin(task)
            else:
                for task in tasks:
                    await self._begin(task)
        finally:
            self._begun.put_nowait(None)

    async def _begin(self, task: NewTask) -> None:
        await self._room.acquire()
        self._begun.put_nowait(asyncio.create_task(self._create(task)))

    def _left(self) -> list[asyncio.Task[Any]]:
        left: list[asyncio.Task[Any]] = []
        while not self._begun.empty():
            if (each := self._begun.get_nowait()) is not None:
                left.append(each)
        return left
