"""Acts and refused accesses on their way to the audit trail: batches, replies and the log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import structlog.testing
from accepted_tasks import create
from codeq.v1 import (
    audit_service_pb2,
    queue_service_pb2,
    schedule_service_pb2,
    task_pb2,
    task_service_pb2,
    topic_service_pb2,
    webhook_service_pb2,
)
from codeq_gateway.dispatch import Call, CallFailed
from codeq_internal.v1 import rows_pb2
from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.claims import Token
from codeq_server.core import callbacks, keys, withdrawal
from codeq_server.core.batch import SealedBatch
from codeq_server.core.errors import Reason, Rejection
from codeq_server.services import webhooks
from codeq_server.services.calls import Calls
from codeq_server.services.cluster import ClusterService, NoCluster
from codeq_server.services.local_dispatch import LocalDispatcher
from codeq_server.services.methods import Method
from codeq_server.services.serving import Serving
from codeq_server.services.shard_table import ShardTable
from google.protobuf import timestamp_pb2
from google.protobuf.message import Message
from held_log import HeldRunner, turns, until

QUEUES, TASKS = "/codeq.v1.QueueService/", "/codeq.v1.TaskService/"
SCHEDULES, TOPICS, WEBHOOKS = (f"/codeq.v1.{name}Service/" for name in ("Schedule", "Topic", "Webhook"))
ORIGIN = "192.0.2.1:4321"
LATE = timestamp_pb2.Timestamp(seconds=4_000_000_000)
ELSEWHERE = Rejection(Reason.NOT_LEADER, "another node leads")


class Tokens:
    """Accepts tokens that name a role: admin, bound (to the command "b") or operator."""

    def validate(self, token: str) -> Token | None:
        if token == "operator":
            return Token("Op", "", frozenset({"codeq:operator"}), frozenset(), {})
        if token not in {"admin", "bound"}:
            return None
        commands = frozenset({"b"}) if token == "bound" else frozenset({"*"})
        return Token("ann", "", frozenset(), commands, {"tenantId": "acme", "role": "ADMIN"})


class Nobody:
    """Accepts no token."""

    def validate(self, _: str) -> Token | None:
        return None


@pytest.fixture
async def runner() -> HeldRunner:
    return HeldRunner()


@pytest.fixture
async def calls(runner: HeldRunner) -> Calls:
    made = Calls(Authenticator(Tokens(), Nobody()), ShardTable(ELSEWHERE.again))
    made.shards.present(Serving(runner, None, lease_seconds=60, artifact_bytes_max=0))
    made.register("codeq.v1.ClusterService", ClusterService(NoCluster(), fsync=True))
    return made


def ask(calls: Calls, name: str, request: Message, token: str = "admin") -> asyncio.Future[Message]:
    return asyncio.ensure_future(calls.call(name, request, f"Bearer {token}", origin=ORIGIN))


def audited(batch: SealedBatch) -> list[rows_pb2.AuditRow]:
    """Returns the audit records in a batch."""
    return [rows_pb2.AuditRow.FromString(value) for key, value in batch.rows.items() if key[:1] == keys.AUDIT and value]


async def ended_tasks(runner: HeldRunner, count: int = 1) -> list[str]:
    """Makes cancelled tasks of the command "a", durably; returns their ids."""
    ids = [runner.create() for _ in range(count)]
    for task_id in ids:
        withdrawal.cancel(runner.shard, "acme", task_id, "", runner.now())
    runner.changed()
    await until(lambda: runner.log.batches)
    runner.log.release()
    await until(lambda: runner.durable() is None)
    return ids


Requests = Callable[[str], Message]
ACTS: dict[str, tuple[str, Requests, bytes]] = {
    "pause": (f"{QUEUES}PauseQueue", lambda _: queue_service_pb2.PauseQueueRequest(command="a"), keys.QUEUES),
    "purge": (f"{QUEUES}PurgeQueue", lambda _: queue_service_pb2.PurgeQueueRequest(command="a"), keys.QUEUES),
    "redrive": (f"{TASKS}RedriveTask", lambda task: task_service_pb2.RedriveTaskRequest(task_id=task), keys.STATES),
    "redrive many": (
        f"{QUEUES}RedriveTasks",
        lambda _: queue_service_pb2.RedriveTasksRequest(command="a", status=task_pb2.TASK_STATUS_CANCELLED),
        keys.STATES,
    ),
    "redrive named": (
        f"{QUEUES}RedriveTasks",
        lambda task: queue_service_pb2.RedriveTasksRequest(
            command="a", status=task_pb2.TASK_STATUS_CANCELLED, task_ids=[task]
        ),
        keys.STATES,
    ),
    "clean up": (f"{TASKS}CleanupTasks", lambda _: task_service_pb2.CleanupTasksRequest(before=LATE), keys.STATES),
    "put a topic": (
        f"{TOPICS}PutTopic",
        lambda _: topic_service_pb2.PutTopicRequest(command="a", policy={"max_consumers": 1}),
        keys.TOPICS,
    ),
    "put a schedule": (
        f"{SCHEDULES}PutSchedule",
        lambda _: schedule_service_pb2.PutScheduleRequest(name="s", spec={"command": "a", "every": "1h"}),
        keys.SCHEDULES,
    ),
    "put secrets": (
        f"{WEBHOOKS}PutWebhookSecrets",
        lambda _: webhook_service_pb2.PutWebhookSecretsRequest(secrets=["a secret of some length"]),
        keys.ENDPOINTS,
    ),
    "pause a host": (
        f"{WEBHOOKS}PauseWebhooks",
        lambda _: webhook_service_pb2.PauseWebhooksRequest(host="hooks.example:443"),
        keys.ENDPOINTS,
    ),
}


@pytest.mark.parametrize(("name", "request_of", "table"), ACTS.values(), ids=ACTS.keys())
async def test_act_and_its_record_are_one_batch_and_the_reply_waits_for_it(
    calls: Calls, runner: HeldRunner, name: str, request_of: Requests, table: bytes
) -> None:
    runner.create()
    (task_id,) = await ended_tasks(runner)
    batches = len(runner.log.batches)
    reply = ask(calls, name, request_of(task_id))
    await until(lambda: len(runner.log.batches) > batches)
    (batch,) = runner.log.batches[batches:]
    assert table in {key[:1] for key in batch.rows}
    (row,) = audited(batch)
    assert (row.call, row.subject, row.tenant, row.origin, row.outcome) == (
        name.rpartition("/")[2],
        "ann",
        "acme",
        ORIGIN,
        "OK",
    )
    await turns()
    assert not reply.done()
    runner.log.release()
    await reply
    assert not any(audited(later) for later in runner.log.batches[batches + 1 :])


async def batches_of(runner: HeldRunner, reply: asyncio.Future[Message]) -> list[SealedBatch]:
    """Returns the batches, at least two, that a call makes which has just been asked for."""
    before = len(runner.log.batches)
    while not reply.done():
        await turns(3)
        if len(runner.log.batches) > before and runner.shard.in_flight:
            runner.log.release()
    made = runner.log.batches[before:]
    assert len(made) > 1
    return made


async def test_act_of_several_batches_has_in_each_of_them_a_record_of_what_is_done(
    calls: Calls, runner: HeldRunner
) -> None:
    count = 300
    await ended_tasks(runner, count)
    made = await batches_of(
        runner, ask(calls, f"{TASKS}CleanupTasks", task_service_pb2.CleanupTasksRequest(before=LATE))
    )
    deleted = 0
    for batch in made:
        deleted += sum(value is None for key, value in batch.rows.items() if key[:1] == keys.STATES)
        assert [json.loads(row.after) for row in audited(batch)] == [{"deleted": deleted}]
    assert deleted == count
    assert len({key for batch in made for key in batch.rows if key[:1] == keys.AUDIT}) == 1


async def given_up_callbacks(runner: HeldRunner, count: int) -> None:
    """Makes callbacks of the command "a" that were given up, durably."""
    shard, now = runner.shard, runner.now()
    for _ in range(count):
        task_id, _ = create(shard, "acme", "a", b"1", 0, 0, 0, now, webhook="https://hooks.example/")
        withdrawal.cancel(shard, "acme", task_id, "", now)
    while turn := callbacks.take_first(shard, lambda _: count, now):
        for callback in turn[1]:
            callbacks.settle(shard, callback, callbacks.Call(now.wall_ms, 404, 1), (), 0.0, now)
    runner.changed()
    await until(lambda: runner.log.batches)
    runner.log.release()
    await until(lambda: runner.durable() is None)


async def test_retry_of_many_callbacks_has_in_each_batch_a_record_of_what_is_retried(
    calls: Calls, runner: HeldRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "SLICE", 10)
    await given_up_callbacks(runner, 300)
    made = await batches_of(
        runner, ask(calls, f"{WEBHOOKS}RetryCallbacks", webhook_service_pb2.RetryCallbacksRequest(command="a"))
    )
    retried = 0
    for batch in made:
        retried += sum(value is not None for key, value in batch.rows.items() if key[:1] == keys.OUTBOX)
        assert [json.loads(row.after) for row in audited(batch)] == [{"retried": retried}]
    assert retried == 300


@pytest.mark.parametrize("turns_before", range(8))
async def test_list_of_callbacks_goes_on_when_tasks_are_removed_meanwhile(
    calls: Calls, runner: HeldRunner, monkeypatch: pytest.MonkeyPatch, turns_before: int
) -> None:
    monkeypatch.setattr(webhooks, "SLICE", 2)
    await given_up_callbacks(runner, 9)
    runner.log.free = True
    listed = ask(calls, f"{WEBHOOKS}ListCallbacks", webhook_service_pb2.ListCallbacksRequest(command="a"))
    await turns(turns_before)
    await ask(calls, f"{TASKS}CleanupTasks", task_service_pb2.CleanupTasksRequest(before=LATE))
    assert isinstance(await listed, webhook_service_pb2.ListCallbacksResponse)


@pytest.mark.parametrize("rate", [0, 1000])
async def test_redrive_that_meets_a_corrupt_row_is_recorded_with_what_it_has_done(
    calls: Calls, runner: HeldRunner, rate: int
) -> None:
    ids = await ended_tasks(runner, 3)
    runner.log.free = True
    (*_, (last, _)) = runner.log.store.scan(*keys.table_rows(keys.STATES), 9)
    runner.log.store.write({last: b"\xff"})
    request = queue_service_pb2.RedriveTasksRequest(command="a", status=task_pb2.TASK_STATUS_CANCELLED, rate=rate)
    reply = ask(calls, f"{QUEUES}RedriveTasks", request)
    if rate:
        await reply
    else:
        with pytest.raises(Rejection, match="contradict each other"):
            await reply
    await turns(100)
    runner.create()
    await runner.wait_durable()
    rows = runner.log.store.scan(*keys.table_rows(keys.AUDIT), 9)
    assert [json.loads(rows_pb2.AuditRow.FromString(value).after)["redriven"] for _, value in rows] == [len(ids) - 1]


async def test_rejection_of_an_act_waits_for_its_record(calls: Calls, runner: HeldRunner) -> None:
    reply = ask(calls, f"{QUEUES}ResumeQueue", queue_service_pb2.ResumeQueueRequest(command="none"))
    await until(lambda: runner.log.batches)
    await turns()
    assert not reply.done()
    assert [row.outcome for row in audited(runner.log.batches[0])] == ["QUEUE_NOT_FOUND"]
    runner.log.release()
    with pytest.raises(Rejection):
        await reply


async def test_refused_caller_is_answered_before_its_record_is_written(calls: Calls, runner: HeldRunner) -> None:
    dispatcher = LocalDispatcher(calls, _forward)
    paused = queue_service_pb2.PauseQueueRequest(command="a")
    with pytest.raises(CallFailed) as refusal:
        await dispatcher.call(Call(f"{QUEUES}PauseQueue", paused, "Bearer bound", "r", 30, origin=ORIGIN))
    assert refusal.value.reason == Reason.COMMAND_NOT_ALLOWED.value
    with pytest.raises(CallFailed):
        dispatcher.admit(f"{TASKS}GetTask", "Bearer nobody", ORIGIN)
    await until(lambda: runner.log.batches)
    (batch,) = runner.log.batches
    assert [(row.call, row.outcome, row.subject, row.origin) for row in audited(batch)] == [
        ("PauseQueue", "COMMAND_NOT_ALLOWED", "ann", ORIGIN),
        ("GetTask", "UNAUTHENTICATED", "", ORIGIN),
    ]
    runner.log.release()
    await turns()
    assert len(runner.log.batches) == 1


async def test_refused_accesses_of_one_turn_share_a_batch(calls: Calls, runner: HeldRunner) -> None:
    for _ in range(10):
        calls.denied(f"{TASKS}GetTask", Rejection(Reason.UNAUTHENTICATED, "no"), ORIGIN)
    await until(lambda: runner.log.batches)
    assert len(audited(runner.log.batches[0])) == 10


async def test_node_that_does_not_serve_the_shard_refuses_without_a_record(calls: Calls, runner: HeldRunner) -> None:
    calls.shards.present(None)
    calls.denied(f"{TASKS}GetTask", Rejection(Reason.UNAUTHENTICATED, "no"), ORIGIN)
    await turns()
    assert runner.log.batches == []
    runner.end(ELSEWHERE)
    calls.shards.present(Serving(runner, None, lease_seconds=60, artifact_bytes_max=0))
    calls.denied(f"{TASKS}GetTask", Rejection(Reason.UNAUTHENTICATED, "no"), ORIGIN)


@pytest.mark.parametrize(
    ("peer", "written"),
    [
        ("ipv4:192.0.2.1:4321", "192.0.2.1:4321"),
        ("ipv6:%5B2001:db8::1%5D:4321", "[2001:db8::1]:4321"),
        ("ipv6:[2001:db8::1]:4321", "[2001:db8::1]:4321"),
        ("ipv6:%5B::ffff:192.0.2.1%5D:4321", "192.0.2.1:4321"),
        ("[2001:db8::1]:4321", "[2001:db8::1]:4321"),
        ("192.0.2.1:4321", "192.0.2.1:4321"),
        ("", ""),
        ("x" * 1000, "x" * 256),
    ],
)
async def test_origin_is_host_and_port_however_the_front_writes_it(
    calls: Calls, runner: HeldRunner, peer: str, written: str
) -> None:
    calls.denied(f"{TASKS}GetTask", Rejection(Reason.UNAUTHENTICATED, "no"), peer)
    await until(lambda: runner.log.batches)
    (row,) = audited(runner.log.batches[0])
    assert row.origin == written


async def test_tenant_that_is_no_name_of_one_is_not_recorded(calls: Calls, runner: HeldRunner) -> None:
    denial = Rejection(Reason.UNAUTHENTICATED, "no")
    denial.tenant = "<script>"
    calls.denied(f"{TASKS}GetTask", denial, ORIGIN)
    await until(lambda: runner.log.batches)
    assert audited(runner.log.batches[0])[0].tenant == ""


async def test_log_tells_of_an_act_with_its_outcome_and_of_no_refused_access(calls: Calls, runner: HeldRunner) -> None:
    runner.log.free = True
    with structlog.testing.capture_logs() as lines:
        await ask(calls, f"{QUEUES}PauseQueue", queue_service_pb2.PauseQueueRequest(command="a"))
        for name, token in (("none", "admin"), ("a", "bound")):
            with pytest.raises(Rejection):
                await ask(calls, f"{QUEUES}ResumeQueue", queue_service_pb2.ResumeQueueRequest(command=name), token)
    who = {"log_level": "info", "tenant": "acme", "subject": "ann", "origin": ORIGIN, "event": "administered"}
    state = {"before": '{"paused":false}', "after": '{"paused":true}'}
    assert lines == [
        {**who, "call": "PauseQueue", "object": "a", "outcome": "OK", **state},
        {**who, "call": "ResumeQueue", "object": "none", "outcome": "QUEUE_NOT_FOUND"},
    ]


async def test_caller_that_leaves_before_its_turn_has_made_no_act(calls: Calls, runner: HeldRunner) -> None:
    with structlog.testing.capture_logs() as lines:
        reply = ask(calls, f"{QUEUES}PauseQueue", queue_service_pb2.PauseQueueRequest(command="a"))
        reply.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reply
    assert lines == []
    assert runner.log.batches == []


class Node:
    """A service of the node whose calls the test ends."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.outcome: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    def __getattr__(self, _: str) -> Callable[..., Awaitable[Message]]:
        return self._call

    async def _call(self, claims: Any, request: Any) -> Message:  # noqa: ARG002
        self.begun.set()
        return await self.outcome


