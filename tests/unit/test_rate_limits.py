"""Rate limits of calls: which ones they concern, what each costs, and what a refusal says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from codeq.v1 import queue_service_pb2, task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq_server.auth.access import METHODS
from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.claims import WORKER_SCOPES, Token
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.limits import NO_LIMITS, Limits, Rate
from codeq_server.core.shard import ShardSettings
from codeq_server.core.tenants import Tenants
from codeq_server.engine.space import SpaceWatch
from codeq_server.services.calls import Calls
from codeq_server.services.grpc_front import status_of
from codeq_server.services.local_dispatch import failed
from codeq_server.services.metrics import ShardCollector
from codeq_server.services.rate_limits import limited_of
from codeq_server.services.serving import Serving
from codeq_server.services.shard_table import ShardTable
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from held_log import HeldRunner, turns, until

SLOW = Rate(60, 3)
"""One call per second, three at once."""
TASKS, QUEUES = "/codeq.v1.TaskService/", "/codeq.v1.QueueService/"
ELSEWHERE = Rejection(Reason.NOT_LEADER, "elsewhere")

LIMITED = {
    "AddMember": "admin/add_member",
    "BackUp": "admin/back_up",
    "BatchCreateTasks": "producer/create_task",
    "CancelTask": "producer/cancel_task",
    "ClaimTask": "worker/claim",
    "ClaimTasks": "worker/claim",
    "CleanupTasks": "admin/cleanup",
    "CreateTask": "producer/create_task",
    "DeleteWebhookSecrets": "admin/delete_webhook_secrets",
    "GetQueue": "admin/get_queue",
    "GetTenant": "admin/get_tenant",
    "GetWebhookSecrets": "admin/get_webhook_secrets",
    "ListCallbacks": "admin/list_callbacks",
    "ListAuditRecords": "admin/list_audit_records",
    "ListDeadLetters": "admin/list_dead_letters",
    "ListQueues": "admin/list_queues",
    "ListTenantSubscriptions": "admin/list_tenant_subscriptions",
    "ListTenants": "admin/list_tenants",
    "ListWorkers": "admin/list_workers",
    "PauseQueue": "admin/pause_queue",
    "PauseWebhooks": "admin/pause_webhooks",
    "Produce": "producer/create_task",
    "PurgeQueue": "admin/purge_queue",
    "PutWebhookSecrets": "admin/put_webhook_secrets",
    "RedriveTask": "admin/redrive_task",
    "RedriveTasks": "admin/redrive_tasks",
    "RemoveMember": "admin/remove_member",
    "RemoveTenantSubscription": "admin/remove_tenant_subscription",
    "ResumeQueue": "admin/resume_queue",
    "ResumeWebhooks": "admin/resume_webhooks",
    "RetryCallbacks": "admin/retry_callbacks",
    "RetryTaskCallbacks": "admin/retry_task_callbacks",
    "TestWebhook": "admin/test_webhook",
    "BackfillSchedule": "admin/backfill_schedule",
    "DeleteSchedule": "admin/delete_schedule",
    "GetSchedule": "admin/get_schedule",
    "GetScheduleHistory": "admin/get_schedule_history",
    "ListSchedules": "admin/list_schedules",
    "PauseSchedule": "admin/pause_schedule",
    "PutSchedule": "admin/put_schedule",
    "RecomputeSchedule": "admin/recompute_schedule",
    "ResumeSchedule": "admin/resume_schedule",
    "TriggerSchedule": "admin/trigger_schedule",
    "TransferLeadership": "admin/transfer_leadership",
    "PutTopic": "admin/put_topic",
    "GetTopic": "admin/get_topic",
    "ListTopics": "admin/list_topics",
    "DeleteTopic": "admin/delete_topic",
    "UpdateTenant": "admin/update_tenant",
    "Work": "worker/claim",
}
UNLIMITED = {
    *("AbandonTask", "BatchSubmitResults", "HeartbeatTask", "NackTask", "ReportProgress", "SubmitResult"),
    *("ExplainTask", "GetTask", "GetTaskArtifact", "GetTaskResult", "ListTasks"),
    *("GetRaftStatus", "GetServerInfo", "GetTopology", "GetUsage", "ListTaskCallbacks"),
    *("CreateSubscription", "DeleteSubscription", "GetSubscription", "HeartbeatSubscription", "ListSubscriptions"),
    *("GetRaftStatus", "GetServerInfo", "GetTopology", "GetUsage"),
}


def test_every_rpc_is_limited_as_documented() -> None:
    found, free = {}, set()
    for method in METHODS:
        limited = limited_of(f"/{method.containing_service.full_name}/{method.name}")
        if limited is None:
            free.add(method.name)
        else:
            found[method.name] = "/".join(limited)
    assert found == LIMITED
    assert free == UNLIMITED


class Tokens:
    """Accepts tokens such as "acme.7.admin": the tenant, a name, and an optional role."""

    def validate(self, token: str) -> Token:
        tenant, _, rest = token.partition(".")
        role = rest.partition(".")[2]
        scopes = WORKER_SCOPES | ({f"codeq:{role}"} if role else set())
        return Token(token, "", scopes, frozenset({"*"}), {"tenantId": tenant})


class Desk:
    """Calls on a served shard whose clock stands still."""

    def __init__(self, limits: Limits) -> None:
        self.runner = HeldRunner(ShardSettings(limits=limits))
        self.runner.log.free = True
        self.serving = Serving(self.runner, None, lease_seconds=60, artifact_bytes_max=0)
        self.calls = Calls(Authenticator(Tokens(), Tokens()), ShardTable(ELSEWHERE.again))
        self.calls.shards.present(self.serving)

    async def call(self, name: str, request: Message, token: str = "acme.1") -> Any:
        return await self.calls.call(name, request, f"Bearer {token}")

    async def create(self, token: str = "acme.1") -> Any:
        return await self.call(f"{TASKS}CreateTask", pb.CreateTaskRequest(spec=spec()), token)

    async def create_batch(self, count: int, token: str = "acme.1") -> Any:
        return await self.call(f"{TASKS}BatchCreateTasks", pb.BatchCreateTasksRequest(tasks=[spec()] * count), token)

    async def claim(self, count: int = 1, token: str = "acme.1", wait: int = 0) -> Any:
        return await self.call(f"{TASKS}ClaimTasks", pb.ClaimTasksRequest(count=count, wait_seconds=wait), token)

    def hits(self) -> dict[str, int]:
        """Returns what the metric shows, without zeros."""
        collector = ShardCollector(lambda: self.serving, SpaceWatch(lambda: 1, 0, lambda *_: None))
        families = [family for family in collector.collect() if family.name == "codeq_rate_limit_hits"]
        shown = {
            f"{sample.labels['scope']}/{sample.labels['operation']}": int(sample.value)
            for family in families
            for sample in family.samples
        }
        assert shown.keys() == set(LIMITED.values())
        return {name: count for name, count in shown.items() if count}


def spec() -> task_pb2.TaskSpec:
    return task_pb2.TaskSpec(command="a", payload=b"1")


async def refused(call: Any) -> dict[str, str]:
    """Returns the details of the refusal of a call."""
    with pytest.raises(Rejection) as caught:
        await call
    assert caught.value.reason is Reason.RATE_LIMITED
    assert caught.value.message == "rate limit exceeded"
    return dict(caught.value.metadata)


def about(scope: str, operation: str, subject: str, seconds: int) -> dict[str, str]:
    return {"scope": scope, "operation": operation, "subject": subject, "retryAfterSeconds": str(seconds)}


async def test_call_over_the_rate_is_refused_before_it_is_decided() -> None:
    desk = Desk(Limits(producer_token=SLOW))
    for _ in range(3):
        await desk.create()
    rows, created = len(desk.runner.log.batches), desk.runner.shard.totals.created
    assert await refused(desk.create()) == about("producer", "create_task", "token", 1)
    assert (len(desk.runner.log.batches), desk.runner.shard.totals.created) == (rows, created)
    desk.runner.clock.forward(500)
    assert await refused(desk.create_batch(2)) == about("producer", "create_task", "token", 2)
    desk.runner.clock.forward(499)
    await refused(desk.create())
    desk.runner.clock.forward(1)
    await desk.create()
    assert desk.hits() == {"producer/create_task": 3}


async def test_refusal_carries_its_delay_over_grpc_and_to_the_gateway() -> None:
    desk = Desk(Limits(producer_token=Rate(6, 1)))
    await desk.create()
    with pytest.raises(Rejection) as caught:
        await desk.create()
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    details = status_of(caught.value).details
    assert [detail.Unpack(each) for detail, each in zip(details, (info, retry), strict=True)] == [True, True]
    assert dict(info.metadata) == about("producer", "create_task", "token", 10)
    assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == (10, 0)
    assert failed(caught.value).retry_after_seconds == 10


async def test_batch_costs_its_tasks_and_is_refused_as_a_whole() -> None:
    desk = Desk(Limits(producer_token=Rate(60, 10)))
    await desk.create_batch(4)
    assert await refused(desk.create_batch(7)) == about("producer", "create_task", "token", 1)
    assert desk.runner.shard.totals.created == 4
    await desk.create_batch(6)


async def test_batch_above_the_burst_size_passes_when_the_bucket_is_full_and_leaves_a_debt() -> None:
    desk = Desk(Limits(producer_token=Rate(60, 10)))
    await desk.create_batch(100)
    assert await refused(desk.create()) == about("producer", "create_task", "token", 91)
    desk.runner.clock.forward(91_000)
    await desk.create()
    assert await refused(desk.create_batch(100)) == about("producer", "create_task", "token", 10)


async def test_further_tasks_of_a_claim_are_charged_after_it() -> None:
    desk = Desk(Limits(worker_token=Rate(60, 2)))
    await desk.create_batch(8)
    assert len((await desk.claim(5)).tasks) == 5
    assert await refused(desk.claim()) == about("worker", "claim", "token", 4)  # 2 - 5 = -3
    desk.runner.clock.forward(4_000)
    assert len((await desk.claim(1)).tasks) == 1


async def test_waiting_claim_is_charged_when_it_delivers() -> None:
    desk = Desk(Limits(worker_token=Rate(60, 2)))
    waiting = asyncio.create_task(desk.claim(5, wait=30))
    await until(lambda: len(desk.runner.waiting))
    assert not (await desk.claim()).tasks  # the other one of the burst
    await desk.create_batch(4)
    taken = (await waiting).tasks
    assert len(taken) == 4
    assert await refused(desk.claim()) == about("worker", "claim", "token", 4)  # 2 - 2 - 3 = -3


async def test_delivered_task_can_always_be_brought_to_its_end() -> None:
    every = Rate(1, 1)
    desk = Desk(Limits(every, every, every, every, every, every))
    await desk.create()
    [task] = (await desk.claim()).tasks
    for _ in range(5):
        await desk.call(f"{TASKS}HeartbeatTask", pb.HeartbeatTaskRequest(task_id=task.id))
        await desk.call(f"{TASKS}ReportProgress", pb.ReportProgressRequest(task_id=task.id, progress=b"1"))
        await desk.call(f"{TASKS}GetTask", pb.GetTaskRequest(task_id=task.id))
        await desk.call(f"{TASKS}ListTasks", pb.ListTasksRequest())
    done = pb.SubmitResultRequest(task_id=task.id, status=task_pb2.TASK_STATUS_COMPLETED)
    for _ in range(5):
        await desk.call(f"{TASKS}SubmitResult", done)
    assert desk.hits() == {}


async def test_tokens_and_tenants_have_buckets_of_their_own() -> None:
    desk = Desk(Limits(producer_token=SLOW, producer=Rate(60, 5)))
    for token in ("acme.1", "acme.1", "acme.1", "acme.2", "acme.2"):
        await desk.create(token)
    assert (await refused(desk.create("acme.1")))["subject"] == "token"
    assert (await refused(desk.create("acme.2")))["subject"] == "tenant"
    for token in ("umbrella.1", "umbrella.1", "umbrella.1", "umbrella.2", "umbrella.2"):
        await desk.create(token)
    assert (await refused(desk.create("umbrella.2")))["subject"] == "tenant"
    assert desk.hits() == {"producer/create_task": 3}


async def test_refusal_by_one_bucket_charges_neither() -> None:
    desk = Desk(Limits(producer_token=Rate(60, 4), producer=Rate(60, 6)))
    await desk.create_batch(4, "acme.1")
    for _ in range(10):
        await refused(desk.create("acme.1"))  # by its token: the tenant keeps its 2
    await desk.create_batch(2, "acme.2")
    for _ in range(10):
        assert (await refused(desk.create("acme.2")))["subject"] == "tenant"
    desk.runner.clock.forward(2_000)
    await desk.create_batch(2, "acme.2")  # its token kept 2


async def test_refusal_names_the_bucket_that_takes_longer() -> None:
    desk = Desk(Limits(producer_token=Rate(60, 1), producer=Rate(6, 1)))
    await desk.create()
    assert await refused(desk.create()) == about("producer", "create_task", "tenant", 10)


async def test_scopes_have_buckets_of_their_own() -> None:
    desk = Desk(Limits(producer_token=Rate(60, 1), worker_token=Rate(60, 1), admin_token=Rate(60, 1)))
    admin = "acme.1.admin"
    await desk.create(admin)
    await desk.claim(token=admin)
    await desk.call(f"{QUEUES}ListQueues", queue_service_pb2.ListQueuesRequest(), admin)
    await refused(desk.create(admin))
    await refused(desk.claim(token=admin))
    listing = desk.call(f"{QUEUES}ListQueues", queue_service_pb2.ListQueuesRequest(), admin)
    assert await refused(listing) == about("admin", "list_queues", "token", 1)
    cleaning = desk.call(f"{TASKS}CleanupTasks", pb.CleanupTasksRequest(), admin)
    assert await refused(cleaning) == about("admin", "cleanup", "token", 1)
    assert desk.hits() == dict.fromkeys(
        ("producer/create_task", "worker/claim", "admin/list_queues", "admin/cleanup"), 1
    )


async def test_operator_on_another_tenant_is_charged_to_the_token_only() -> None:
    desk = Desk(Limits(admin_token=Rate(60, 3), admin=Rate(60, 1)))
    await desk.create("umbrella.1")
    operator, request = "acme.boss.operator", queue_service_pb2.ListQueuesRequest(tenant="umbrella")
    for _ in range(2):
        await desk.call(f"{QUEUES}ListQueues", request, operator)
    await desk.call(f"{QUEUES}ListQueues", queue_service_pb2.ListQueuesRequest(), operator)  # the first of acme
    assert (await refused(desk.call(f"{QUEUES}ListQueues", request, operator)))["subject"] == "token"
    await desk.call(f"{QUEUES}ListQueues", queue_service_pb2.ListQueuesRequest(), "umbrella.1.admin")
    other = desk.call(f"{QUEUES}ListQueues", queue_service_pb2.ListQueuesRequest(), "acme.2.admin")
    assert (await refused(other))["subject"] == "tenant"


async def test_caller_without_the_right_is_not_charged_and_an_invalid_call_is() -> None:
    desk = Desk(Limits(admin_token=Rate(60, 1), producer_token=Rate(60, 1)))
    for _ in range(3):
        with pytest.raises(Rejection) as caught:
            await desk.call(f"{QUEUES}ListQueues", queue_service_pb2.ListQueuesRequest())
        assert caught.value.reason is Reason.NOT_ADMIN
    with pytest.raises(Rejection) as caught:
        await desk.call(f"{TASKS}CreateTask", pb.CreateTaskRequest())
    assert caught.value.reason is Reason.INVALID_FIELD
    await refused(desk.create())


async def test_changed_limit_takes_effect_with_the_next_call() -> None:
    desk = Desk(Limits(producer_token=SLOW))
    await desk.create_batch(3)
    await refused(desk.create())
    desk.runner.shard.tenants = Tenants(NO_LIMITS)
    await desk.create()
    desk.runner.shard.tenants = Tenants(Limits(producer=Rate(60, 1)))
    await desk.create()
    assert (await refused(desk.create()))["subject"] == "tenant"


async def test_next_leadership_starts_with_full_buckets() -> None:
    desk = Desk(Limits(producer_token=SLOW))
    await desk.create_batch(3)
    await refused(desk.create())
    desk.serving.end(ELSEWHERE)
    after = HeldRunner(ShardSettings(limits=Limits(producer_token=SLOW)), store=desk.runner.log.store, epoch=8)
    after.log.free = True
    desk.calls.shards.present(Serving(after, None, lease_seconds=60, artifact_bytes_max=0))
    await desk.create_batch(3)
    await refused(desk.create())


async def test_unlimited_server_keeps_no_buckets() -> None:
    desk = Desk(NO_LIMITS)
    for _ in range(10):
        await desk.create()
    await turns()
    assert sum(map(len, desk.serving.rates._buckets.values())) == 0
