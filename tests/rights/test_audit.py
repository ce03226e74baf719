"""The audit: every administrative act and every refused access is recorded, and only those who may see the records."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from audited import COMMAND, LIST, acts, make_dead_letter, pause, recorded, records, request_of
from codeq.v1 import audit_service_pb2 as pb
from codeq.v1 import cluster_service_pb2, producer_service_pb2, queue_service_pb2, task_pb2, worker_service_pb2
from codeq.v1 import task_service_pb2 as tasks_pb
from codeq.v1 import tenant_service_pb2 as tenants_pb
from codeq_server.core import audit
from google.protobuf import message_factory, timestamp_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from many_tenants import Server, producer, serving, worker

ORIGIN = re.compile(r"127\.0\.0\.1:[1-9][0-9]*")
GET_TASK = "/codeq.v1.TaskService/GetTask"
PRODUCERS = {
    "producer": producer("acme", "shop"),
    "viewer": producer("acme", "board", role="VIEWER"),
    "administrator": producer("acme", "ann", role="ADMIN"),
    "administrator of other commands": producer("acme", "ann", role="ADMIN", commands={"other"}),
    "administrator of zebra": producer("zebra", "zoe", role="ADMIN"),
    "operator": producer("", "The Operator", scopes={"codeq:operator"}),
    "operator of zebra": producer("zebra", "ops", scopes={"codeq:operator"}),
    "without tenant": producer("", "No Tenant"),
}
WORKERS = {
    "worker": worker("acme", "w"),
    "worker of one command": worker("acme", "w", commands={COMMAND}),
    "worker without scopes": worker("acme", "w", scopes={"codeq:claim"}),
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(tmp_path, PRODUCERS, WORKERS) as running:
        yield running


# -- acts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("front", ["grpc", "rest"])
async def test_every_administrative_call_leaves_one_record_of_who_did_it_and_from_where(
    server: Server, front: str
) -> None:
    task_id = await make_dead_letter(server)
    administrative = acts(server)
    assert {"PauseQueue", "CleanupTasks", "AddMember", "BackUp"} <= {each.descriptor.name for each in administrative}
    for method in administrative:
        before = len(await records(server))
        ask = server.grpc if front == "grpc" else server.rest
        answer = await ask(method.name, request_of(method, task_id, tenant="acme"), "operator")
        new = (await records(server))[before:]
        assert [(each.call, each.subject, each.outcome) for each in new] == [
            (method.descriptor.name, "The Operator", answer.reason or "OK")
        ], answer
        (record,) = new
        assert ORIGIN.fullmatch(record.origin), record
        limits = method.descriptor.name == "UpdateTenant"
        assert record.tenant == ("made" if limits else "acme" if method.names_tenant else "")
        assert record.count == (1 if answer.reason else 0)
        assert abs(record.at.ToDatetime(UTC) - datetime.now(UTC)).total_seconds() < 60


async def test_record_shows_the_state_before_and_after(server: Server) -> None:
    task_id = await make_dead_letter(server)
    queue, tasks = "/codeq.v1.QueueService/", "/codeq.v1.TaskService/"
    calls: list[tuple[str, Message]] = [
        (f"{queue}PauseQueue", queue_service_pb2.PauseQueueRequest(command=COMMAND)),
        (f"{queue}PauseQueue", queue_service_pb2.PauseQueueRequest(command=COMMAND)),
        (f"{queue}ResumeQueue", queue_service_pb2.ResumeQueueRequest(command=COMMAND)),
        (f"{tasks}RedriveTask", tasks_pb.RedriveTaskRequest(task_id=task_id)),
        (f"{queue}PurgeQueue", queue_service_pb2.PurgeQueueRequest(command=COMMAND)),
    ]
    for name, request in calls:
        assert (await server.grpc(name, request, "administrator")).reason == ""
    assert [(each.call, each.object, each.before, each.after) for each in await records(server)] == [
        ("PauseQueue", COMMAND, '{"paused":false}', '{"paused":true}'),
        ("PauseQueue", COMMAND, '{"paused":true}', '{"paused":true}'),
        ("ResumeQueue", COMMAND, '{"paused":true}', '{"paused":false}'),
        ("RedriveTask", task_id, '{"status":"DLQ"}', '{"status":"PENDING"}'),
        ("PurgeQueue", COMMAND, '{"purging":false}', '{"purging":true}'),
    ]


async def test_record_of_a_changed_limit_shows_limits_as_rest_does(server: Server) -> None:
    update = "/codeq.v1.TenantService/UpdateTenant"
    limits = tenants_pb.TenantLimits(leases_max=5, queues_max=0, producer=tenants_pb.RateLimit())
    for request in (
        tenants_pb.UpdateTenantRequest(name="acme", limits=limits),
        tenants_pb.UpdateTenantRequest(name="acme", inherit=["leasesMax", "producer"]),
    ):
        assert (await server.grpc(update, request, "operator")).reason == ""
    all_three = '{"producer":{"requestsPerMinute":0,"burstSize":0},"leasesMax":5,"queuesMax":0}'
    assert [(each.tenant, each.object, each.before, each.after) for each in await records(server)] == [
        ("acme", "acme", "{}", all_three),
        ("acme", "acme", all_three, '{"queuesMax":0}'),
    ]


async def test_record_of_changed_defaults_is_the_servers(server: Server) -> None:
    request = tenants_pb.UpdateTenantRequest(name="_default", limits=tenants_pb.TenantLimits(leases_max=5))
    assert (await server.grpc("/codeq.v1.TenantService/UpdateTenant", request, "operator")).reason == ""
    assert [(each.tenant, each.object) for each in await records(server)] == [("", "_default")]


async def test_redrives_and_cleanups_are_recorded_with_their_counts_and_dry_runs_are_not(server: Server) -> None:
    for _ in range(3):
        await make_dead_letter(server)
    redrive, cleanup = "/codeq.v1.QueueService/RedriveTasks", "/codeq.v1.TaskService/CleanupTasks"
    late = timestamp_pb2.Timestamp(seconds=4_000_000_000)
    calls: list[tuple[str, Message]] = [
        (redrive, queue_service_pb2.RedriveTasksRequest(command=COMMAND, dry_run=True)),
        (redrive, queue_service_pb2.RedriveTasksRequest(command=COMMAND, limit=1)),
        (cleanup, tasks_pb.CleanupTasksRequest(before=late)),
        (cleanup, tasks_pb.CleanupTasksRequest(before=late)),
        (redrive, queue_service_pb2.RedriveTasksRequest(command=COMMAND)),
    ]
    for name, request in calls:
        assert (await server.grpc(name, request, "administrator")).reason == ""
    await make_dead_letter(server)
    background = queue_service_pb2.RedriveTasksRequest(command=COMMAND, rate=1000)
    assert (await server.grpc(redrive, background, "administrator")).reason == ""
    async with asyncio.timeout(30):
        while (found := await records(server))[-1].after != '{"redriven":1,"inBackground":true}':
            pass
    assert [(each.call, each.after) for each in found] == [
        ("RedriveTasks", '{"redriven":1}'),
        ("CleanupTasks", '{"deleted":2}'),
        ("CleanupTasks", '{"deleted":0}'),
        ("RedriveTasks", '{"redriven":0}'),
        ("RedriveTasks", '{"redriven":1,"inBackground":true}'),
    ]


async def test_rejected_act_is_recorded_with_its_reason(server: Server) -> None:
    resume = queue_service_pb2.ResumeQueueRequest(command="none", tenant="acme")
    add = cluster_service_pb2.AddMemberRequest(id="n2", raft_addr="127.0.0.1:1")
    for name, request, reason in (
        ("/codeq.v1.QueueService/ResumeQueue", resume, "QUEUE_NOT_FOUND"),
        ("/codeq.v1.ClusterService/AddMember", add, "NOT_CLUSTERED"),
    ):
        assert (await server.grpc(name, request, "operator")).reason == reason
    found = await records(server)
    assert [(each.call, each.tenant, each.object, each.outcome, each.count) for each in found] == [
        ("ResumeQueue", "acme", "none", "QUEUE_NOT_FOUND", 1),
        ("AddMember", "", "n2", "NOT_CLUSTERED", 1),
    ]
    assert not any(each.HasField("after") for each in found)


async def test_malformed_call_is_no_act(server: Server) -> None:
    answer = await pause(server, "administrator", command="no command!")
    assert answer.reason == "INVALID_FIELD"
    assert await records(server) == []


# -- refused access ------------------------------------------------------------------------------------------------


async def test_every_reason_for_refused_access_is_recorded_over_every_front(server: Server) -> None:
    create = tasks_pb.CreateTaskRequest(spec=task_pb2.TaskSpec(command=COMMAND, payload=b"1"))
    heartbeat = tasks_pb.HeartbeatTaskRequest(task_id="t")
    transfer = cluster_service_pb2.TransferLeadershipRequest()
    refused: list[tuple[str, Message, str, str, str, str]] = [
        (GET_TASK, tasks_pb.GetTaskRequest(task_id="t"), "", "UNAUTHENTICATED", "", ""),
        (GET_TASK, tasks_pb.GetTaskRequest(task_id="t"), "no such token", "UNAUTHENTICATED", "", ""),
        ("/codeq.v1.TaskService/HeartbeatTask", heartbeat, "worker without scopes", "MISSING_SCOPE", "w", "acme"),
        (LIST, pb.ListAuditRecordsRequest(), "producer", "NOT_ADMIN", "shop", "acme"),
        ("/codeq.v1.ClusterService/TransferLeadership", transfer, "administrator", "NOT_OPERATOR", "ann", "acme"),
        (LIST, pb.ListAuditRecordsRequest(tenant="zebra"), "administrator", "NOT_OPERATOR", "ann", "acme"),
        ("/codeq.v1.TaskService/CreateTask", create, "viewer", "NOT_ALLOWED", "board", "acme"),
        ("/codeq.v1.TaskService/CreateTask", create, "worker", "WRONG_TOKEN_KIND", "w", "acme"),
        ("/codeq.v1.TaskService/CreateTask", create, "operator", "INVALID_TENANT", "The Operator", ""),
        (GET_TASK, tasks_pb.GetTaskRequest(task_id="t"), "without tenant", "INVALID_TENANT", "", ""),
        (LIST, pb.ListAuditRecordsRequest(), "administrator of other commands", "COMMAND_NOT_ALLOWED", "ann", "acme"),
    ]
    expected = []
    for name, request, token, reason, subject, tenant in refused:
        for ask in (server.grpc, server.rest):
            answer = await ask(name, request, token)
            assert answer.reason == reason, answer
            expected.append((name.rpartition("/")[2], reason, subject, tenant, 1))
    found = await recorded(server, len(expected))
    assert [(each.call, each.outcome, each.subject, each.tenant, each.count) for each in found] == expected
    assert all(ORIGIN.fullmatch(each.origin) for each in found)


async def test_refused_streams_frames_and_batches_are_recorded_once_each(server: Server) -> None:
    specs = [task_pb2.TaskSpec(command=COMMAND, payload=b"1")] * 3
    hello = producer_service_pb2.ProduceRequest(hello=producer_service_pb2.ProducerHello())
    frame = producer_service_pb2.ProduceRequest(tasks=specs)
    work = worker_service_pb2.WorkRequest(hello=worker_service_pb2.WorkerHello())
    other = worker_service_pb2.WorkRequest(hello=worker_service_pb2.WorkerHello(commands=["other"]))
    await server.stream("/codeq.v1.ProducerService/Produce", [hello], "")
    await server.stream("/codeq.v1.WorkerService/Work", [work], "producer")
    await server.stream("/codeq.v1.WorkerService/Work", [other], "worker of one command")
    await server.stream("/codeq.v1.ProducerService/Produce", [hello, frame], "administrator of other commands")
    outcome = task_pb2.Outcome(task_id="t", lease_token=1, kind=task_pb2.OUTCOME_KIND_NACK)
    claiming = worker_service_pb2.WorkRequest(hello=worker_service_pb2.WorkerHello(), outcomes=[outcome] * 3)
    await server.stream("/codeq.v1.WorkerService/Work", [claiming], "worker without scopes")
    batch = tasks_pb.BatchCreateTasksRequest(tasks=specs)
    await server.grpc("/codeq.v1.TaskService/BatchCreateTasks", batch, "administrator of other commands")
    found = await recorded(server, 6)
    assert [(each.call, each.outcome, each.subject) for each in found] == [
        ("Produce", "UNAUTHENTICATED", ""),
        ("Work", "WRONG_TOKEN_KIND", "shop"),
        ("Work", "COMMAND_NOT_ALLOWED", "w"),
        ("Produce", "COMMAND_NOT_ALLOWED", "ann"),
        ("Work", "MISSING_SCOPE", "w"),
        ("BatchCreateTasks", "COMMAND_NOT_ALLOWED", "ann"),
    ]
    assert all(ORIGIN.fullmatch(each.origin) for each in found)


async def test_flood_of_strangers_leaves_a_bounded_number_of_records(server: Server) -> None:
    request = tasks_pb.GetTaskRequest(task_id="t")
    count = 3 * audit.AUDIT_REFUSALS_AT_ONCE
    answers = await asyncio.gather(*(server.grpc(GET_TASK, request, "no such token") for _ in range(count)))
    assert {each.reason for each in answers} == {"UNAUTHENTICATED"}
    assert (await pause(server, "administrator")).reason == ""
    found = await records(server)
    assert [each.outcome for each in found].count("UNAUTHENTICATED") <= 2 * audit.AUDIT_REFUSALS_AT_ONCE
    assert found[-1].call == "PauseQueue"


async def test_forwarded_for_header_does_not_change_the_origin(server: Server) -> None:
    headers = {"X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.7"}
    reply = await server.http.get("/v1/codeq/tasks/t", headers=headers)
    assert reply.status_code == 401
    (record,) = await recorded(server, 1)
    assert ORIGIN.fullmatch(record.origin)


# -- who sees them -------------------------------------------------------------------------------------------------


async def test_administrator_sees_its_tenant_and_an_operator_everything_or_one_tenant(server: Server) -> None:
    await pause(server, "administrator")
    await pause(server, "administrator of zebra", command="z")
    await pause(server, "operator", command="by-operator", tenant="acme")
    add = cluster_service_pb2.AddMemberRequest(id="n2", raft_addr="127.0.0.1:1")
    await server.grpc("/codeq.v1.ClusterService/AddMember", add, "operator of zebra")
    await server.grpc(LIST, pb.ListAuditRecordsRequest(tenant="zebra"), "administrator")
    everything = await recorded(server, 5)
    assert [each.object or each.outcome for each in everything] == [COMMAND, "z", "by-operator", "n2", "NOT_OPERATOR"]

    async def seen(token: str, **filters: Any) -> list[str]:
        return [each.object or each.outcome for each in await records(server, token, **filters)]

    assert await seen("administrator") == [COMMAND, "by-operator", "NOT_OPERATOR"]
    assert await seen("administrator", tenant="acme") == [COMMAND, "by-operator", "NOT_OPERATOR"]
    assert await seen("administrator of zebra") == ["z"]
    assert await seen("operator", tenant="zebra") == ["z"]
    assert len(await seen("operator of zebra")) == 5


async def test_list_is_filtered_ordered_and_paged(server: Server) -> None:
    for number in range(5):
        await pause(server, "administrator", command=f"c{number}")
    resume = queue_service_pb2.ResumeQueueRequest(command="c0")
    await server.grpc("/codeq.v1.QueueService/ResumeQueue", resume, "administrator")
    await pause(server, "operator", command="c5", tenant="acme")

    async def listed(**filters: Any) -> tuple[list[str], str]:
        answer = await server.grpc(LIST, pb.ListAuditRecordsRequest(**filters), "operator")
        return [each.object for each in answer.message.records], answer.message.next_page_token

    assert (await listed())[0] == ["c5", "c0", "c4", "c3", "c2", "c1", "c0"]
    assert (await listed(call="ResumeQueue"))[0] == ["c0"]
    assert (await listed(subject="The Operator"))[0] == ["c5"]
    first, token = await listed(page_size=2, call="PauseQueue")
    assert (first, bool(token)) == (["c5", "c4"], True)
    assert (await listed(page_size=2, call="PauseQueue", page_token=token))[0] == ["c3", "c2"]
    other = await server.grpc(LIST, pb.ListAuditRecordsRequest(page_token=token), "operator")
    assert other.reason == "INVALID_PAGE_TOKEN"
    times = [each.at for each in await records(server)]
    assert (await listed(to=times[0]))[0] == []
    later: Any = {"from": times[-1]}
    assert "c5" in (await listed(**later))[0]
    never: Any = {"from": timestamp_pb2.Timestamp(seconds=9_000_000_000_000_000_000)}
    assert (await listed(**never))[0] == []


async def test_list_over_rest_shows_states_as_text_and_leaves_out_absent_ones(server: Server) -> None:
    await pause(server, "administrator", front="rest")
    await server.http.get("/v1/codeq/tasks/t")
    await recorded(server, 2)
    reply = await server.http.get("/v1/codeq/admin/audit?orderBy=oldest", headers={"Authorization": "Bearer operator"})
    act, refusal = reply.json()["records"]
    assert (json.loads(act["before"]), json.loads(act["after"])) == ({"paused": False}, {"paused": True})
    assert act["subject"] == "ann"
    assert (refusal["outcome"], int(refusal["count"])) == ("UNAUTHENTICATED", 1)
    assert "before" not in refusal


# -- secrets -------------------------------------------------------------------------------------------------------

SECRET = "s3cretmark"
NAMING = frozenset({"command", "task_id", "id", "name", "tenant"})
"""Fields whose values records may show."""


def mark(message: Message) -> None:
    """Puts the secret into every text and bytes field of a message but those that name what a call acts on."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None:
            if field.message_type.full_name.startswith("codeq.") and not field.is_repeated:
                inner = getattr(message, field.name)
                inner.SetInParent()
                mark(inner)
        elif field.name not in NAMING and field.type in {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES}:
            value: Any = SECRET if field.type == FieldDescriptor.TYPE_STRING else f'"{SECRET}"'.encode()
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)


async def test_no_record_repeats_a_token_or_content_or_any_field_but_the_name_of_the_object(tmp_path: Path) -> None:
    tokens = {f"{SECRET}-{name}": token for name, token in PRODUCERS.items()} | PRODUCERS
    async with serving(tmp_path, tokens, WORKERS) as server:
        task_id = await make_dead_letter(server, SECRET)
        made = 0
        for method in acts(server):
            bare = request_of(method, task_id, tenant="acme")
            marked = message_factory.GetMessageClass(method.descriptor.input_type)()
            marked.CopyFrom(bare)
            mark(marked)
            for request in (marked, bare):
                for token in ("operator", "administrator", "viewer", "nobody"):
                    for ask in (server.grpc, server.rest):
                        await ask(method.name, request, f"{SECRET}-{token}")
                        made += 1
        assert made > 100
        found = await recorded(server, 30)
        assert SECRET not in str(found)
        assert task_id in str(found)