async def node_of(calls: Calls) -> tuple[Node, Method]:
    node = Node()
    calls.register("codeq.v1.ServerService", node, lambda: {"made": node.outcome.done()})
    return node, calls.methods["/codeq.v1.ServerService/BackUp"]


async def test_act_on_the_node_is_recorded_before_it_begins_and_with_its_outcome_before_the_reply(
    calls: Calls, runner: HeldRunner
) -> None:
    node, method = await node_of(calls)
    reply = ask(calls, method.name, method.parse(b"\x0a\x03one"), "operator")
    await until(lambda: runner.log.batches)
    await turns()
    assert not node.begun.is_set()
    assert [(row.outcome, row.object, row.before) for row in audited(runner.log.batches[0])] == [
        ("OUTCOME_UNKNOWN", "one", '{"made":false}')
    ]
    runner.log.release()
    await node.begun.wait()
    node.outcome.set_result(audit_service_pb2.ListAuditRecordsResponse())
    await until(lambda: len(runner.log.batches) == 2)
    await turns()
    assert not reply.done()
    assert [(row.outcome, row.after) for row in audited(runner.log.batches[1])] == [("OK", '{"made":true}')]
    assert {key for batch in runner.log.batches for key in batch.rows if key[:1] == keys.AUDIT} == {
        key for key in runner.log.batches[0].rows if key[:1] == keys.AUDIT
    }
    runner.log.release()
    await reply


