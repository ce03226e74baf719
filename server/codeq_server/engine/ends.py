"""Callers waiting for the end of a task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from codeq_server.core.errors import Rejection
from codeq_server.core.model import TaskKey


class TaskEnds:
    """The futures of waiting callers, by task.

    Attributes:
        futures: Futures of each task that is waited for.
    """

    __slots__ = ("_watched", "futures")

    def __init__(self, watched: set[TaskKey]) -> None:
        """Keeps `watched`, the shard's set of watched tasks, up to date."""
        self.futures: dict[TaskKey, dict[asyncio.Future[None], None]] = {}
        self._watched = watched

    def watch(self, task_id: TaskKey) -> asyncio.Future[None]:
        """Returns a future that resolves when the task ends; release it with `unwatch`."""
        future = asyncio.get_running_loop().create_future()
        self.futures.setdefault(task_id, {})[future] = None
        self._watched.add(task_id)
        return future

    def unwatch(self, task_id: TaskKey, future: asyncio.Future[None]) -> None:
        """Stops watching the end of a task."""
        futures = self.futures.get(task_id, {})
        futures.pop(future, None)
        if not futures:
            self.futures.pop(task_id, None)
            self._watched.discard(task_id)

    def tell(self, task_id: TaskKey) -> None:
        """Resolves the futures of a task that ended."""
        for future in self.futures.get(task_id, ()):
            if not future.done():
                future.set_result(None)

    def refuse(self, refuse: Callable[[], Rejection]) -> None:
        """Ends all waits with a rejection."""
        for futures in self.futures.values():
            refuse_all(futures, refuse)


def refuse_all(futures: Iterable[asyncio.Future[None]], refuse: Callable[[], Rejection]) -> None:
    """Fails futures, each with a rejection of its own."""
    for future in futures:
        if not future.done():
            future.set_exception(refuse())
            future.exception()  # marks it as retrieved: the waiter may be gone
