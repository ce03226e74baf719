"""The matrix of docs/security.md, walked: every RPC over gRPC and REST, as every kind of caller."""

from __future__ import annotations

import runpy
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from authority import Authority
from codeq.v1 import producer_service_pb2, task_pb2, worker_service_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq.v1.schedule_service_pb2 import PutScheduleRequest, ScheduleSpec
from codeq.v1.topic_service_pb2 import PutTopicRequest, QueuePolicy
from codeq_server.auth.access import METHODS
from codeq_server.auth.claims import WORKER_SCOPES
from codeq_server.config import ListenerTls
from google.api import annotations_pb2
from google.protobuf import message_factory, timestamp_pb2
from google.protobuf.descriptor import MethodDescriptor
from many_tenants import Answer, Certified, Server, fill, producer, reasons, refused, serving, worker

MATRIX = runpy.run_path(str(Path(__file__).resolve().parents[2] / "docs/rights.py"))
rights: Callable[[MethodDescriptor], dict[str, str]] = MATRIX["rights"]
SECRET = "s3cret"
NOBODY = ""
FRONTS = ("grpc", "rest")
NOT_FOUND = frozenset(
    {"TASK_NOT_FOUND", "QUEUE_NOT_FOUND", "SCHEDULE_NOT_FOUND", "TOPIC_NOT_FOUND", "SUBSCRIPTION_NOT_FOUND"}
)
MALFORMED = frozenset({"INVALID_FIELD", "INVALID_BODY", "ROUTE_NOT_FOUND", "INTERNAL"})

PRODUCERS = {
    "producer": producer("acme"),
    "viewer": producer("acme", role="viewer"),
    "viewer by scope": producer("acme", scopes={"codeq:viewer"}),
    "viewer among roles": producer("acme", roles=["GUEST", "Viewer"]),
    "administrator": producer("acme", role="ADMIN"),
    "administrator by scope": producer("acme", scopes={"codeq:admin"}),
    "administrator among roles": producer("acme", roles=["VIEWER", "ADMIN"]),
    "operator": producer("", "The Operator", scopes={"codeq:operator"}),
    "operator by role": producer("acme", role="OPERATOR", roles=["operator", "codeq:operator"]),
    "other commands": producer("acme", commands={"other"}),
    "administrator of other commands": producer("acme", commands={"other"}, role="ADMIN"),
}
WORKERS = {
    "worker": worker("acme"),
    **{f"without {scope}": worker("acme", scopes=WORKER_SCOPES - {scope}) for scope in WORKER_SCOPES},
    "worker with other scopes": worker("acme", scopes=WORKER_SCOPES | {"codeq:admin", "codeq:operator"}),
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(tmp_path, PRODUCERS, WORKERS) as running:
        yield running


@pytest.fixture
async def task_id(server: Server) -> str:
    return await dead_letter(server)


async def dead_letter(server: Server) -> str:
    """Makes a dead letter of the command "mine", schedules for it and a policy, all with content; returns its id."""
    spec = task_pb2.TaskSpec(command="mine", payload=f'"{SECRET} payload"'.encode(), max_attempts=1)
    spec.webhook = f"http://127.0.0.1:1/{SECRET}"
    made = await server.grpc("/codeq.v1.TaskService/CreateTask", pb.CreateTaskRequest(spec=spec), "producer")
    claim = pb.ClaimTaskRequest(commands=["mine"])
    held = (await server.grpc("/codeq.v1.TaskService/ClaimTask", claim, "worker")).message.task
    progress = pb.ReportProgressRequest(task_id=held.id, progress=f'"{SECRET} progress"'.encode())
    await server.grpc("/codeq.v1.TaskService/ReportProgress", progress, "worker")
    nack = pb.NackTaskRequest(task_id=held.id, reason=f"{SECRET} error")
    await server.grpc("/codeq.v1.TaskService/NackTask", nack, "worker")
    policy = PutTopicRequest(command="mine", policy=QueuePolicy(webhook=f"http://127.0.0.1:1/{SECRET}"))
    await server.grpc("/codeq.v1.TopicService/PutTopic", policy, "administrator")
    for front in FRONTS:
        schedule = ScheduleSpec(cron="0 0 29 2 *", command="mine", payload=f'"{SECRET} template"'.encode())
        put = PutScheduleRequest(name=f"file-{front}", spec=schedule)
        await server.grpc("/codeq.v1.ScheduleService/PutSchedule", put, "administrator")
    task_id: str = made.message.task.id
    return task_id


def name_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def values_of(task_id: str, front: str) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "command": "mine",
        "commands": ["mine"],
        "payload": b"1",
        "name": f"file-{front}",
        "url": "https://files.example/1",
        "id": "n2",
        "callback_url": "https://hooks.example/",
        "event_types": ["mine"],
        "raft_addr": "127.0.0.1:1",
        "before": timestamp_pb2.Timestamp(seconds=1),
        "count": 1,
        "deletion_policy": "Delete",
        "secrets": "a secret of some length",
        "host": "127.0.0.1:1",
        "TestWebhookRequest": {"url": "http://127.0.0.1:1/"},
        "TaskSpec": {"task_id": None},
        "ScheduleSpec": {"cron": "0 0 29 2 *"},
        "BackfillScheduleRequest": {
            "from": timestamp_pb2.Timestamp(seconds=1),
            "to": timestamp_pb2.Timestamp(seconds=2),
        },
        "SubmitResultRequest": {"status": task_pb2.TASK_STATUS_COMPLETED},
    }