@pytest.mark.parametrize("is_on_node", [False, True])
async def test_log_tells_of_an_act_whose_caller_leaves_before_the_reply(
    calls: Calls, runner: HeldRunner, *, is_on_node: bool
) -> None:
    node, method = await node_of(calls)
    with structlog.testing.capture_logs() as lines:
        if is_on_node:
            reply = ask(calls, method.name, method.parse(b"\x0a\x03one"), "operator")
            await until(lambda: runner.log.batches)
            runner.log.release()
            await node.begun.wait()
        else:
            reply = ask(calls, f"{QUEUES}PauseQueue", queue_service_pb2.PauseQueueRequest(command="a"))
            await until(lambda: runner.log.batches)
        reply.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reply
    assert [(line["event"], line["call"], line["outcome"]) for line in lines] == [
        ("administered", method.descriptor.name if is_on_node else "PauseQueue", "OUTCOME_UNKNOWN")
    ]


async def test_handover_whose_caller_leaves_is_recorded_with_an_unknown_outcome(
    calls: Calls, runner: HeldRunner
) -> None:
    node = Node()
    calls.register("codeq.v1.ClusterService", node)
    method = calls.methods["/codeq.v1.ClusterService/TransferLeadership"]
    reply = ask(calls, method.name, method.parse(b""), "operator")
    await until(lambda: runner.log.batches)
    runner.log.free = True
    runner.log.release()
    await node.begun.wait()
    reply.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reply
    await until(lambda: len(runner.log.batches) == 2)
    assert [row.outcome for batch in runner.log.batches for row in audited(batch)] == ["OK", "OUTCOME_UNKNOWN"]


