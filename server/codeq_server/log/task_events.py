"""What the log tells of tasks: leases that ran out, and tasks that went to the dead-letter queue.

Ordinary creates, claims and outcomes have no lines. Of a herd the first ones of each second are told one by one, the
others by their number.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

from codeq_server.core.notable import DEAD_LETTERED, Notable, Notables

LINES_MAX: Final = 20
"""Lines of each event in SECONDS; one more tells how many others there were."""

SECONDS: Final = 1.0

_log = structlog.get_logger()


class TaskEvents:
    """Tells of batches. Must be used within an event loop."""

    def __init__(self) -> None:
        self._told: Counter[str] = Counter()
        self._untold: Counter[str] = Counter()
        self._is_counting = False

    def take(self, notables: Notables) -> None:
        """Tells of a batch that is durable."""
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
    """Returns what logs an event at its level: a lease that ran out is tried again by itself."""
    log: Callable[..., None] = _log.warning if event == DEAD_LETTERED else _log.info
    return log


def _tell(notable: Notable) -> None:
    fields = notable._asdict()
    _level(fields.pop("event"))(notable.event, **fields)
