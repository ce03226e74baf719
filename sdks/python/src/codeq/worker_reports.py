"""How the end of a task is reported: whatever came of it, there is a report."""

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
        data: A WorkRequest with its outcome on the wire; None: there is none to send.
        is_replacement: Whether it replaces an outcome that the server refused as malformed.
    """

    task: Task
    data: bytes | None
    is_replacement: bool = False


Finish = Callable[[Report], None]
"""Takes a report, in any thread."""


def report(task: Task, outcome: Outcome) -> Report:
    """The report of a task; an outcome that cannot be sent becomes a Nack that says why. Never raises."""
    try:
        return Report(task, _to_request(task, outcome))
    except errors.InvalidRequest as error:
        refusal = text_of(error)
    except BaseException as error:  # noqa: BLE001 - results and artifacts run code of the program
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
