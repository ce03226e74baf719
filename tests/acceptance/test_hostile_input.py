"""Hostile and careless input on each interface: the error names the field, and the server keeps serving."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from bare_streams import auth, produce, producing, settle, take, working
from codeq.v1 import error_pb2, queue_service_pb2, task_pb2, task_service_pb2
from codeq.v1 import worker_service_pb2 as worker_pb
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from codeq_gateway.routes import Operation, read_operations
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.timestamp_pb2 import Timestamp
from server_process import ServerProcess
from test_bad_input import HTTP, call, queue_of, refused

DEEP = "[" * 100_000 + "]" * 100_000
NUMBERS = {
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT32,
    FieldDescriptor.TYPE_UINT64,
}
BAD_NUMBERS = (
    "-1",
    "2147483648",
    "-9223372036854775809",
    "1" * 30,
    "1" * 10_000,
    "1e400",
    "1.5",
    '"x"',
    "true",
    "[]",
    "{}",
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the well-known token for everything; at the end it still serves."""
    with ServerProcess(tmp_path_factory.mktemp("running")) as server:
        yield server
        assert httpx.get(f"{server.http_url}/healthz").status_code == 200
        assert server.stop() == 0


def post(server: ServerProcess, path: str, content: str) -> httpx.Response:
    """Posts JSON text unchanged."""
    return call(server, "POST", path, content=content.encode(), headers={"Content-Type": "application/json"})


def claimed(server: ServerProcess, command: str) -> dict[str, Any]:
    """Creates and claims a task, and returns it."""
    call(server, "POST", "/tasks", json={"command": command, "payload": 1})
    task: dict[str, Any] = call(server, "POST", "/tasks/claim", json={"commands": [command]}).json()
    return task


# -- values nested so deeply that a parser gives up --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tasks", '{"command":"DEEP","payload":%s}'),
        ("/tasks", '{"command":%s}'),
        ("/tasks/batch", '{"tasks":[{"command":"DEEP","payload":%s}]}'),
        ("/tasks/x/result", '{"status":"COMPLETED","result":%s}'),
        ("/tasks/x/result", '{"status":"COMPLETED","workerId":%s}'),
        ("/tasks/x/progress", '{"progress":%s}'),
        ("/tasks/claim", "%s"),
    ],
)
def test_deeply_nested_rest_json_is_rejected(running: ServerProcess, path: str, body: str) -> None:
    answer = post(running, path, body % DEEP)
    assert answer.status_code == 400
    assert answer.json()["reason"] in ("INVALID_BODY", "INVALID_FIELD")
    refused(call(running, "GET", "/admin/queues/DEEP"), 404, "QUEUE_NOT_FOUND")


async def test_deeply_nested_grpc_json_is_rejected_without_side_effects(running: ServerProcess) -> None:
    deep = DEEP.encode()
    async with grpc.aio.insecure_channel(running.producer_addr) as channel:
        spec = task_pb2.TaskSpec(command="NEST", payload=deep)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await TaskServiceStub(channel).CreateTask(task_service_pb2.CreateTaskRequest(spec=spec), metadata=auth())
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "spec.payload" in (caught.value.details() or "")
    async with producing(running) as stream:
        good = task_pb2.TaskSpec(command="NEST", payload=b"[" * 400 + b"]" * 400)
        ack = await produce(stream, [good, spec, good])
        ack = await produce(stream, [spec, good])  # now the queue exists
        assert [(error.index, error.reason) for error in ack.errors] == [(0, error_pb2.ERROR_REASON_INVALID_FIELD)]
    async with working(running, "NEST") as stream:
        [task] = await take(stream, 1)
        outcome = {"task_id": task.id, "lease_token": task.lease_token, "kind": task_pb2.OUTCOME_KIND_COMPLETED}
        [error] = await settle(stream, [task_pb2.Outcome(**outcome, result=deep)])
        assert error.reason == error_pb2.ERROR_REASON_INVALID_FIELD
        progress = worker_pb.Progress(
            task_id=task.id, lease_token=task.lease_token, progress=deep[:30_000] + deep[-30_000:]
        )
        await stream.write(worker_pb.WorkRequest(progress=[progress]))
        assert [lost.reason for lost in (await stream.read()).lost] == [error_pb2.ERROR_REASON_INVALID_FIELD]
        assert await settle(stream, [task_pb2.Outcome(**outcome, result=b"1")]) == []
    assert queue_of(running, "NEST")["ready"] == 2


