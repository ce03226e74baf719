"""Unary calls over several shards: where each is executed, and how the replies are merged."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from codeq.v1 import audit_service_pb2 as audit_pb
from codeq.v1 import queue_service_pb2 as queue_pb
from codeq.v1 import schedule_service_pb2 as schedule_pb
from codeq.v1 import server_service_pb2, task_pb2, tenant_service_pb2, topic_service_pb2
from codeq.v1 import subscription_service_pb2 as subscription_pb
from codeq.v1 import task_service_pb2 as pb
from codeq_server.core.errors import Reason, Rejection
from codeq_server.engine.backups import Backups
from codeq_server.services.routing import router
from codeq_server.services.server_info import ServerService
from codeq_server.services.serving import SHARD_SERVICES
from codeq_server.services.shard_service import AWAIT_WORK, RETURN_TASKS
from codeq_server.storage.rocks import RocksStore
from google.protobuf import descriptor_pool
from google.protobuf.timestamp_pb2 import Timestamp
from several_shards import BOUND, Installation

QUEUES = "/codeq.v1.QueueService/"
TENANTS = "/codeq.v1.TenantService/"
TOPICS = "/codeq.v1.TopicService/"
AUDIT = "/codeq.v1.AuditService/ListAuditRecords"
SCHEDULES = "/codeq.v1.ScheduleService/"
SHARDS = 4


@pytest.fixture
async def shards() -> Installation:
    return Installation(SHARDS)


async def refused(shards: Installation, process: int, method: str, request: Any, tenant: str = "acme") -> Rejection:
    with pytest.raises(Rejection) as refusal:
        await shards.call(process, method, request, tenant)
    return refusal.value


async def finish(shards: Installation, task_id: str, *, dead: bool = False) -> None:
    """Ends a leased task."""
    if dead:
        await shards.call(0, "NackTask", pb.NackTaskRequest(task_id=task_id, reason="broken"))
    else:
        done = pb.SubmitResultRequest(task_id=task_id, status=task_pb2.TASK_STATUS_COMPLETED)
        await shards.call(0, "SubmitResult", done)


def test_every_rpc_of_the_shards_has_one_plan() -> None:
    pool = descriptor_pool.Default()
    rpcs = {
        f"/{service}/{rpc.name}" for service in SHARD_SERVICES for rpc in pool.FindServiceByName(service).methods
    } | {"/codeq.v1.ServerService/BackUp"}
    rpcs |= {f"/codeq.v1.ClusterService/{name}" for name in ("AddMember", "RemoveMember")}
    spreads = [router.SPREADS.keys(), router.ACTS.keys(), router.CLAIMS, router.REFUSED]
    assert set(router.OWNERS).union(*spreads) == rpcs
    several = [name for each in spreads for name in each]
    assert len(several) == len(set(several))
    assert set(router.OWNERS) & set(several) == {
        "/codeq.v1.TaskService/BatchCreateTasks",
        "/codeq.v1.TaskService/BatchSubmitResults",
    }


async def test_task_is_created_in_the_shard_of_its_process_and_found_through_all(shards: Installation) -> None:
    for process in range(SHARDS):
        task_id = await shards.create(process)
        assert shards.shard_of(task_id) == process
        for other in range(SHARDS):
            found = await shards.call(other, "GetTask", pb.GetTaskRequest(task_id=task_id))
            assert found.task.id == task_id


async def test_task_with_a_key_is_created_once_through_whatever_process(shards: Installation) -> None:
    for key in ("a", "b", "c", "d", "e"):
        spec = task_pb2.TaskSpec(command="a", idempotency_key=key)
        made = [await shards.call(each, "CreateTask", pb.CreateTaskRequest(spec=spec)) for each in range(SHARDS)]
        assert len({each.task.id for each in made}) == 1
        assert [each.task.duplicate for each in made] == [False, True, True, True]
        home = shards.shard_of(made[0].task.id)
        assert shards.runners[home].shard.by_name["acme", "a"].ready >= 1


async def test_task_with_a_chosen_id_is_created_once_through_whatever_process(shards: Installation) -> None:
    assert await shards.create(0, task_id="order-7") == "order-7"
    spec = task_pb2.TaskSpec(command="a", task_id="order-7")
    for process in range(SHARDS):
        refusal = await refused(shards, process, "CreateTask", pb.CreateTaskRequest(spec=spec))
        assert refusal.reason is Reason.TASK_ID_TAKEN
        assert refusal.task_id == "order-7"


async def test_batch_over_several_shards_keeps_the_order_and_the_indexes_of_errors(shards: Installation) -> None:
    specs = [task_pb2.TaskSpec(command="a", task_id=shards.texts("t", n % SHARDS, 5)[n // SHARDS]) for n in range(12)]
    specs.insert(5, task_pb2.TaskSpec(command="", task_id="nameless"))
    specs.insert(9, task_pb2.TaskSpec(command="a"))
    specs.append(task_pb2.TaskSpec(command="a", task_id=specs[0].task_id))
    response = await shards.call(2, "BatchCreateTasks", pb.BatchCreateTasksRequest(tasks=specs))
    assert len(response.results) == len(specs)
    for index, (spec, answer) in enumerate(zip(specs, response.results, strict=True)):
        if answer.HasField("error"):
            assert answer.error.index == index
        elif spec.task_id:
            assert answer.task.id == spec.task_id
        else:
            assert shards.shard_of(answer.task.id) == 2
    errors = [answer.error.index for answer in response.results if answer.HasField("error")]
    assert errors == [5, 14]


async def test_items_of_a_shard_that_is_down_get_errors_in_a_batch(shards: Installation) -> None:
    shards.down = {3}
    chosen = [shards.texts("t", shard, 1)[0] for shard in (3, 1, 3)]
    specs = [task_pb2.TaskSpec(command="a", task_id=each) for each in (chosen[0], chosen[1])]
    response = await shards.call(0, "BatchCreateTasks", pb.BatchCreateTasksRequest(tasks=specs))
    assert [answer.HasField("error") for answer in response.results] == [True, False]
    assert response.results[0].error.reason == Reason.SERVER_UNREACHABLE.value
    alone = pb.BatchCreateTasksRequest(tasks=specs[:1])
    assert (await refused(shards, 0, "BatchCreateTasks", alone)).reason is Reason.SERVER_UNREACHABLE


async def test_atomic_batch_with_a_key_lies_in_one_shard_where_each_of_its_tasks_is_found(shards: Installation) -> None:
    for key in ("one", "two", "three"):
        tasks = [task_pb2.TaskSpec(command="a") for _ in range(9)]
        request = pb.BatchCreateTasksRequest(tasks=tasks, atomic=True, idempotency_key=key)
        made = await shards.call(0, "BatchCreateTasks", request)
        again = await shards.call(3, "BatchCreateTasks", request)
        found = [answer.task.id for answer in made.results]
        assert len(set(found)) == 9
        assert [answer.task.id for answer in again.results] == found
        assert all(answer.task.duplicate for answer in again.results)
        for task_id in found:
            assert (await shards.call(1, "GetTask", pb.GetTaskRequest(task_id=task_id))).task.id == task_id


async def test_atomic_batch_with_ids_of_several_shards_is_rejected_by_name(shards: Installation) -> None:
    names = [shards.texts("t", shard, 1)[0] for shard in (2, 2, 1)]
    specs = [task_pb2.TaskSpec(command="a"), *[task_pb2.TaskSpec(command="a", task_id=each) for each in names]]
    request = pb.BatchCreateTasksRequest(tasks=specs, atomic=True)
    refusal = await refused(shards, 0, "BatchCreateTasks", request)
    assert refusal.reason is Reason.INVALID_FIELD
    assert [field for field, _ in refusal.violations] == ["tasks[3].task_id"]
    same = shards.texts("u", 2, 2)
    fitting = [task_pb2.TaskSpec(command="a"), *[task_pb2.TaskSpec(command="a", task_id=each) for each in same]]
    made = await shards.call(0, "BatchCreateTasks", pb.BatchCreateTasksRequest(tasks=fitting, atomic=True))
    assert {shards.shard_of(answer.task.id) for answer in made.results} == {2}


async def test_batch_larger_than_allowed_is_rejected_as_a_whole(shards: Installation) -> None:
    specs = [task_pb2.TaskSpec(command="a", payload=b"1" * (1 << 20), task_id=f"large-{number}") for number in range(9)]
    refusal = await refused(shards, 0, "BatchCreateTasks", pb.BatchCreateTasksRequest(tasks=specs))
    assert refusal.reason is Reason.TOO_LARGE
    assert not any(runner.shard.by_name for runner in shards.runners)


async def test_results_are_split_by_task_and_merged_in_order(shards: Installation) -> None:
    made = [await shards.create(number % SHARDS) for number in range(8)]
    assert set(await shards.claim(0, 8)) == set(made)
    items = [pb.SubmitResultRequest(task_id=each, status=task_pb2.TASK_STATUS_COMPLETED) for each in made]
    items.insert(3, pb.SubmitResultRequest(task_id="unknown", status=task_pb2.TASK_STATUS_COMPLETED))
    response = await shards.call(1, "BatchSubmitResults", pb.BatchSubmitResultsRequest(results=items))
    assert [answer.task_id for answer in response.results] == [item.task_id for item in items]
    assert [answer.error.index for answer in response.results if answer.HasField("error")] == [3]


async def test_counters_of_a_queue_are_those_of_all_shards(shards: Installation) -> None:
    for number in range(7):
        await shards.create(number % 3)
    await shards.claim(1, 2)
    told = await shards.call(3, QUEUES + "GetQueue", queue_pb.GetQueueRequest(command="a"))
    assert (told.queue.ready, told.queue.claimed) == (5, 2)
    missing = queue_pb.GetQueueRequest(command="b")
    assert (await refused(shards, 3, QUEUES + "GetQueue", missing)).reason is Reason.QUEUE_NOT_FOUND
    usage = await shards.call(0, TENANTS + "GetUsage", tenant_service_pb2.GetUsageRequest())
    assert (usage.tenant.usage.waiting_tasks, usage.tenant.usage.leases, usage.tenant.usage.queues) == (5, 2, 1)


async def test_queue_is_paused_and_resumed_in_every_shard_and_recorded_once(shards: Installation) -> None:
    await shards.create(2)
    await shards.call(1, QUEUES + "PauseQueue", queue_pb.PauseQueueRequest(command="a"))
    await shards.create(3)
    assert await shards.claim(3, 5) == []
    records = await shards.call(3, AUDIT, audit_pb.ListAuditRecordsRequest())
    assert [record.call for record in records.records] == ["PauseQueue"]
    told = await shards.call(1, QUEUES + "ResumeQueue", queue_pb.ResumeQueueRequest(command="a"))
    assert told.queue.ready == 2
    assert len(await shards.claim(0, 5)) == 2


async def test_queue_that_only_one_shard_has_is_purged(shards: Installation) -> None:
    await shards.create(2)
    await shards.call(0, QUEUES + "PurgeQueue", queue_pb.PurgeQueueRequest(command="a"))
    await asyncio.sleep(0.01)
    records = (await shards.call(3, AUDIT, audit_pb.ListAuditRecordsRequest())).records
    assert ("PurgeQueue", "OK") in [(record.call, record.outcome) for record in records]
    unknown = queue_pb.PurgeQueueRequest(command="b")
    assert (await refused(shards, 0, QUEUES + "PurgeQueue", unknown)).reason is Reason.QUEUE_NOT_FOUND


async def test_policy_is_set_in_every_shard_and_judged_by_the_first(shards: Installation) -> None:
    policy = topic_service_pb2.QueuePolicy(max_attempts=1)
    request = topic_service_pb2.PutTopicRequest(command="a", policy=policy)
    put = await shards.call(2, TOPICS + "PutTopic", request)
    assert put.topic.created
    for process, runner in enumerate(shards.runners):
        assert runner.shard.policies.row("acme", "a") is not None
        told = await shards.call(process, TOPICS + "GetTopic", topic_service_pb2.GetTopicRequest(command="a"))
        assert told.topic.version == 1
    wrong = topic_service_pb2.PutTopicRequest(command="a", policy=topic_service_pb2.QueuePolicy(rate_per_second=1e-9))
    refusal = await refused(shards, 2, TOPICS + "PutTopic", wrong)
    assert refusal.reason is Reason.INVALID_POLICY


async def test_change_that_one_shard_missed_says_so_and_can_be_repeated(shards: Installation) -> None:
    shards.down = {2}
    request = topic_service_pb2.PutTopicRequest(command="a", policy=topic_service_pb2.QueuePolicy(max_attempts=1))
    refusal = await refused(shards, 1, TOPICS + "PutTopic", request)
    assert refusal.reason is Reason.SERVER_UNREACHABLE
    assert "shard 2" in refusal.message
    assert "repeat" in refusal.message
    shards.down = set()
    await shards.call(1, TOPICS + "PutTopic", request)
    assert all(runner.shard.policies.row("acme", "a") is not None for runner in shards.runners)


async def test_schedule_lives_in_the_shard_of_its_name(shards: Installation) -> None:
    names = [f"nightly-{number}" for number in range(9)]
    for number, name in enumerate(names):
        spec = schedule_pb.ScheduleSpec(cron="0 3 * * *", command="a")
        put = schedule_pb.PutScheduleRequest(name=name, spec=spec)
        await shards.call(number % SHARDS, SCHEDULES + "PutSchedule", put)
        home = shards.shard_of(f"acme\n{name}")
        assert [name in runner.shard.schedules.names("acme") for runner in shards.runners] == [
            shard == home for shard in range(SHARDS)
        ]
    found: list[str] = []
    token = ""
    while True:
        request = schedule_pb.ListSchedulesRequest(page_size=2, page_token=token)
        page = await shards.call(0, SCHEDULES + "ListSchedules", request)
        found += [each.name for each in page.schedules]
        token = page.next_page_token
        if not token:
            break
    assert found == sorted(names)
    fired = await shards.call(1, SCHEDULES + "TriggerSchedule", schedule_pb.TriggerScheduleRequest(name=names[4]))
    assert shards.shard_of(fired.fire.task_id) == shards.shard_of(f"acme\n{names[4]}")


async def test_subscription_is_refused(shards: Installation) -> None:
    request = subscription_pb.CreateSubscriptionRequest(callback_url="https://example.com/hook")
    refusal = await refused(shards, 0, "/codeq.v1.SubscriptionService/CreateSubscription", request)
    assert refusal.reason is Reason.NOT_IMPLEMENTED
    assert "numShards" in refusal.message


async def test_cleanup_goes_from_shard_to_shard_until_its_limit(shards: Installation) -> None:
    for number in range(12):
        await shards.create(number % SHARDS)
    for task_id in await shards.claim(0, 12):
        await finish(shards, task_id)
    shards.clock.forward(1000)
    before = Timestamp(seconds=shards.clock()[0] // 1000)
    deleted: list[int] = []
    token = ""
    while True:
        request = pb.CleanupTasksRequest(before=before, limit=5, page_token=token)
        response = await shards.call(1, "CleanupTasks", request)
        deleted.append(response.deleted)
        assert response.limit == 5
        token = response.next_page_token
        if not token:
            break
        other = pb.CleanupTasksRequest(before=Timestamp(seconds=1), limit=5, page_token=token)
        assert (await refused(shards, 1, "CleanupTasks", other)).reason is Reason.INVALID_PAGE_TOKEN
    assert sum(deleted) == 12
    assert max(deleted) == 5


async def test_cleanup_that_meets_a_shard_that_is_down_tells_what_was_removed(shards: Installation) -> None:
    await shards.create(0)
    for task_id in await shards.claim(0, 1):
        await finish(shards, task_id)
    shards.clock.forward(1000)
    request = pb.CleanupTasksRequest(before=Timestamp(seconds=shards.clock()[0] // 1000))
    shards.down = {1}
    response = await shards.call(0, "CleanupTasks", request)
    assert response.deleted == 1
    request.page_token = response.next_page_token
    assert (await refused(shards, 0, "CleanupTasks", request)).reason is Reason.SERVER_UNREACHABLE
    shards.down = set()
    assert (await shards.call(0, "CleanupTasks", request)).next_page_token == ""


async def dead_letters(shards: Installation, count: int) -> list[str]:
    """Makes dead letters in all shards, one a second."""
    made = [await shards.create(number % SHARDS, max_attempts=1) for number in range(count)]
    await shards.claim(0, count)
    for task_id in made:
        shards.clock.forward(1000)
        await finish(shards, task_id, dead=True)
    return made


async def test_redrive_sums_dry_runs_and_stops_at_its_limit(shards: Installation) -> None:
    await dead_letters(shards, 10)
    dry = await shards.call(0, QUEUES + "RedriveTasks", queue_pb.RedriveTasksRequest(command="a", dry_run=True))
    assert (dry.matched, dry.redriven, dry.next_page_token) == (10, 0, "")
    redriven: list[int] = []
    token = ""
    while True:
        request = queue_pb.RedriveTasksRequest(command="a", limit=4, page_token=token)
        response = await shards.call(2, QUEUES + "RedriveTasks", request)
        redriven.append(response.redriven)
        token = response.next_page_token
        if not token:
            break
    assert sum(redriven) == 10
    assert max(redriven) == 4
    assert len(await shards.claim(1, 20)) == 10


async def test_redrive_finds_named_tasks_in_their_shards(shards: Installation) -> None:
    made = await dead_letters(shards, 8)
    request = queue_pb.RedriveTasksRequest(command="a", task_ids=[*made[:5], "unknown"])
    response = await shards.call(3, QUEUES + "RedriveTasks", request)
    assert (response.matched, response.redriven) == (5, 5)
    assert set(await shards.claim(1, 20)) == set(made[:5])


async def test_redrive_with_a_rate_runs_in_every_shard(shards: Installation) -> None:
    made = await dead_letters(shards, 8)
    request = queue_pb.RedriveTasksRequest(command="a", rate=10_000)
    assert (await shards.call(3, QUEUES + "RedriveTasks", request)).in_background
    found: set[str] = set()
    async with asyncio.timeout(10):
        while found != set(made):
            found |= set(await shards.claim(1, 20))
            await asyncio.sleep(0)


async def test_call_over_all_shards_is_charged_once(shards: Installation) -> None:
    limits = tenant_service_pb2.TenantLimits()
    limits.admin.requests_per_minute, limits.admin.burst_size = 1, 3
    await shards.call(0, TENANTS + "UpdateTenant", tenant_service_pb2.UpdateTenantRequest(name="acme", limits=limits))
    for _ in range(3):
        await shards.call(1, QUEUES + "ListQueues", queue_pb.ListQueuesRequest())
    refusal = await refused(shards, 1, QUEUES + "ListQueues", queue_pb.ListQueuesRequest())
    assert refusal.reason is Reason.RATE_LIMITED


async def test_call_over_all_shards_fails_if_one_is_down_except_lists_of_workers(shards: Installation) -> None:
    shards.down = {2}
    refusal = await refused(shards, 0, QUEUES + "ListQueues", queue_pb.ListQueuesRequest())
    assert refusal.reason is Reason.SERVER_UNREACHABLE
    workers = await shards.call(0, QUEUES + "ListWorkers", queue_pb.ListWorkersRequest())
    assert workers.next_page_token == ""


async def test_backup_is_made_of_every_shard_under_one_name(shards: Installation, tmp_path: Path) -> None:
    stores = []
    for shard, calls in enumerate(shards.calls):
        stores.append(RocksStore(tmp_path / f"store{shard}", fsync=False))
        service = ServerService(
            version="1",
            mode="single",
            fsync=True,
            persistence_provider="rocksdb",
            num_shards=SHARDS,
            backups=Backups(stores[-1].row_sets, None, tmp_path / f"backups{shard}"),
            settled=calls.settled,
            on_trouble=lambda *_: None,
        )
        calls.register("codeq.v1.ServerService", service)
    request = server_service_pb2.BackUpRequest(name="monday")
    response = await shards.call(2, "/codeq.v1.ServerService/BackUp", request)
    assert response.backup.name == "monday"
    assert all((tmp_path / f"backups{shard}" / "monday").is_dir() for shard in range(SHARDS))
    for store in stores:
        store.close()
    records = await shards.call(3, AUDIT, audit_pb.ListAuditRecordsRequest())
    assert {record.call for record in records.records} == {"BackUp"}


async def test_refused_items_of_a_batch_are_recorded_once(shards: Installation) -> None:
    chosen = [shards.texts("t", shard, 1)[0] for shard in (1, 2)]
    for some in (chosen, chosen[:1]):
        specs = [task_pb2.TaskSpec(command="other", task_id=each) for each in some]
        response = await shards.call(0, "BatchCreateTasks", pb.BatchCreateTasksRequest(tasks=specs), BOUND)
        assert {answer.error.reason for answer in response.results} == {Reason.COMMAND_NOT_ALLOWED.value}
    records = (await shards.call(0, AUDIT, audit_pb.ListAuditRecordsRequest())).records
    assert [record.outcome for record in records] == ["COMMAND_NOT_ALLOWED"] * 2


async def test_client_cannot_make_calls_of_the_shards(shards: Installation) -> None:
    public = {method.name for method in shards.calls[0].public_methods()}
    assert not [name for name in public if "codeq_internal" in name]
    assert {AWAIT_WORK, RETURN_TASKS} <= shards.calls[0].methods.keys() - public