async def ask(server: Server, front: str, method: MethodDescriptor, token: str, task_id: str, **more: Any) -> Answer:
    """Makes a well-formed call of an RPC; streams are opened with one message."""
    name = name_of(method)
    if method.client_streaming:
        first: Any = worker_service_pb2.WorkRequest(hello=worker_service_pb2.WorkerHello())
        if method.name == "Produce":
            tasks = [task_pb2.TaskSpec(command="mine", payload=b"1")]
            first = producer_service_pb2.ProduceRequest(hello=producer_service_pb2.ProducerHello(), tasks=tasks)
        return await server.stream(name, [first], token)
    request = fill(message_factory.GetMessageClass(method.input_type)(), values_of(task_id, front) | more)
    return await (server.grpc if front == "grpc" else server.rest)(name, request, token)


def met(expected: str, answer: Answer) -> bool:
    """Returns whether a caller got what the matrix says."""
    if expected == MATRIX["BOUND"]:
        return answer.reason == "" and "mine" not in answer.seen
    if expected == MATRIX["NO_CONTENT"]:
        return answer.reason not in reasons() | MALFORMED and SECRET not in answer.seen
    if expected == MATRIX["YES"] or expected.startswith("`codeq:"):
        return answer.reason not in reasons() | MALFORMED and "_NOT_ALLOWED" not in answer.seen
    return answer.reason == expected or (answer.reason == "" and expected in answer.seen)  # of an item


async def wrong_of(server: Server, task_id: str, token: str, method: MethodDescriptor, expected: str) -> list[object]:
    """Calls an RPC over both fronts; returns the calls that did not give what is expected."""
    wrong: list[object] = []
    for front in FRONTS[: 1 if method.client_streaming else 2]:
        more: dict[str, Any] = {"command": None} if expected == MATRIX["BOUND"] else {}
        wanted = expected
        if expected == MATRIX["NAMED"]:
            answer = await ask(server, front, method, token, task_id)
            if answer.reason != "INVALID_FIELD" or "tenant" not in answer.seen:
                wrong.append((method.name, front, expected, answer))
            wanted, more = MATRIX["YES"], {"tenant": "acme"}
        answer = await ask(server, front, method, token, task_id, **more)
        if not met(wanted, answer):
            wrong.append((method.name, front, expected, answer))
    return wrong


@pytest.mark.parametrize(
    ("token", "role"),
    [
        ("producer", "producer"),
        ("worker", "worker"),
        ("worker with other scopes", "worker"),
        ("viewer", "viewer"),
        ("viewer by scope", "viewer"),
        ("viewer among roles", "viewer"),
        ("administrator", "administrator"),
        ("administrator by scope", "administrator"),
        ("administrator among roles", "administrator"),
        ("operator", "operator"),
        ("operator by role", "producer"),
        ("administrator of other commands", "other commands"),
        (NOBODY, ""),
        ("no such token", ""),
    ],
)
async def test_every_call_gives_a_caller_what_the_matrix_says(
    server: Server, task_id: str, token: str, role: str
) -> None:
    wrong = []
    for method in METHODS:
        expected = rights(method)[role] if role else "UNAUTHENTICATED"
        wrong += await wrong_of(server, task_id, token, method, expected)
    assert wrong == []


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("producer", "producer"),
        ("worker", "worker"),
        ("viewer", "viewer"),
        ("viewer among roles", "viewer"),
        ("administrator", "administrator"),
        ("administrator by scope", "administrator"),
        ("operator", "operator"),
        ("operator by role", "producer"),
        ("administrator of other commands", "other commands"),
        ("no such name", ""),
    ],
)
async def test_every_call_gives_the_owner_of_a_certificate_what_the_matrix_says(
    authority: Authority, tmp_path: Path, name: str, role: str
) -> None:
    own = authority.files(tmp_path / "server")
    listener = ListenerTls("tls_cert_file", own.certificate, own.key, own.ca, requires_client=True)
    stranger = authority.files(tmp_path / "stranger", "stranger")
    shown = authority.files(tmp_path / "shown", "shown", pair=authority.sign(name))
    async with serving(tmp_path, PRODUCERS, WORKERS, certified=Certified(listener, stranger)) as server:
        task_id = await dead_letter(server)
        wrong = []
        async with server.as_client(shown) as caller:
            for method in METHODS:
                expected = rights(method)[role] if role else "UNAUTHENTICATED"
                wrong += await wrong_of(caller, task_id, NOBODY, method, expected)
        assert wrong == []


