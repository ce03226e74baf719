"""Producers that make one call after another: tasks one by one, several, and batches accepted as a whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from codeq.v1 import task_pb2, task_service_pb2
from codeq_server.core.errors import Reason, Rejection
from sim_clients import TASKS_MAX, TaskName, World, cancel
from sim_node import Lost, retryable, tenant_of

_LIVES = 3
"""Times a call is made until somebody knows what became of it."""


@dataclass(frozen=True)
class Wish:
    """What a producer asks for; it may be asked for again at any time."""

    specs: list[task_pb2.TaskSpec]
    method: str
    request: Any
    names: list[TaskName]
    """Names of a batch accepted as a whole, one of which is taken when it is refused."""


def wish(world: World, tenant: str) -> Wish:
    """Returns a call that nobody made before."""
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
    """A producer that asks for what it made, and repeats what got lost, and what did not."""
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
    """Makes a call, again if nobody knows what became of it; returns the id of one of its tasks, "": none is known."""
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
    right = {Reason.IDEMPOTENCY_CONFLICT} if made.request.idempotency_key else {Reason.TASK_ID_TAKEN}
    world.audit.demand(reason in right, f"a batch is refused: {reason}")
    world.audit.refused(tenant, *made.names)


def _judge(world: World, tenant: str, made: Wish, answer: Any) -> str:
    if isinstance(answer, task_service_pb2.CreateTaskResponse):
        tasks = [answer.task]
    else:
        tasks = [item.task for item in answer.results]
        world.audit.demand(len(tasks) == len(made.specs), "a batch has another number of answers than of tasks")
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
    # The batch was accepted before, and this task was removed since.
    keyed = bool(made.request.idempotency_key)
    world.audit.demand(keyed and reason is Reason.TASK_NOT_FOUND, f"a task of a batch is refused: {reason}")
    world.audit.demand(world.audit.was_removed(tenant, spec.payload), "a batch was made without one of its tasks")
