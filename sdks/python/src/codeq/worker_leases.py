"""The leases of the tasks that a worker's stream has delivered, and the renewals that are due. Sends nothing itself."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from typing import Final

from codeq.logs import log
from codeq.records import Task
from codeq.worker_stats import WorkerStats

RENEWALS_PER_LEASE: Final = 3
"""A lease is renewed after a third of its length, so that two renewals may get lost."""

LATE_PART: Final = 0.5
"""Part of a lease after which a renewal counts as late."""

LATE_REPEAT_SECONDS: Final = 30.0
"""Minimum time between two warnings about late renewals."""


class Leases:
    """The tasks whose leases need renewal.

    Attributes:
        seconds: Length of the leases.
        held: The tasks by id, in the order of renew_at.
        due: Those to be renewed now.
    """

    def __init__(self, seconds: float, stats: WorkerStats, wake: Callable[[], None]) -> None:
        """Starts without a task.

        Args:
            seconds: Length of the leases, until a server names another one.
            stats: Counts late renewals.
            wake: Called when renewals are due.
        """
        self.seconds = seconds
        self.held: dict[str, Task] = {}
        self.due: dict[str, Task] = {}
        self._stats = stats
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._late_told_at: float | None = None

    @property
    def _pause(self) -> float:
        return self.seconds / RENEWALS_PER_LEASE

    def of(self, task_id: str, token: int) -> Task | None:
        """Returns the task with this lease, if it is held."""
        task = self.held.get(task_id)
        return task if task is not None and task.lease_token == token else None

    def hold(self, task: Task) -> None:
        """Adds a task that was delivered just now."""
        task.renew_at = self._loop.time() + self._pause
        self.held[task.id] = task
        if self._timer is None:
            self._renew_later()

    def release(self, task: Task) -> None:
        """Ends the renewals of a task, if it is held."""
        if self.held.get(task.id) is task:
            del self.held[task.id]
            self.due.pop(task.id, None)

    def renew_all(self) -> None:
        """Queues the renewal of every lease: the server of a new stream may know none of them, or soon expire them."""
        self._renew(self.held.values())

    def stop_renewing(self) -> None:
        """Renews nothing until the next stream."""
        self.due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _renew_later(self) -> None:
        if self._timer is None and self.held:
            self._timer = self._loop.call_at(next(iter(self.held.values())).renew_at, self._renew_due)

    def _renew_due(self) -> None:
        self._timer = None
        now = self._loop.time()
        if self.held:
            self._note_late(now - next(iter(self.held.values())).renew_at, now)
        soon = now + self._pause / 10  # renewals due a little later share the message
        self._renew(itertools.takewhile(lambda task: task.renew_at <= soon, self.held.values()))

    def _note_late(self, late: float, now: float) -> None:
        """Counts a late renewal, and warns of it from time to time."""
        if late <= LATE_PART * self.seconds - self._pause:
            return
        self._stats.late_renewals += 1
        if self._late_told_at is not None and now - self._late_told_at < LATE_REPEAT_SECONDS:
            return
        self._late_told_at = now
        log.warning(
            "leases are renewed %.1f s late: something blocked the whole process, such as a handler's "
            "C code that holds the interpreter's lock (GIL); use longer leases, or a separate process",
            late,
        )

    def _renew(self, tasks: Iterable[Task]) -> None:
        """Queues the renewal of leases, and sets the timer for the next renewal."""
        renew_at = self._loop.time() + self._pause
        for task in list(tasks):
            task.renew_at = renew_at
            del self.held[task.id]
            self.held[task.id] = task
            self.due[task.id] = task
        self._wake()
        self._renew_later()
