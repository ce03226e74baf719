"""Logs notable events of tasks: expired leases, and tasks moved to the dead-letter queue.

Ordinary creates, claims and outcomes are not logged. In a burst, the first events of each second are logged one by one,
the rest as a count.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

from codeq_server.core.notable import DEAD_LETTERED, Notable, Notables

LINES_MAX: Final = 20
"""Maximum lines of each event per SECONDS; one more line gives the number of further events."""

SECONDS: Final = 1.0

_log = structlog.get_logger()


class TaskEvents:
    """Logs the notable events of batches. Must be used within an event loop."""

    def __init__(self) -> None:
        self._told: Counter[str] = Counter()
        self._untold: Counter[str] = Counter()
        self._is_counting = False

    def take(self, notables: Notables) -> None:
        """Logs the notable events of a durable batch."""
        for notable in notables.listed:
            if self._told[notable.event] < LINES_MAX:
                self._told[notable.event] += 1
                _tell(notable)
            else:
                self._untold[notable.event] += 1
        self._untold.update(notables.more or {})
        if not self._is_counting:
            self._is_counting = True
            asyncio.get_running_loop().call_later(SECONDS, self._begin_anew)

    def _begin_anew(self) -> None:
        untold, self._untold = self._untold, Counter()
        self._told.clear()
        self._is_counting = False
        for event, count in untold.items():
            _level(event)(event, more=count)


def _level(event: str) -> Callable[..., None]:
    """Returns the log method for an event: warning for dead letters, info for expired leases, which are retried."""
    log: Callable[..., None] = _log.warning if event == DEAD_LETTERED else _log.info
    return log


def _tell(notable: Notable) -> None:
    fields = notable._asdict()
    _level(fields.pop("event"))(notable.event, **fields)