@pytest.mark.parametrize("rpc", ["TransferLeadership", "RemoveMember"])
async def test_change_that_only_another_node_can_make_is_not_left_on_record_as_begun(
    calls: Calls, runner: HeldRunner, rpc: str
) -> None:
    node = Node()
    calls.register("codeq.v1.ClusterService", node)
    node.outcome.set_exception(ELSEWHERE.again())
    runner.log.free = True
    method = calls.methods[f"/codeq.v1.ClusterService/{rpc}"]
    with pytest.raises(Rejection):
        await ask(calls, method.name, method.parse(b"\x0a\x02n2"), "operator")
    assert [row.outcome for row in audited(runner.log.batches[-1])] == ["NOT_LEADER"]


async def test_act_on_a_node_that_does_not_serve_the_shard_is_only_logged(calls: Calls, runner: HeldRunner) -> None:
    node, method = await node_of(calls)
    calls.shards.present(None)
    node.outcome.set_result(audit_service_pb2.ListAuditRecordsResponse())
    with structlog.testing.capture_logs() as lines:
        await ask(calls, method.name, method.parse(b"\x0a\x03one"), "operator")
    assert [(line["event"], line["call"], line["outcome"]) for line in lines] == [("administered", "BackUp", "OK")]
    assert runner.log.batches == []


async def test_call_for_another_node_to_decide_is_no_act_of_this_one(calls: Calls, runner: HeldRunner) -> None:
    node, method = await node_of(calls)
    calls.shards.present(None)
    node.outcome.set_exception(ELSEWHERE.again())
    with structlog.testing.capture_logs() as lines, pytest.raises(Rejection):
        await ask(calls, method.name, method.parse(b"\x0a\x03one"), "operator")
    assert lines == []
    assert runner.log.batches == []


async def _forward(leader: str, call: Call) -> Message:
    raise AssertionError(leader, call)
