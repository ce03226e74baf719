"""The router of unary calls: knows for every RPC on a shard which shards execute it, and how their replies merge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from codeq.v1 import task_pb2
from google.protobuf.message import Message

from codeq_server.auth.claims import Claims
from codeq_server.auth.revocation import Authorization
from codeq_server.core.errors import Reason, Rejection
from codeq_server.services import cleaning, redriving
from codeq_server.services.audit import OLDEST
from codeq_server.services.listing import NEWEST
from codeq_server.services.methods import Method, call_seconds
from codeq_server.services.shards import Caller, Shards
from codeq_server.services.validation import check_message

from . import merging, owners
from .batches import create_tasks, submit_results
from .by_name import Named, list_by_name
from .claim_router import PACE, ClaimRouter, Pace
from .owners import SEVERAL, Owner
from .pages import Key, Listing, list_by_time
from .routed import Routed
from .spreading import Bounded, in_turn, read, redrive, write

Spread = Callable[[Shards, Routed], Awaitable[Message]]
"""Executes a call over several shards."""

_TASKS: Final = "/codeq.v1.TaskService/"
_QUEUES: Final = "/codeq.v1.QueueService/"
_TENANTS: Final = "/codeq.v1.TenantService/"
_TOPICS: Final = "/codeq.v1.TopicService/"
_AUDIT: Final = "/codeq.v1.AuditService/"
_SCHEDULES: Final = "/codeq.v1.ScheduleService/"
_SUBSCRIPTIONS: Final = "/codeq.v1.SubscriptionService/"
_WEBHOOKS: Final = "/codeq.v1.WebhookService/"
_SERVER: Final = "/codeq.v1.ServerService/"
_CLUSTER: Final = "/codeq.v1.ClusterService/"

_NO_QUEUE: Final = Reason.QUEUE_NOT_FOUND

CLAIMS: Final = frozenset({f"{_TASKS}ClaimTask", f"{_TASKS}ClaimTasks"})
"""Calls that the claim router executes."""

OWNERS: Final[dict[str, Owner]] = {
    f"{_TASKS}CreateTask": owners.of_new_task,
    f"{_TASKS}BatchCreateTasks": owners.of_new_tasks,
    f"{_TASKS}HeartbeatTask": owners.of_task,
    f"{_TASKS}SubmitResult": owners.of_task,
    f"{_TASKS}BatchSubmitResults": owners.of_results,
    f"{_TASKS}NackTask": owners.of_task,
    f"{_TASKS}AbandonTask": owners.of_task,
    f"{_TASKS}ReportProgress": owners.of_task,
    f"{_TASKS}CancelTask": owners.of_task,
    f"{_TASKS}GetTask": owners.of_task,
    f"{_TASKS}ExplainTask": owners.of_task,
    f"{_TASKS}RedriveTask": owners.of_task,
    f"{_TASKS}GetTaskResult": owners.of_task,
    f"{_TASKS}GetTaskArtifact": owners.of_task,
    f"{_TOPICS}GetTopic": owners.first,
    f"{_TOPICS}ListTopics": owners.first,
    f"{_SCHEDULES}GetSchedule": owners.of_schedule,
    f"{_SCHEDULES}PutSchedule": owners.of_schedule,
    f"{_SCHEDULES}DeleteSchedule": owners.of_schedule,
    f"{_SCHEDULES}PauseSchedule": owners.of_schedule,
    f"{_SCHEDULES}ResumeSchedule": owners.of_schedule,
    f"{_SCHEDULES}TriggerSchedule": owners.of_schedule,
    f"{_SCHEDULES}BackfillSchedule": owners.of_schedule,
    f"{_SCHEDULES}GetScheduleHistory": owners.of_schedule,
    f"{_SCHEDULES}RecomputeSchedule": owners.of_schedule,
    # There are no subscriptions, because none can be made: any shard says so.
    f"{_SUBSCRIPTIONS}HeartbeatSubscription": owners.here,
    f"{_SUBSCRIPTIONS}GetSubscription": owners.here,
    f"{_SUBSCRIPTIONS}ListSubscriptions": owners.here,
    f"{_SUBSCRIPTIONS}DeleteSubscription": owners.here,
    f"{_SUBSCRIPTIONS}ListTenantSubscriptions": owners.here,
    f"{_SUBSCRIPTIONS}RemoveTenantSubscription": owners.here,
    f"{_WEBHOOKS}ListTaskCallbacks": owners.of_task,
    f"{_WEBHOOKS}RetryTaskCallbacks": owners.of_task,
    f"{_WEBHOOKS}GetWebhookSecrets": owners.first,
    f"{_WEBHOOKS}TestWebhook": owners.here,
}
"""Calls that one shard executes, unless the owner is SEVERAL."""


def _by_time(field: str, *, newest: bool = False) -> Callable[[Any], Key]:
    """Returns the order of items by a time, oldest or newest first."""
    sign = -1 if newest else 1

    def key(item: Any) -> Key:
        return (sign * getattr(item, field).ToNanoseconds(),)

    return key


def _task_order(request: Any) -> Callable[[Any], Key]:
    """Returns the order of tasks: of one queue by priority and then by acceptance, as each shard has them."""
    if request.order_by != NEWEST and request.command:
        return _priority_order
    return _by_time("created_at", newest=request.order_by == NEWEST)


def _priority_order(task: Any) -> Key:
    return (task.status == task_pb2.TASK_STATUS_SCHEDULED, -task.priority, task.created_at.ToNanoseconds())


def _dead_letter_order(request: Any) -> Callable[[Any], Key]:
    return _by_time("finished_at", newest=request.order_by == NEWEST)


def _audit_order(request: Any) -> Callable[[Any], Key]:
    return _by_time("at", newest=request.order_by != OLDEST)


def _worker_order(request: Any) -> Callable[[Any], Key]:  # noqa: ARG001
    return _by_time("connected_at")


def _callback_order(request: Any) -> Callable[[Any], Key]:  # noqa: ARG001
    return _by_time("completed_at")


SPREADS: Final[dict[str, Spread]] = {
    f"{_TASKS}BatchCreateTasks": create_tasks,
    f"{_TASKS}BatchSubmitResults": submit_results,
    f"{_TASKS}ListTasks": partial(list_by_time, kind=Listing("tasks", _task_order)),
    f"{_QUEUES}ListQueues": partial(list_by_name, kind=Named("queues", "command", "queues", add=merging.add_queue)),
    f"{_QUEUES}GetQueue": partial(read, merge=merging.queue, absent=_NO_QUEUE),
    f"{_QUEUES}ListWorkers": partial(list_by_time, kind=Listing("workers", _worker_order, skips=True)),
    f"{_QUEUES}ListDeadLetters": partial(list_by_time, kind=Listing("tasks", _dead_letter_order, absent=_NO_QUEUE)),
    f"{_TENANTS}ListTenants": partial(
        list_by_name, kind=Named("tenants", "name", "tenants", of_tenant=False, add=merging.add_tenant)
    ),
    f"{_TENANTS}GetTenant": partial(read, merge=merging.tenant),
    f"{_TENANTS}GetUsage": partial(read, merge=merging.tenant),
    f"{_AUDIT}ListAuditRecords": partial(list_by_time, kind=Listing("records", _audit_order)),
    f"{_SCHEDULES}ListSchedules": partial(list_by_name, kind=Named("schedules", "name", "schedules")),
    f"{_WEBHOOKS}ListCallbacks": partial(list_by_time, kind=Listing("callbacks", _callback_order, absent=_NO_QUEUE)),
}
"""Calls over several shards that are charged here, once."""

ACTS: Final[dict[str, Spread]] = {
    f"{_TASKS}CleanupTasks": partial(in_turn, kind=Bounded(("deleted",), "limit", "deleted", cleaning.LIMIT_DEFAULT)),
    f"{_QUEUES}PauseQueue": partial(write, merge=merging.queue),
    f"{_QUEUES}ResumeQueue": partial(write, merge=merging.queue, absent=_NO_QUEUE),
    f"{_QUEUES}PurgeQueue": partial(write, merge=merging.queue, absent=_NO_QUEUE),
    f"{_QUEUES}RedriveTasks": partial(
        redrive,
        kind=Bounded(("matched", "redriven"), "limit", "matched", redriving.LIMIT_DEFAULT, absent=_NO_QUEUE),
    ),
    f"{_TENANTS}UpdateTenant": partial(write, merge=merging.tenant),
    f"{_TOPICS}PutTopic": partial(write, merge=merging.first),
    f"{_TOPICS}DeleteTopic": partial(write, merge=merging.first),
    f"{_WEBHOOKS}RetryCallbacks": partial(in_turn, kind=Bounded(("retried",), absent=_NO_QUEUE)),
    f"{_WEBHOOKS}PutWebhookSecrets": partial(write, merge=merging.first),
    f"{_WEBHOOKS}DeleteWebhookSecrets": partial(write, merge=merging.first),
    f"{_WEBHOOKS}PauseWebhooks": partial(write, merge=merging.paused_hosts),
    f"{_WEBHOOKS}ResumeWebhooks": partial(write, merge=merging.paused_hosts),
    f"{_SERVER}BackUp": partial(write, merge=merging.backup),
    f"{_CLUSTER}AddMember": partial(write, merge=merging.raft_groups),
    f"{_CLUSTER}RemoveMember": partial(write, merge=merging.raft_groups, absent=Reason.MEMBER_NOT_FOUND),
}
"""Calls over several shards that the shards charge and record."""

REFUSED: Final = frozenset({f"{_SUBSCRIPTIONS}CreateSubscription"})
"""Calls that need one shard."""


class Router:
    """Executes unary calls over the shards.

    Args:
        shards: The shards; at least two.
        charge: Charges a call to rate limits; raises a Rejection with RATE_LIMITED.
        clock: Returns the Unix time in seconds.
        pace: How often a waiting claim asks a shard for work.
    """

    def __init__(
        self,
        shards: Shards,
        charge: Callable[[Method, Claims, Message], None],
        clock: Callable[[], float],
        pace: Pace = PACE,
    ) -> None:
        self._shards = shards
        self._charge = charge
        self._claims = ClaimRouter(shards, clock, pace)

    def elsewhere(
        self, method: Method, claims: Claims, request: Message, authorization: Authorization, origin: str
    ) -> Awaitable[Message] | None:
        """Returns the response of a call, awaitable; None: the shard of this process executes it, or the node.

        Raises:
            Rejection: The call was rejected; the awaitable raises it, too.
        """
        shard = self._owner(method, claims, request)
        if shard == self._shards.mine:
            return None
        return self._carry_out(shard, method, request, Caller(claims, authorization, origin))

    @staticmethod
    def spreads(method: Method) -> bool:
        """Returns whether a call concerns several shards, or may."""
        name = method.name
        return name in SPREADS or name in ACTS or name in CLAIMS or name in REFUSED

    async def _carry_out(self, shard: int, method: Method, request: Message, caller: Caller) -> Message:
        name, claims = method.name, caller.claims
        if shard != SEVERAL:
            return await self._shards.call(shard, name, request, caller, seconds=call_seconds(request))
        if name in REFUSED:
            check_message(request)
            text = f"subscriptions are not available with several shards: numShards is {self._shards.count}"
            raise Rejection(Reason.NOT_IMPLEMENTED, text)
        routed = Routed(method, request, caller)
        if name in ACTS:
            check_message(request)
            return await ACTS[name](self._shards, routed)
        self._charge(method, claims, request)
        check_message(request)
        if name in CLAIMS:
            return await self._claims.claim(routed)
        return await SPREADS[name](self._shards, routed)

    def _owner(self, method: Method, claims: Claims, request: Any) -> int:
        """Returns the shard that executes a call, or SEVERAL; calls on the node are executed here."""
        owner = OWNERS.get(method.name)
        if owner is not None:
            return owner(self._shards, claims, request)
        return SEVERAL if self.spreads(method) else self._shards.mine
