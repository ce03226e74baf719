"""What a worker's stream is given: options, and an executor of handlers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from codeq.records import CancelReason, Task
from codeq.worker_reports import Finish


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """Options of a worker.

    Attributes:
        name: Name within the token's subject; may be empty.
        commands: Commands to take; none: all that the token allows.
        concurrency: Tasks that run at once.
        lease_seconds: Length of the leases.
        window_bytes: Bytes of payload that the worker holds at once; the last task may exceed them.
        drain_seconds: Time for running tasks to finish once the worker is stopped.
    """

    name: str
    commands: tuple[str, ...]
    concurrency: int
    lease_seconds: int
    window_bytes: int
    drain_seconds: float


class Executor(Protocol):
    """Runs tasks elsewhere; its methods are called on the transport's loop and must not block."""

    def start(self, tasks: Sequence[Task], finish: Finish) -> None:
        """Runs tasks and calls finish once for each, on any thread."""

    def ended(self, task: Task) -> None:
        """Notes that the report of a task has arrived."""

    def cancel(self, task: Task, reason: CancelReason) -> None:
        """Stops a running task if possible."""

    def give_back(self) -> None:
        """Reports the tasks that have not started yet as given back, and forgets them."""

    def end(self) -> None:
        """Stops watching what is still running."""
