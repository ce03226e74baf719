"""Middleware and hooks for metrics that tell the suite what they see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import codeq

Emit = Callable[[dict[str, Any]], None]

_OUTCOMES = {
    "COMPLETED": "completed",
    "FAILED": "failed",
    "NACK": "nacked",
    "ABANDON": "abandoned",
    "LOST": "dropped",
}


def layer(name: str, worker: str, emit: Emit) -> codeq.Middleware:
    """Returns middleware that tells when it is entered and left."""

    def around(task: codeq.Task[Any], call_next: codeq.Handler) -> object:
        told = {"event": "layer", "worker": worker, "id": task.id, "layer": name}
        emit({**told, "side": "before"})
        try:
            return call_next(task)
        finally:
            emit({**told, "side": "after"})

    return around


class ToldMetrics(codeq.Metrics):
    """Tells every call of the hook; `owner` is the name of the worker or producer."""

    def __init__(self, owner: str, emit: Emit) -> None:
        self._owner, self._emit = owner, emit

    def created(self, count: int, failed: int, seconds: float) -> None:
        for number in range(count):
            self._tell("created", isCreated=number >= failed, took=seconds)

    def task_started(self, task: codeq.Task[object]) -> None:
        self._tell("started", command=task.command)

    def task_ended(self, task: codeq.Task[object], outcome: str, seconds: float) -> None:
        self._tell("ended", command=task.command, outcome=_OUTCOMES[outcome], took=seconds)

    def _tell(self, what: str, **about: object) -> None:
        self._emit({"event": "metric", "worker": self._owner, "what": what, **about})