# -- numbers -----------------------------------------------------------------------------------------------------------


def numeric_fields() -> list[tuple[str, str, str]]:
    """Returns (method, path, field) of every number that a body or query of the REST API accepts."""
    services = [
        module.DESCRIPTOR.services_by_name[name]
        for module, name in ((task_service_pb2, "TaskService"), (queue_service_pb2, "QueueService"))
    ]
    found = []
    for operation in read_operations(services):
        for field in fields_of(operation):
            if field.type in NUMBERS:
                path = operation.template.removeprefix("/v1/codeq").replace("{task_id}", "x").replace("{command}", "x")
                found.append((operation.http_method, path, field.json_name))
    assert len(found) > 15
    return found


def fields_of(operation: Operation) -> list[FieldDescriptor]:
    """Returns the fields that a body or a query of an operation may have."""
    request = operation.descriptor.input_type
    if not operation.body_bytes_max:
        return [parameter.field for parameter in operation.query.values()]
    if operation.body_field:
        return list(request.fields_by_name[operation.body_field].message_type.fields)
    return list(request.fields)


@pytest.mark.parametrize(("method", "path", "field"), numeric_fields())
def test_number_out_of_bounds_is_rejected_with_its_field(
    running: ServerProcess, method: str, path: str, field: str
) -> None:
    for number in BAD_NUMBERS:
        if field == "leaseToken" and number == "2147483648":
            number = str(2**64)  # noqa: PLW2901 - a token has 64 bits
        if method == "GET":
            answer = call(running, "GET", f"{path}?{field}={number.strip(chr(34))}")
        else:
            answer = post(running, path, f'{{"{field}":{number}}}')
        body = answer.json()
        assert (answer.status_code, body["reason"]) == (400, "INVALID_FIELD"), (number, body)
        assert field in [detail["field"] for detail in body["details"]], (number, body)


async def test_grpc_times_out_of_bounds_are_rejected_or_harmless(running: ServerProcess) -> None:
    async with producing(running) as stream:
        never = [Timestamp(seconds=2**62), Timestamp(seconds=253_402_300_800), Timestamp(seconds=1, nanos=-5)]
        specs = [task_pb2.TaskSpec(command="TIMES", payload=b"1", run_at=time) for time in never]
        past = task_pb2.TaskSpec(command="TIMES", payload=b"1", run_at=Timestamp(seconds=-(2**62)))
        ack = await produce(stream, [*specs, past])
        assert [error.index for error in ack.errors] == [0, 1, 2]
        assert all("run_at" in error.message for error in ack.errors)
    assert queue_of(running, "TIMES")["ready"] == 1
    async with grpc.aio.insecure_channel(running.producer_addr) as channel:
        for seconds, count in ((2**62, 0), (-(2**62), 1)):
            request = task_service_pb2.ListTasksRequest(command="TIMES", created_from=Timestamp(seconds=seconds))
            answer = await TaskServiceStub(channel).ListTasks(request, metadata=auth())
            assert len(answer.tasks) == count


# -- JSON that is almost JSON ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["NaN", "Infinity", "01", "1.", "+1", "'a'", '"\x00"', "[1,]", "1 1", "\ufeff1"])
def test_payload_that_is_not_json_is_rejected(running: ServerProcess, value: str) -> None:
    answer = post(running, "/tasks", f'{{"command":"ODD","payload":{value}}}')
    assert (answer.status_code, answer.json()["reason"]) == (400, "INVALID_BODY")


@pytest.mark.parametrize(
    "value", ["1e400", "-0", '"\\u0000"', '"\\ud800"', "12345678901234567890.10", '{"a":1,"a":2}', '"\\ud83d\\ude00"']
)
async def test_unusual_payload_is_returned_byte_for_byte_on_every_interface(running: ServerProcess, value: str) -> None:
    made = post(running, "/tasks", f'{{"command":"EXACT","payload":{value}}}')
    assert f'"payload":{value},' in made.text
    assert f'"payload":{value},' in call(running, "GET", f"/tasks/{made.json()['id']}").text
    async with working(running, "EXACT") as stream:
        [task] = await take(stream, 1)
        assert task.payload == value.encode()
        outcome = {"task_id": task.id, "lease_token": task.lease_token, "kind": task_pb2.OUTCOME_KIND_COMPLETED}
        assert await settle(stream, [task_pb2.Outcome(**outcome, result=value.encode())]) == []
    assert f'"result":{value},' in call(running, "GET", f"/tasks/{made.json()['id']}/result").text


