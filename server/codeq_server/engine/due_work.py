"""Due work of a shard: a timer starts it, and it takes turns with the tenants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from codeq_server.core import timers
from codeq_server.core.alarms import NEVER
from codeq_server.core.clock import Now
from codeq_server.core.shard import Shard

from .admission import CALL_COST, Admission

TIMER_ROWS_MAX = 10_000
"""Row changes in the batch at which due work waits for the next batch; the remaining room is reserved for callers."""
TIMER_BYTES_MAX = 8 << 20
"""Bytes of payloads, results and progress in the batch at which due work waits for the next batch: a task whose lease
expires carries its progress along."""
TIMERS: Final = ""
"""Name under which due work stands in line, as if it were a tenant."""
TIMER_MS_MAX = 1000
"""Maximum timer wait while any work is pending; it takes at most this long to notice that the wall clock was set
forward."""


class DueWork:
    """Processes what falls due, until it is stopped.

    Attributes:
        timer: The timer, if one is set.
    """

    def __init__(
        self,
        shard: Shard,
        admission: Admission,
        now: Callable[[], Now],
        changed: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Creates the due work; nothing happens until `arm` is called.

        Args:
            shard: Shard.
            admission: Line in which due work waits for its turn.
            now: Returns the time for a decision.
            changed: Called after every decision.
            failed: Called when a decision broke off halfway.
        """
        self.timer: asyncio.TimerHandle | None = None
        self._shard = shard
        self._admission = admission
        self._now = now
        self._changed = changed
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._watch = timers.Watch(shard)
        self._timer_at = Now(NEVER, NEVER)
        """Time at which the timer fires; the wall time is an estimate made when the timer was set."""
        self._waits = False
        """Whether due work is waiting for its turn; no timer is needed until then."""
        self._held = False
        """Whether due work is waiting for the next batch."""
        self._stopped = False

    def arm(self) -> None:
        """Sets the timer after a decision, if anything may fall due before it fires."""
        # Usually the timer fires early enough; checking that needs no reading of the clocks.
        if self._watch.is_quiet(self._timer_at) or self._waits or self._stopped:
            return
        now = self._now()
        wait = timers.next_wake(self._shard, now)
        if wait is None:
            return
        wait = min(wait, TIMER_MS_MAX)
        if now.mono_ms + wait < self._timer_at.mono_ms:
            if self.timer is not None:
                self.timer.cancel()
            self._timer_at = Now(now.wall_ms + wait, now.mono_ms + wait)
            self.timer = self._loop.call_later(wait / 1000, self._on_timer)

    def look(self) -> None:
        """Starts on what is due now, without waiting for the timer."""
        if not self._waits and not self._stopped:
            if self.timer is not None:
                self.timer.cancel()
            self._on_timer()

    @property
    def is_pending(self) -> bool:
        """Whether due work is waiting for its turn, or for the next batch."""
        return self._waits and not self._stopped

    def resume(self) -> None:
        """Queues due work again if it was waiting for a batch with more room; such a batch has begun."""
        if self._held:
            self._held = False
            self._admission.push(TIMERS, self.run)

    def stop(self) -> None:
        """Stops processing."""
        self._stopped = True
        if self.timer is not None:
            self.timer.cancel()

    def _on_timer(self) -> None:
        self.timer, self._timer_at = None, Now(NEVER, NEVER)
        self._waits = True
        self._admission.push(TIMERS, self.run)

    def run(self) -> int:
        """Processes a slice of due work and schedules the next one; returns the cost."""
        if self._stopped:
            return 0
        batch = self._shard.batch
        if len(batch.rows) > TIMER_ROWS_MAX or batch.size > TIMER_BYTES_MAX:
            self._held = True
            self._changed()
            return 0
        before = timers.worked(self._shard)
        try:
            self._waits = timers.run_due(self._shard, self._now())
        except Exception as problem:  # noqa: BLE001 - half a decision may be in memory
            self._failed(problem)
            return 0
        if self._waits:
            self._admission.push(TIMERS, self.run)
        self._changed()
        return CALL_COST + timers.worked(self._shard) - before
