"""An administrator of the simulated node: redrives, reads dead letters, deletes ended tasks, sets quotas and limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sim_keys
from codeq.v1 import queue_service_pb2, task_pb2, task_service_pb2, tenant_service_pb2, topic_service_pb2
from codeq_server.core.errors import Reason, Rejection
from sim_audit import REDRIVABLE
from sim_node import tenant_of
from sim_purges import Purge

if TYPE_CHECKING:
    from sim_clients import World

_NOT_THERE = frozenset({Reason.TASK_NOT_FOUND, Reason.TASK_NOT_REDRIVABLE, Reason.QUEUE_NOT_FOUND})


async def redrive_task(world: World, holder: str) -> None:
    """Redrives one task, or tries to redrive a task that has not failed."""
    own = [task for task in world.audit.tasks.values() if task.asked.tenant == tenant_of(holder)]
    ended = [task for task in own if task.end is not None and task.end.status in REDRIVABLE]
    if not own:
        return
    known = world.chance.choice(ended or own)
    known.redrives += 2  # the call may be duplicated
    request = task_service_pb2.RedriveTaskRequest(task_id=known.task_id)
    try:
        await world.node.call(holder, "TaskService/RedriveTask", request)
    except Rejection as refusal:
        if refusal.reason not in _NOT_THERE:
            raise


async def redrive_queue(world: World, holder: str, command: str) -> None:
    """Redrives tasks of a queue, either at once, page by page, or in the background."""
    chance, audit, tenant = world.chance, world.audit, tenant_of(holder)
    status = chance.choice((task_pb2.TASK_STATUS_DLQ, task_pb2.TASK_STATUS_FAILED, task_pb2.TASK_STATUS_CANCELLED))
    request = queue_service_pb2.RedriveTasksRequest(command=command, status=status)
    if chance.random() < 0.3:
        request.rate = chance.choice((1, 10))
    else:
        request.limit = chance.choice((0, 1, 3))
        request.dry_run = chance.random() < 0.2
    while True:
        if not request.dry_run:
            audit.redrives[tenant, command] = audit.redrives.get((tenant, command), 0) + 1
        try:
            answer = await world.node.call(holder, "QueueService/RedriveTasks", request, doubled=0)
        except Rejection as refusal:
            if refusal.reason in _NOT_THERE:
                return
            raise
        request.page_token = answer.next_page_token
        if not request.page_token:
            audit.count("redrive of a queue")
            return


async def list_dead_letters(world: World, holder: str, command: str) -> None:
    """Reads every page of a queue's dead letters and checks that each is shown once."""
    seen: set[tuple[str, int]] = set()
    request = queue_service_pb2.ListDeadLettersRequest(command=command, page_size=2)
    while True:
        try:
            page = await world.node.call(holder, "QueueService/ListDeadLetters", request)
        except Rejection as refusal:
            if refusal.reason in _NOT_THERE:
                return
            raise
        for task in page.tasks:
            world.audit.demand(task.status == task_pb2.TASK_STATUS_DLQ, f"{task.id} is listed as a dead letter")
            revived = world.audit.tasks[tenant_of(holder), task.id].revived
            row = (task.id, task.created_at.ToMilliseconds())
            world.audit.demand(revived or row not in seen, f"{task.id} is listed twice")
            seen.add(row)
        request.page_token = page.next_page_token
        if not request.page_token:
            world.audit.count("dead letters listed")
            return


async def purge(world: World, holder: str, command: str) -> None:
    """Purges a queue."""
    asked = Purge()
    world.audit.purges.setdefault((tenant_of(holder), command), []).append(asked)
    request = queue_service_pb2.PurgeQueueRequest(command=command)
    try:
        await world.node.call(holder, "QueueService/PurgeQueue", request, doubled=0)
    except Rejection as refusal:
        if refusal.reason not in _NOT_THERE:
            raise
    asked.answered = world.audit.batches
    world.audit.count("purge")


async def limit(world: World, holder: str) -> None:
    """Sets the tenant's quota of waiting tasks, as an operator; 0: none."""
    tenant, quota = tenant_of(holder), world.chance.choice((0, 5, 5, 12))
    world.audit.quotas.setdefault(tenant, []).append((world.audit.batches, quota))
    request = tenant_service_pb2.UpdateTenantRequest(name=tenant)
    request.limits.waiting_tasks_max = quota
    answer = await world.node.call(holder, "TenantService/UpdateTenant", request, doubled=0)
    shown = answer.tenant.effective.waiting_tasks_max
    world.audit.demand(shown == quota, f"a quota of {quota} was set, and {shown} is shown")
    world.audit.count("quota set")


async def limit_consumers(world: World, holder: str, command: str) -> None:
    """Sets how many tasks of a queue may be leased at a time, as an administrator; 0: any number."""
    tenant, most = tenant_of(holder), world.chance.choice((0, 1, 2, 5))
    world.audit.consumers.setdefault((tenant, command), []).append((world.audit.batches, most))
    request = topic_service_pb2.PutTopicRequest(command=command, policy=sim_keys.LIMITS[command])
    request.policy.max_consumers = most
    await world.node.call(holder, "TopicService/PutTopic", request, doubled=0)
    world.audit.count("consumers limited")


async def cleanup(world: World, holder: str) -> None:
    """Deletes tasks that ended before some other task ended."""
    audit, tenant = world.audit, tenant_of(holder)
    ends = [task.end for task in audit.tasks.values() if task.asked.tenant == tenant and task.end is not None]
    if not ends:
        return
    before_ms = world.chance.choice(ends).changed_ms
    audit.cleaned[tenant] = max(before_ms, audit.cleaned.get(tenant, 0))
    request = task_service_pb2.CleanupTasksRequest(limit=world.chance.choice((1, 5, 0)))
    request.before.FromMilliseconds(before_ms)
    await world.node.call(holder, "TaskService/CleanupTasks", request)
    audit.count("cleanup")