@pytest.mark.parametrize("error", ["", " ", "\t\n"])
def test_failure_without_an_error_is_rejected(running: ServerProcess, error: str) -> None:
    task = claimed(running, "BLANK")
    answer = call(running, "POST", f"/tasks/{task['id']}/result", json={"status": "FAILED", "error": error})
    assert refused(answer, 400, "INVALID_FIELD")["details"][0]["field"] == "error"
    assert call(running, "POST", f"/tasks/{task['id']}/result", json={"status": "COMPLETED"}).status_code == 200


# -- ids, paths, page tokens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["%2F", "a%2Fb", "%00", "..%2f..%2fetc", "%e2%82%ac", "00000001-0000-8000-8000-0000000000ff"]
)
def test_malformed_id_or_command_in_a_path_is_not_found(running: ServerProcess, name: str) -> None:
    refused(call(running, "GET", f"/tasks/{name}"), 404, "TASK_NOT_FOUND")
    refused(call(running, "POST", f"/tasks/{name}/nack", json={}), 404, "TASK_NOT_FOUND")
    refused(call(running, "GET", f"/admin/queues/{name}"), 404, "QUEUE_NOT_FOUND")


@pytest.mark.parametrize(
    ("name", "status"), [("x" * 65, 400), ("x" * 20_000, 400), ("%ff", 400), ("%zz", 400), ("", 404), ("a/", 404)]
)
def test_malformed_path_is_rejected(running: ServerProcess, name: str, status: int) -> None:
    answer = call(running, "GET", f"/tasks/{name}")
    assert answer.status_code == status
    assert len(answer.content) < 1000
    assert answer.json()["error"]


def test_foreign_or_malformed_page_token_is_rejected(running: ServerProcess) -> None:
    for command in ("PAGE-1", "PAGE-2", "PAGE-3"):
        call(running, "POST", "/tasks", json={"command": command, "payload": 1})
    tasks = call(running, "GET", "/tasks?pageSize=1").json()["nextPageToken"]
    queues = call(running, "GET", "/admin/queues?pageSize=1").json()["nextPageToken"]
    spoilt = base64.urlsafe_b64encode(b"\xff" * 20).decode()
    for path, token in (
        ("/tasks?pageSize=1&command=PAGE-2", tasks),
        ("/tasks?pageSize=1&status=PENDING", tasks),
        ("/tasks?pageSize=1", queues),
        ("/admin/queues?pageSize=1", tasks),
        *(
            (path, bad)
            for path in ("/tasks?pageSize=1", "/admin/queues?pageSize=1")
            for bad in (spoilt, "A", "PAGE-1", "%00")
        ),
    ):
        answer = refused(call(running, "GET", f"{path}&pageToken={token}"), 400, "INVALID_PAGE_TOKEN")
        assert answer["details"][0]["field"] == "pageToken"
    seen, token = [], ""
    while token or not seen:
        page = call(running, "GET", f"/admin/queues?pageSize=1&pageToken={token}").json()
        seen += [queue["command"] for queue in page["queues"]]
        token = page["nextPageToken"]
    assert [command for command in seen if command.startswith("PAGE-")] == ["PAGE-1", "PAGE-2", "PAGE-3"]
    assert seen == sorted(set(seen))


# -- lists and streams of sizes that nobody needs ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/tasks/claim", {"commands": [f"c{number}" for number in range(10_000)]}, "commands"),
        ("/tasks/claim/batch", {"commands": ["c"] * 257, "count": 1}, "commands"),
        ("/tasks/batch", {"tasks": [{"command": "LISTS", "payload": 1}] * 1001}, "tasks"),
        ("/tasks/batch", {"tasks": []}, "tasks"),
        ("/tasks/batch/results", {"results": [{"taskId": "x", "status": "COMPLETED"}] * 1001}, "results"),
        ("/tasks/batch/results", {"results": []}, "results"),
    ],
)
def test_oversized_list_is_rejected_with_its_field(
    running: ServerProcess, path: str, body: dict[str, Any], field: str
) -> None:
    answer = refused(call(running, "POST", path, json=body), 400, "INVALID_FIELD")
    assert answer["details"][0]["field"] == field
    refused(call(running, "GET", "/admin/queues/LISTS"), 404, "QUEUE_NOT_FOUND")