async def test_producer_bound_to_other_commands_is_refused_every_call_about_this_one(
    server: Server, task_id: str
) -> None:
    wrong = []
    for method in METHODS:
        all_of_them = rights(method)
        expected = all_of_them["other commands"] if all_of_them["producer"] == "yes" else all_of_them["producer"]
        wrong += await wrong_of(server, task_id, "other commands", method, expected)
    assert wrong == []


async def test_worker_without_the_scope_of_a_call_is_told_so(server: Server, task_id: str) -> None:
    checked = set()
    for method in METHODS:
        needed = rights(method)["worker"]
        for front in FRONTS[: 1 if method.client_streaming else 2]:
            if needed.startswith("`"):
                checked.add(needed.strip("`"))
                answer = await ask(server, front, method, f"without {needed.strip('`')}", task_id)
                assert answer.reason == "MISSING_SCOPE", (method.name, front)
    assert checked == WORKER_SCOPES


async def test_a_role_in_a_header_has_no_effect(server: Server, task_id: str) -> None:
    headers = {"Authorization": "Bearer producer", "X-Role": "ADMIN"}
    reply = await server.http.get("/v1/codeq/admin/queues", headers=headers)
    assert (reply.status_code, reply.json()["reason"]) == (403, "NOT_ADMIN")
    metadata = [("authorization", "Bearer producer"), ("x-role", "ADMIN")]
    call = server.channel.unary_unary("/codeq.v1.QueueService/ListQueues")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"", metadata=metadata)
    assert refused(caught.value).reason == "NOT_ADMIN"


async def test_viewer_sees_content_if_the_server_shows_it(tmp_path: Path) -> None:
    async with serving(tmp_path, PRODUCERS, WORKERS, viewers_see_content=True) as server:
        task_id = await dead_letter(server)
        for front in FRONTS:
            for method in METHODS:
                if rights(method)["viewer"] == MATRIX["NO_CONTENT"]:
                    answer = await ask(server, front, method, "viewer", task_id)
                    assert (answer.reason, SECRET in answer.seen) == ("", True), (front, method.name)
            artifact = next(method for method in METHODS if method.name == "GetTaskArtifact")
            assert (await ask(server, front, artifact, "viewer", task_id)).reason == "ARTIFACT_NOT_FOUND"


async def test_operator_acts_on_the_named_tenant_and_nobody_else_names_another(server: Server, task_id: str) -> None:
    for method in METHODS:
        if "tenant" not in method.input_type.fields_by_name:
            continue
        for front in FRONTS:
            elsewhere = await ask(server, front, method, "operator", task_id, tenant="zebra")
            assert elsewhere.reason in {"", *NOT_FOUND}, (
                front,
                method.name,
            )
            assert SECRET not in elsewhere.seen
            for token in ("administrator", "administrator by scope", "operator by role", "viewer"):
                own = rights(method)["administrator" if token.startswith("admin") else "viewer"]
                answer = await ask(server, front, method, token, task_id, tenant="zebra")
                anyone = rights(method)["producer"] == MATRIX["YES"]
                may = anyone or token.startswith("admin") or (token == "viewer" and not own.isupper())
                assert answer.reason == ("NOT_OPERATOR" if may else "NOT_ADMIN"), (front, method.name, token)
            worker = await ask(server, front, method, "worker with other scopes", task_id, tenant="zebra")
            assert worker.reason in {"NOT_OPERATOR", "WRONG_TOKEN_KIND"}, (front, method.name)
    for front in FRONTS:
        queues = next(method for method in METHODS if method.name == "ListQueues")
        assert '"mine"' in (await ask(server, front, queues, "operator", task_id, tenant="acme")).seen


