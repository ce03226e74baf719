"""The limit on the bytes of a batch."""

from __future__ import annotations

from typing import Final

from codeq.v1 import task_service_pb2 as pb

from codeq_server.core.errors import Reason, Rejection

BATCH_BYTES_MAX: Final = 8 << 20
"""Maximum bytes of a batch's payloads or results."""


def check_tasks(request: pb.BatchCreateTasksRequest) -> None:
    """Checks the size of the payloads of new tasks.

    Raises:
        Rejection: TOO_LARGE.
    """
    _check("tasks", sum(len(spec.payload) for spec in request.tasks))


def check_results(request: pb.BatchSubmitResultsRequest) -> None:
    """Checks the size of results and artifacts.

    Raises:
        Rejection: TOO_LARGE.
    """
    contents = sum(len(each.content) for item in request.results for each in item.artifacts)
    _check("results", sum(len(item.result) for item in request.results) + contents)


def _check(field: str, size: int) -> None:
    if size > BATCH_BYTES_MAX:
        raise Rejection(
            Reason.TOO_LARGE, f"{field}: {size} bytes, the limit is {BATCH_BYTES_MAX}", ((field, "too large"),)
        )
