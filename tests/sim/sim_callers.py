"""Producers that make one call at a time: single tasks, batches, and atomic batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import sim_quotas
from codeq.v1 import task_pb2, task_service_pb2
from codeq_server.core.errors import Reason, Rejection
from sim_clients import TASKS_MAX, TaskName, World, cancel
from sim_node import Lost, retryable, tenant_of

_LIVES = 3
"""Attempts of a call whose outcome stays unknown."""


@dataclass(frozen=True)
class Wish:
    """A producer's request; it may be repeated at any time."""

    specs: list[task_pb2.TaskSpec]
    method: str
    request: Any
    names: list[TaskName]
    """Names of an atomic batch; if the batch is rejected, one of them is already in use."""


def wish(world: World, tenant: str) -> Wish:
    """Returns a new call."""
    most = min(3, TASKS_MAX - world.number)
    match world.chance.choice(("each", "each", "atomic", "ids", "keyed")):
        case "atomic":
            return _whole(world, tenant, [None] * most, "")
        case "ids":
            number = world.name()[1]
            return _whole(world, tenant, [("id", f"{number}.{index}", -1) for index in range(most)], "")
        case "keyed":
            key = world.name()[1]
            return _whole(world, tenant, [("key", key, index) for index in range(most)], key)
    specs = world.specs(tenant)
    if len(specs) == 1:
        return Wish(specs, "TaskService/CreateTask", task_service_pb2.CreateTaskRequest(spec=specs[0]), [])
    return Wish(specs, "TaskService/BatchCreateTasks", task_service_pb2.BatchCreateTasksRequest(tasks=specs), [])


def _whole(world: World, tenant: str, names: list[TaskName] | list[None], key: str) -> Wish:
    specs = [world.spec(tenant, name) for name in names]
    group = frozenset(spec.payload for spec in specs)
    for payload in group:
        world.audit.asked[payload] = replace(world.audit.asked[payload], group=group)
    request = task_service_pb2.BatchCreateTasksRequest(tasks=specs, atomic=True)
    if key:
        request.idempotency_key = key
    taken = [("key", key, -1)] if key else []
    return Wish(specs, "TaskService/BatchCreateTasks", request, [*taken, *filter(None, names)])


async def produce_by_calls(world: World, holder: str) -> None:
    """Runs a producer that reads the tasks that it created, and repeats calls, lost or not."""
    tenant = tenant_of(holder)
    node, chance = world.node, world.chance
    wishes: list[Wish] = []
    for _ in world.lives():
        if not wishes or chance.random() < 0.7:
            wishes.append(wish(world, tenant))
            made = wishes[-1]
        else:
            made = chance.choice(wishes)
        try:
            task_id = await _ask(world, holder, made)
            if task_id and chance.random() < 0.2:
                wait = task_service_pb2.GetTaskResultRequest(task_id=task_id, wait_seconds=chance.choice((0, 1, 5)))
                await node.call(holder, "TaskService/GetTaskResult", wait)
            if chance.random() < 0.3:
                await cancel(world, holder)
        except (Lost, Rejection):
            pass
        await world.pause(0.2)


async def _ask(world: World, holder: str, made: Wish) -> str:
    """Makes a call, and repeats it while its outcome is unknown; returns the id of one of the created tasks, or ""."""
    for _ in range(_LIVES):
        try:
            answer = await world.node.call(holder, made.method, made.request, doubled=0.2)
        except Lost:
            await world.pause(0.2)
        except Rejection as refusal:
            if not retryable(refusal):
                _judge_refusal(world, tenant_of(holder), made, refusal.reason)
                return ""
        else:
            return _judge(world, tenant_of(holder), made, answer)
    return ""


def _judge_refusal(world: World, tenant: str, made: Wish, reason: Reason) -> None:
    if not made.names:
        world.refused(tenant, made.specs[0], reason)
        return
    if sim_quotas.refused(world.audit, tenant, reason):
        return
    right = {Reason.IDEMPOTENCY_CONFLICT} if made.request.idempotency_key else {Reason.TASK_ID_TAKEN}
    world.audit.demand(reason in right, f"a batch is rejected: {reason}")
    world.audit.refused(tenant, *made.names)


def _judge(world: World, tenant: str, made: Wish, answer: Any) -> str:
    if isinstance(answer, task_service_pb2.CreateTaskResponse):
        tasks = [answer.task]
    else:
        tasks = [item.task for item in answer.results]
        world.audit.demand(len(tasks) == len(made.specs), "the numbers of a batch's answers and tasks differ")
        for spec, item in zip(made.specs, answer.results, strict=True):
            if item.HasField("error"):
                _judge_item(world, tenant, made, spec, Reason(item.error.reason))
    for spec, task in zip(made.specs, tasks, strict=True):
        if task.id:
            world.told(tenant, spec, task.id)
            if task.duplicate:
                world.audit.count("found again")
    return tasks[0].id


def _judge_item(world: World, tenant: str, made: Wish, spec: task_pb2.TaskSpec, reason: Reason) -> None:
    if not made.request.atomic:
        world.refused(tenant, spec, reason)
        return
    # The batch was accepted earlier, and this task has been removed since.
    keyed = bool(made.request.idempotency_key)
    world.audit.demand(keyed and reason is Reason.TASK_NOT_FOUND, f"a task of a batch is rejected: {reason}")
    world.audit.demand(world.audit.was_removed(tenant, spec.payload), "a batch was created without one of its tasks")