async def test_tenant_in_the_query_of_a_call_with_a_body_must_equal_the_one_in_the_body(server: Server) -> None:
    path, headers = "/v1/codeq/admin/queues/mine/pause", {"Authorization": "Bearer operator"}
    paused = await server.http.post(f"{path}?tenant=acme", json={}, headers=headers)
    assert (paused.status_code, paused.json()["paused"]) == (200, True)
    same = await server.http.post(f"{path}?tenant=acme", json={"tenant": "acme"}, headers=headers)
    assert same.status_code == 200
    differs = await server.http.post(f"{path}?tenant=acme", json={"tenant": "zebra"}, headers=headers)
    assert (differs.status_code, differs.json()["details"][0]["field"]) == (400, "tenant")
    malformed = await server.http.post(f"{path}?tenant=No_Tenant", json={}, headers=headers)
    assert (malformed.status_code, malformed.json()["details"][0]["field"]) == (400, "tenant")
    assert (await server.http.post(f"{path}?command=mine", json={}, headers=headers)).status_code == 400


async def test_bound_producer_lists_creates_and_sees_its_own_commands_only(server: Server, task_id: str) -> None:
    async def rest(method: str, path: str, token: str, **more: Any) -> Any:
        reply = await server.http.request(
            method, f"/v1/codeq{path}", headers={"Authorization": f"Bearer {token}"}, **more
        )
        return reply.json()

    own = (await rest("POST", "/tasks", "other commands", json={"command": "other", "payload": 1}))["id"]
    for order in ("oldest", "newest"):
        listed = await rest("GET", f"/tasks?orderBy={order}", "other commands")
        assert [task["id"] for task in listed["tasks"]] == [own]
        first = await rest("GET", f"/tasks?orderBy={order}&pageSize=1", "producer")
        everything = await rest("GET", f"/tasks?orderBy={order}", "producer")
        assert {task["id"] for task in everything["tasks"]} == {own, task_id}
        page = first["nextPageToken"]
        following = await rest("GET", f"/tasks?orderBy={order}&pageToken={page}", "other commands")
        assert task_id not in [task["id"] for task in following["tasks"]]
    queues = await rest("GET", "/admin/queues", "administrator of other commands")
    assert [queue["command"] for queue in queues["queues"]] == ["other"]
    mixed = [{"command": "mine", "payload": 1}, {"command": "other", "payload": 2}]
    answers = (await rest("POST", "/tasks/batch", "other commands", json={"tasks": mixed}))["results"]
    assert [each.get("error", {}).get("reason") for each in answers] == ["COMMAND_NOT_ALLOWED", None]
    atomic = await rest("POST", "/tasks/batch", "other commands", json={"tasks": mixed, "atomic": True})
    assert atomic["reason"] == "COMMAND_NOT_ALLOWED"
    assert (await rest("GET", f"/tasks/{own}", "other commands"))["id"] == own


async def test_bound_producer_that_may_work_claims_its_own_commands_only(tmp_path: Path) -> None:
    async with serving(tmp_path, PRODUCERS, WORKERS, producer_as_worker=True) as server:
        await dead_letter(server)
        name = "/codeq.v1.TaskService/ClaimTask"
        refused_claim = await server.grpc(name, pb.ClaimTaskRequest(commands=["mine"]), "other commands")
        assert refused_claim.reason == "COMMAND_NOT_ALLOWED"
        assert (await server.grpc(name, pb.ClaimTaskRequest(commands=["mine"]), "producer")).reason == ""
        assert (await server.grpc(name, pb.ClaimTaskRequest(commands=["mine"]), "viewer")).reason == "NOT_ALLOWED"
        assert (await server.grpc(name, pb.ClaimTaskRequest(commands=["mine"]), "operator")).reason == "INVALID_TENANT"
        shown = await server.rest("/codeq.v1.TaskService/ListTasks", pb.ListTasksRequest(), "other commands")
        assert "mine" not in shown.seen


async def test_administrators_operate_the_server_while_that_is_still_allowed(tmp_path: Path) -> None:
    async with serving(tmp_path, PRODUCERS, WORKERS, admins_operate=True) as server:
        for method in METHODS:
            if rights(method)["administrator"] == "NOT_OPERATOR":
                for front in FRONTS:
                    assert (await ask(server, front, method, "administrator", "t")).reason not in reasons() | MALFORMED
                    assert (await ask(server, front, method, "producer", "t")).reason == "NOT_OPERATOR"
                    assert (await ask(server, front, method, "viewer", "t")).reason == "NOT_OPERATOR"
        queues = next(method for method in METHODS if method.name == "ListQueues")
        named = await ask(server, "rest", queues, "administrator", "t", tenant="zebra")
        assert named.reason == "NOT_OPERATOR"  # also now: other tenants are the operator's


@pytest.mark.parametrize("method", METHODS, ids=lambda method: str(method.name))
def test_calls_open_to_viewers_change_nothing(method: MethodDescriptor) -> None:
    if not rights(method)["viewer"].isupper():
        assert method.GetOptions().Extensions[annotations_pb2.http].HasField("get")
