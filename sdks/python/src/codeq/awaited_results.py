"""Waits for the result of a task with long polls. Pure; no I/O."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from codeq import calls
from codeq.calls import Call
from codeq.errors import CodeqError, DeadlineExceeded, ResultNotFound, Unavailable
from codeq.task_results import TaskResult

POLL_SECONDS_MAX: Final = 30
"""Maximum time that one call waits at the server."""

RETRY_SECONDS: Final = 0.5
"""Delay before the next call after one that reached no server."""


class Polls:
    """The calls that wait for one task to end."""

    def __init__(self, task_id: str, deadline: float) -> None:
        """Prepares the calls.

        Args:
            task_id: Id of the task.
            deadline: Time on the caller's clock at which the wait ends.
        """
        self._task_id = task_id
        self._deadline = deadline

    def following(self, now: float) -> tuple[Call[TaskResult], float]:
        """Returns the next call and its timeout in seconds, on top of its own wait.

        Raises:
            DeadlineExceeded: The time is up.
        """
        left = self._deadline - now
        if left <= 0:
            raise self._late()
        wait = min(POLL_SECONDS_MAX, int(left))
        call = calls.result(self._task_id, max(1, wait))
        return replace(call, wait_seconds=wait), left - wait

    def delay_after(self, error: CodeqError, now: float) -> float:
        """Returns the seconds to wait before the next call after one that failed.

        Raises:
            CodeqError: The error, or DeadlineExceeded: the task has not ended in time.
        """
        if isinstance(error, ResultNotFound):
            return 0.0
        if isinstance(error, DeadlineExceeded):
            raise self._late() from None
        if not isinstance(error, Unavailable):
            raise error
        return min(RETRY_SECONDS, max(0.0, self._deadline - now))

    def _late(self) -> DeadlineExceeded:
        text = f"task {self._task_id} did not end within the timeout"
        return DeadlineExceeded(text, metadata={"taskId": self._task_id})
