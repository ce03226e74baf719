"""The hook for metrics: a program is told of what producers and workers do, and counts it as it likes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from codeq.errors import CodeqError
from codeq.logs import log

if TYPE_CHECKING:
    from codeq.records import Task


class Metrics:
    """Base of a program's hook: override what you need. The methods must not block, and may be called on any thread.

    An exception that a method raises is logged and changes nothing else.
    """

    def created(self, count: int, failed: int, seconds: float) -> None:
        """Called after each create of a producer.

        Args:
            count: Number of tasks of the call.
            failed: Number of them that were not created, or may not have been.
            seconds: Duration of the call.
        """

    def task_started(self, task: Task[object]) -> None:
        """Called before a handler runs."""

    def task_ended(self, task: Task[object], outcome: str, seconds: float) -> None:
        """Called after a handler has run.

        Args:
            task: The task.
            outcome: COMPLETED, FAILED, NACK, ABANDON, or LOST: the lease was lost, and no outcome is sent.
            seconds: Time that the handler took.
        """


class SafeMetrics:
    """Calls a hook, whatever it raises."""

    __slots__ = ("_metrics",)

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def created(self, results: Sequence[object], seconds: float) -> None:
        """Tells the results of a create."""
        failed = sum(isinstance(result, CodeqError) for result in results)
        with _logged():
            self._metrics.created(len(results), failed, seconds)

    def task_started(self, task: Task[object]) -> None:
        """Tells that a handler is about to run."""
        with _logged():
            self._metrics.task_started(task)

    def task_ended(self, task: Task[object], outcome: str, seconds: float) -> None:
        """Tells that a handler has run."""
        with _logged():
            self._metrics.task_ended(task, outcome, seconds)


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    try:
        yield
    except BaseException:  # noqa: BLE001 - not even sys.exit() in a hook may cost a task its outcome
        log.exception("the metrics hook failed")


def told_safely(metrics: Metrics | None) -> SafeMetrics | None:
    """Returns a hook that never raises; None for None.

    Raises:
        TypeError: The value is not a Metrics.
    """
    if metrics is not None and not isinstance(metrics, Metrics):
        raise TypeError(f"metrics must be a codeq.Metrics, not {type(metrics).__name__}")
    return None if metrics is None else SafeMetrics(metrics)