async def send_all(server: ServerProcess, messages: list[worker_pb.WorkRequest]) -> None:
    """Sends messages over a worker stream and reads it to its end."""
    async with working(server, "NOTHING") as stream:
        for message in messages:
            await stream.write(message)
        while await stream.read() is not grpc.aio.EOF:
            pass


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([worker_pb.WorkRequest(add_credits=-1)], "add_credits"),
        ([worker_pb.WorkRequest(add_credits=65_537)], "add_credits"),
        ([worker_pb.WorkRequest(add_credits=65_536), worker_pb.WorkRequest(add_credits=1)], "add_credits"),
        ([worker_pb.WorkRequest(add_credit_bytes=-1)], "add_credit_bytes"),
        ([worker_pb.WorkRequest(add_credit_bytes=2**62)], "add_credit_bytes"),
        ([worker_pb.WorkRequest(outcomes=[task_pb2.Outcome(task_id="x")] * 4097)], "outcomes"),
        ([worker_pb.WorkRequest(heartbeats=[worker_pb.Heartbeat(task_id="x")] * 4097)], "heartbeats"),
        ([worker_pb.WorkRequest(progress=[worker_pb.Progress(task_id="x")] * 4097)], "progress"),
    ],
)
async def test_worker_stream_with_a_field_out_of_bounds_ends_and_the_error_names_it(
    running: ServerProcess, messages: list[worker_pb.WorkRequest], field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await send_all(running, messages)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert field in (caught.value.details() or "")


async def test_worker_stream_without_credits_gets_no_tasks_and_bad_outcomes_are_rejected(
    running: ServerProcess,
) -> None:
    call(running, "POST", "/tasks", json={"command": "ZERO", "payload": 1})
    async with working(running, "ZERO") as stream:
        await stream.write(worker_pb.WorkRequest(add_credits=0))
        nonsense = [
            task_pb2.Outcome(),
            task_pb2.Outcome(task_id="x" * 100, kind=task_pb2.OUTCOME_KIND_COMPLETED),
            task_pb2.Outcome(task_id="x", kind=task_pb2.OUTCOME_KIND_COMPLETED, lease_token=2**64 - 1),
            task_pb2.Outcome(task_id="x", kind=99),  # an outcome kind of a later version
            task_pb2.Outcome(task_id="x", kind=task_pb2.OUTCOME_KIND_NACK, delay_seconds=-1),
            task_pb2.Outcome(task_id="x", kind=task_pb2.OUTCOME_KIND_FAILED, error=" "),
        ]
        errors = await settle(stream, nonsense)
        assert [error.number for error in errors] == list(range(1, len(nonsense) + 1))
        assert all(len(error.task_id) <= 64 for error in errors)
    assert queue_of(running, "ZERO")["ready"] == 1


@pytest.mark.parametrize(
    "method",
    [
        "/codeq.v1.TaskService/CreateTask",
        "/codeq.v1.QueueService/ListQueues",
        "/codeq.v1.ProducerService/Produce",
        "/codeq.v1.WorkerService/Work",
    ],
)
@pytest.mark.parametrize("content", [b"\xff", b"\x0a\x05a"], ids=lambda content: content.hex())
async def test_undecodable_bytes_are_rejected_as_a_client_error(
    running: ServerProcess, method: str, content: bytes
) -> None:
    async with grpc.aio.insecure_channel(running.producer_addr) as channel:
        if method.endswith(("/Produce", "/Work")):
            stream: Any = channel.stream_stream(method)(metadata=auth())
            await stream.write(content)
            call_of_method = stream.read()
        else:
            call_of_method = channel.unary_unary(method)(content, metadata=auth())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call_of_method
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "malformed request message" in (caught.value.details() or "")


@pytest.mark.parametrize("method", ["/codeq.v1.ProducerService/Produce", "/codeq.v1.WorkerService/Work"])
async def test_stream_that_never_sends_a_hello_is_ended(running: ServerProcess, method: str) -> None:
    async with grpc.aio.insecure_channel(running.producer_addr) as channel, asyncio.timeout(30):
        stream: Any = channel.stream_stream(method)(metadata=auth())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "hello" in (caught.value.details() or "")


async def test_queue_names_create_at_most_a_thousand_metric_series(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        async with producing(server) as stream:
            specs = [task_pb2.TaskSpec(command=f"series-{number}", payload=b"1") for number in range(1100)]
            ack = await produce(stream, specs)
        assert len([task_id for task_id in ack.task_ids if task_id]) > 1000
        shown = HTTP.get(f"{server.http_url}/metrics").text
    assert len(set(re.findall(r'^codeq_queue_tasks\{command="(series-\d+)"', shown, re.MULTILINE))) == 1000
