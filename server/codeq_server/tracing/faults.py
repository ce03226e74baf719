"""Faults of tracing: they cost spans, and nothing else."""

from __future__ import annotations

import structlog

_log = structlog.get_logger()


class Faults:
    """Logs the first fault of something that makes spans."""

    def __init__(self) -> None:
        self._are_known = False

    def log(self, problem: Exception) -> None:
        """Logs a fault if it is the first one."""
        if not self._are_known:
            self._are_known = True
            _log.error("spans_not_made", exc_info=problem)
