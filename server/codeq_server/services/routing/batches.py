"""Batches over several shards: each item goes to the shard of its task, and the answers keep the items' order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codeq.v1 import task_service_pb2 as pb
from google.protobuf.message import Message

from codeq_server.auth.claims import Claims
from codeq_server.core.errors import Rejection, invalid_field
from codeq_server.services.batch_bytes import check_results, check_tasks
from codeq_server.services.convert import item_error
from codeq_server.services.shards import Shards

from .placing import has_home, of_spec
from .routed import Outcome, Routed, at_once, attempt


async def create_tasks(shards: Shards, routed: Routed) -> Message:
    """Creates the tasks of a batch in several shards.

    Raises:
        Rejection: INVALID_FIELD: the batch is atomic, which only a batch in one shard can be; TOO_LARGE; or that of the
            shards if all of them reject their parts.
    """
    request = routed.request
    if request.atomic:
        raise _scattered(shards, routed.caller.claims, request)
    check_tasks(request)
    answers: list[Any] = [pb.CreateTaskAnswer() for _ in request.tasks]
    places: dict[int, int] = {}
    for index, spec in enumerate(request.tasks):
        try:
            places[index] = of_spec(shards, routed.caller.claims, spec)
        except Rejection as rejection:
            answers[index].error.CopyFrom(item_error(index, rejection))
    groups = grouped(places)
    parts = [
        attempt(shards, shard, routed, pb.BatchCreateTasksRequest(tasks=[request.tasks[index] for index in group]))
        for shard, group in groups.items()
    ]
    _merge(answers, groups, await at_once(parts))
    return pb.BatchCreateTasksResponse(results=answers)


async def submit_results(shards: Shards, routed: Routed) -> Message:
    """Ends tasks of several shards.

    Raises:
        Rejection: TOO_LARGE, or that of the shards if all of them reject their parts.
    """
    request = routed.request
    check_results(request)
    groups = grouped({index: shards.shard_of(item.task_id) for index, item in enumerate(request.results)})
    parts = [
        attempt(shards, shard, routed, pb.BatchSubmitResultsRequest(results=[request.results[at] for at in group]))
        for shard, group in groups.items()
    ]
    answers: list[Any] = [pb.SubmitResultAnswer(task_id=item.task_id) for item in request.results]
    _merge(answers, groups, await at_once(parts))
    return pb.BatchSubmitResultsResponse(results=answers)


def grouped(places: Mapping[int, int]) -> dict[int, list[int]]:
    """Returns the indexes of the items of each shard, given the shard of each item by its index."""
    groups: dict[int, list[int]] = {}
    for index, shard in places.items():
        groups.setdefault(shard, []).append(index)
    return groups


def _merge(answers: Sequence[Any], groups: Mapping[int, Sequence[int]], outcomes: Sequence[Outcome]) -> None:
    """Puts the answers of the shards in the order of the items; the items of a shard that refused its part get errors.

    Raises:
        Rejection: The first one if every shard refused its part.
    """
    refused = [outcome for outcome in outcomes if isinstance(outcome, Rejection)]
    if refused and len(refused) == len(outcomes):
        raise refused[0]
    for group, outcome in zip(groups.values(), outcomes, strict=True):
        if isinstance(outcome, Rejection):
            for index in group:
                answers[index].error.CopyFrom(item_error(index, outcome))
            continue
        made: Any = outcome
        for index, answer in zip(group, made.results, strict=True):
            answers[index].CopyFrom(answer)
            if answer.HasField("error"):
                answers[index].error.index = index


def _scattered(shards: Shards, claims: Claims, request: pb.BatchCreateTasksRequest) -> Rejection:
    """Returns the rejection of an atomic batch whose tasks belong to several shards."""
    fixed = [
        (index, of_spec(shards, claims, spec))
        for index, spec in enumerate(request.tasks)
        if spec.task_id or has_home(shards, claims, spec)
    ]
    at, shard = fixed[0]
    other = next(index for index, place in fixed if place != shard)
    field = f"tasks[{other}].task_id" if request.tasks[other].task_id else f"tasks[{other}]"
    return invalid_field(
        field,
        f"belongs in another shard than tasks[{at}], by its id, or because tasks of its command have keys or limits, "
        f"and an atomic batch lies in one shard (numShards is {shards.count}): make several batches",
    )
