"""Encodes the outcome of a task as a report. Every outcome yields a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from codeq import artifacts, errors, outcomes
from codeq.logs import log
from codeq.outcomes import Completed, Failed, Nack, Outcome
from codeq.records import Task
from codeq.texts import text_of
from codeq.v1 import worker_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class Report:
    """The end of a running task.

    Attributes:
        task: The task.
        data: An encoded WorkRequest with its outcome; None: nothing to send.
        is_replacement: Whether the report replaces an outcome that the server rejected.
    """

    task: Task
    data: bytes | None
    is_replacement: bool = False


Finish = Callable[[Report], None]
"""Accepts a report, on any thread."""


def report(task: Task, outcome: Outcome) -> Report:
    """Returns the report of a task; an outcome that cannot be encoded becomes a Nack with the reason. Never raises."""
    try:
        return Report(task, _to_request(task, outcome))
    except errors.InvalidRequest as error:
        refusal = text_of(error)
    except BaseException as error:  # noqa: BLE001 - results and artifacts run the program's code
        log.error("the outcome of task %s cannot be sent", task.id, exc_info=error)
        refusal = text_of(error)
    return Report(task, _to_request(task, Nack(refusal)))


def _to_request(task: Task, outcome: Outcome) -> bytes:
    token = task.lease_token or 0
    request = pb.WorkRequest(outcomes=[outcomes.to_message(outcome, task.id, token)])
    if isinstance(outcome, (Completed, Failed)) and outcome.artifacts:
        filed = request.artifacts.add(task_id=task.id, lease_token=token)
        artifacts.fill(filed.artifacts, outcome.artifacts)
    return request.SerializeToString()
