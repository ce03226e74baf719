"""Bad input from outside: each kind gets its documented error, and nothing changes."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import codeq
import grpc
import httpx
import pytest
from codeq.v1 import producer_service_pb2, task_pb2, worker_service_pb2
from codeq.v1.producer_service_pb2_grpc import ProducerServiceStub
from codeq.v1.worker_service_pb2_grpc import WorkerServiceStub
from documented import ENVIRONMENT
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from server_process import ServerProcess

HTTP = httpx.Client(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), limits=httpx.Limits(max_keepalive_connections=0))
"""HTTP client shared by all calls, because creating one costs far more than a call; each call opens a connection."""

WORKER_SCOPES = ["codeq:claim", "codeq:heartbeat", "codeq:abandon", "codeq:nack", "codeq:result"]


def static(token: str, tenant: str, **more: object) -> str:
    """Returns the configuration of a static token."""
    return json.dumps({"token": token, "subject": f"of-{token}", "raw": {"tenantId": tenant, "role": "USER"}, **more})


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose worker may only claim and whose producer is not an administrator."""
    env = {
        **ENVIRONMENT,
        "PRODUCER_AUTH_CONFIG": static("producer", "acme"),
        "WORKER_AUTH_CONFIG": static("worker", "acme", scopes=["codeq:claim"], eventTypes=["ALLOWED"]),
    }
    del env["PERSISTENCE_CONFIG"]
    with ServerProcess(tmp_path_factory.mktemp("limited"), env=env, dev=False) as server:
        yield server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the well-known token for everything."""
    with ServerProcess(tmp_path_factory.mktemp("running")) as server:
        yield server


def call(server: ServerProcess, method: str, path: str, token: str = "dev-token", **more: Any) -> httpx.Response:
    """Makes one HTTP call."""
    headers = {"Authorization": f"Bearer {token}", **more.pop("headers", {})}
    return HTTP.request(method, f"{server.http_url}/v1/codeq{path}", headers=headers, timeout=20, **more)


def refused(answer: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    """Checks a rejection and returns its body."""
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["reason"]) == (status, reason), body
    assert body["error"]
    assert body["code"]
    return body


def queue_of(server: ServerProcess, command: str) -> dict[str, Any]:
    """Returns the counters of a queue."""
    counters: dict[str, Any] = call(server, "GET", f"/admin/queues/{command}").json()
    return counters


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer nobody"}, {"Authorization": "Basic ZGV2"}])
def test_call_without_a_valid_token_is_unauthenticated(running: ServerProcess, header: dict[str, str]) -> None:
    answer = httpx.post(f"{running.http_url}/v1/codeq/tasks", json={"command": "A", "payload": 1}, headers=header)
    refused(answer, 401, "UNAUTHENTICATED")
    assert call(running, "GET", "/admin/queues").json()["queues"] == []


def test_call_without_the_scope_is_rejected(limited: ServerProcess) -> None:
    refused(call(limited, "POST", "/tasks/x/nack", token="worker", json={}), 403, "MISSING_SCOPE")


def test_error_for_the_wrong_token_kind_names_the_required_kind(limited: ServerProcess) -> None:
    needs_worker = "this is a producer's token, and the call needs a worker's"
    answer = call(limited, "POST", "/tasks/claim", token="producer", json={})
    assert refused(answer, 403, "WRONG_TOKEN_KIND")["error"] == needs_worker
    answer = call(limited, "POST", "/tasks", token="worker", json={"command": "A"})
    assert refused(answer, 403, "WRONG_TOKEN_KIND")["error"].endswith("needs a producer's")
    answer = call(limited, "GET", "/admin/queues", token="worker")
    assert refused(answer, 403, "WRONG_TOKEN_KIND")["error"].endswith("needs an administrator's")
    with codeq.Client(limited.worker_addr, token="producer") as client, pytest.raises(codeq.WrongTokenKind) as caught:
        client.claim(["A"])
    assert caught.value.message == needs_worker
    with codeq.Producer(limited.producer_addr, token="worker") as producer, pytest.raises(codeq.WrongTokenKind):
        producer.create("A", {}, timeout_seconds=20)


def test_call_by_a_non_administrator_is_rejected(limited: ServerProcess) -> None:
    refused(call(limited, "GET", "/admin/queues", token="producer"), 403, "NOT_ADMIN")


def test_claim_of_a_command_that_the_token_does_not_allow_is_rejected(limited: ServerProcess) -> None:
    answer = call(limited, "POST", "/tasks/claim", token="worker", json={"commands": ["OTHER"]})
    refused(answer, 403, "COMMAND_NOT_ALLOWED")


def test_task_id_of_another_tenant_is_not_found(tmp_path: Path) -> None:
    env = {
        **ENVIRONMENT,
        "PRODUCER_AUTH_CONFIG": static("producer", "acme"),
        "WORKER_AUTH_CONFIG": static("worker", "umbrella", scopes=WORKER_SCOPES, eventTypes=["*"]),
    }
    del env["PERSISTENCE_CONFIG"]
    with ServerProcess(tmp_path / "server", env=env, dev=False) as server:
        task = call(server, "POST", "/tasks", token="producer", json={"command": "A", "payload": 1}).json()
        foreign = f"/tasks/{task['id']}"
        for method, path, body in (
            ("GET", foreign, None),
            ("GET", f"{foreign}/result", None),
            ("POST", f"{foreign}/heartbeat", {}),
            ("POST", f"{foreign}/result", {"status": "COMPLETED"}),
            ("POST", f"{foreign}/nack", {}),
            ("POST", f"{foreign}/abandon", {}),
        ):
            answer = call(server, method, path, token="worker", **({} if body is None else {"json": body}))
            refused(answer, 404, "TASK_NOT_FOUND")
        assert call(server, "POST", "/tasks/claim", token="worker", json={}).status_code == 204
        assert call(server, "GET", foreign, token="producer").json() == task


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"command": "BAD", "payload": 1, "colour": "red"}, "colour"),
        ({"command": "BAD", "payload": 1, "priority": 10}, "priority"),
        ({"command": "BAD", "payload": 1, "priority": "high"}, "priority"),
        ({"command": "no spaces", "payload": 1}, "command"),
        ({"payload": 1}, "command"),
        ({"command": "BAD", "payload": 1, "maxAttempts": 0}, "maxAttempts"),
        ({"command": "BAD", "payload": 1, "delaySeconds": -1}, "delaySeconds"),
        ({"command": "BAD", "payload": 1, "runAt": "tomorrow"}, "runAt"),
        ({"command": "BAD", "payload": 1, "idempotencyKey": ""}, "idempotencyKey"),
        ({"command": "BAD", "payload": 1, "idempotencyKey": "k\n"}, "idempotencyKey"),
        ({"command": "BAD", "payload": 1, "idempotencyKey": "k" * 257}, "idempotencyKey"),
        ({"command": "BAD", "payload": 1, "idempotencyKey": "k", "taskId": "t"}, "taskId"),
        ({"command": "BAD", "payload": 1, "taskId": "no spaces"}, "taskId"),
        ({"command": "BAD", "payload": 1, "taskId": "t" * 65}, "taskId"),
        ({"command": "BAD", "payload": 1, "taskId": "00000001-0000-8000-8000-000000000100"}, "taskId"),
        ({"command": "BAD", "payload": 1, "taskId": "ABCDEF01-0000-8000-F000-000000000100"}, "taskId"),
    ],
)
def test_create_error_names_the_invalid_field(running: ServerProcess, body: dict[str, Any], field: str) -> None:
    answer = refused(call(running, "POST", "/tasks", json=body), 400, "INVALID_FIELD")
    assert field in answer["error"]
    refused(call(running, "GET", "/admin/queues/BAD"), 404, "QUEUE_NOT_FOUND")


def test_payload_of_one_mebibyte_is_accepted_but_not_one_byte_more(running: ServerProcess) -> None:
    largest = '"' + "x" * ((1 << 20) - 2) + '"'
    headers = {"Content-Type": "application/json"}
    body = '{"command":"BIG","payload":%s}'
    assert call(running, "POST", "/tasks", content=body % largest, headers=headers).status_code == 202
    refused(call(running, "POST", "/tasks", content=body % (largest[:-1] + 'x"'), headers=headers), 413, "TOO_LARGE")
    assert queue_of(running, "BIG")["ready"] == 1


@pytest.mark.parametrize("content", ["{", "[1]", '{"command":"BAD","payload":}', "\xff"])
def test_malformed_json_is_rejected_as_an_invalid_body(running: ServerProcess, content: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = call(running, "POST", "/tasks", content=content.encode("latin-1"), headers=headers)
    assert answer.status_code == 400
    assert answer.json()["reason"] in {"INVALID_BODY", "INVALID_FIELD"}


def test_wrong_content_type_is_rejected_as_an_invalid_body(running: ServerProcess) -> None:
    answer = call(running, "POST", "/tasks", content=b"command=A", headers={"Content-Type": "text/plain"})
    refused(answer, 400, "INVALID_BODY")


@pytest.mark.parametrize("status", ["DONE", "PENDING", "completed", 4])
def test_result_with_an_unknown_status_leaves_the_task_leased(running: ServerProcess, status: object) -> None:
    call(running, "POST", "/tasks", json={"command": "STATUS", "payload": 1})
    task = call(running, "POST", "/tasks/claim", json={"commands": ["STATUS"]}).json()
    answer = call(running, "POST", f"/tasks/{task['id']}/result", json={"status": status})
    assert "status" in refused(answer, 400, "INVALID_FIELD")["error"]
    assert call(running, "GET", f"/tasks/{task['id']}").json()["status"] == "CLAIMED"


def test_outcome_with_a_stale_token_changes_nothing(running: ServerProcess) -> None:
    call(running, "POST", "/tasks", json={"command": "STALE", "payload": 1})
    first = call(running, "POST", "/tasks/claim", json={"commands": ["STALE"]}).json()
    call(running, "POST", f"/tasks/{first['id']}/nack", json={"delaySeconds": 0})
    second = call(running, "POST", "/tasks/claim", json={"commands": ["STALE"]}).json()
    assert (second["id"], second["attempts"]) == (first["id"], 2)
    assert int(second["leaseToken"]) > int(first["leaseToken"])
    for path, body in (("result", {"status": "COMPLETED"}), ("abandon", {}), ("heartbeat", {})):
        body["leaseToken"] = first["leaseToken"]
        refused(call(running, "POST", f"/tasks/{first['id']}/{path}", json=body), 409, "STALE_LEASE_TOKEN")
    # The nack used that token: repeating it returns the same reply and changes nothing either.
    repeated = call(running, "POST", f"/tasks/{first['id']}/nack", json={"leaseToken": first["leaseToken"]})
    assert (repeated.status_code, repeated.json()["status"]) == (200, "PENDING")
    assert call(running, "GET", f"/tasks/{first['id']}").json()["leaseToken"] == second["leaseToken"]


async def read_all(stream: Any) -> None:
    """Reads a stream to its end."""
    while await stream.read() is not grpc.aio.EOF:
        pass


async def ended_with(stream: Any) -> tuple[grpc.StatusCode, str]:
    """Reads a stream to its end; returns the code and the reason in its ErrorInfo, if any."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_all(stream)
    status = rpc_status.from_call(caught.value)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status is not None else ():
        detail.Unpack(info)
    return caught.value.code(), info.reason


AUTH = (("authorization", "Bearer dev-token"),)


async def test_oversized_frame_ends_only_its_own_stream(running: ServerProcess) -> None:
    async with grpc.aio.insecure_channel(running.producer_addr) as channel:
        for size, code, reason in (
            (8 << 20, grpc.StatusCode.INVALID_ARGUMENT, "TOO_LARGE"),
            (10 << 20, grpc.StatusCode.RESOURCE_EXHAUSTED, ""),
        ):
            stream = ProducerServiceStub(channel).Produce(metadata=AUTH)
            task = task_pb2.TaskSpec(command="FRAME", payload=b"1" * (size // 16))
            hello = producer_service_pb2.ProducerHello()
            await stream.write(producer_service_pb2.ProduceRequest(hello=hello, tasks=[task] * 17))
            assert await ended_with(stream) == (code, reason)
    refused(call(running, "GET", "/admin/queues/FRAME"), 404, "QUEUE_NOT_FOUND")


async def test_stream_without_a_hello_or_with_two_is_rejected_as_a_bad_handshake(running: ServerProcess) -> None:
    hello = worker_service_pb2.WorkRequest(hello=worker_service_pb2.WorkerHello())
    async with grpc.aio.insecure_channel(running.worker_addr) as channel:
        for messages in ([worker_service_pb2.WorkRequest(add_credits=1)], [hello, hello]):
            stream = WorkerServiceStub(channel).Work(metadata=AUTH)
            for message in messages:
                await stream.write(message)
            assert await ended_with(stream) == (grpc.StatusCode.FAILED_PRECONDITION, "BAD_HANDSHAKE")


async def test_silently_broken_stream_returns_undelivered_tasks(running: ServerProcess) -> None:
    """A client that never reads and then vanishes must not hold tasks that it did not receive."""
    reader, writer = await asyncio.open_connection(*running.worker_addr.split(":"))
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    await writer.drain()
    assert await reader.read(1)
    writer.transport.abort()
    call(running, "POST", "/tasks", json={"command": "HALF", "payload": 1})
    channel = grpc.aio.insecure_channel(running.worker_addr)
    stream: Any = WorkerServiceStub(channel).Work(metadata=AUTH)
    hello = worker_service_pb2.WorkerHello(commands=["HALF"])
    await stream.write(worker_service_pb2.WorkRequest(hello=hello, add_credits=1))
    await stream.read()
    delivered = await stream.read()
    assert len(delivered.tasks) == 1
    await stream.done_writing()
    await read_all(stream)
    await channel.close()
    again = call(running, "POST", "/tasks/claim", json={"commands": ["HALF"], "waitSeconds": 5}).json()
    assert (again["id"], again["attempts"]) == (delivered.tasks[0].id, 1)


def start_fails(server: ServerProcess) -> tuple[int, str]:
    """Starts a server that must fail to start; returns its exit code and output."""
    server.spawn()
    try:
        return server.wait(), server.log
    finally:
        server.close()


def test_port_in_use_prevents_startup_and_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = start_fails(ServerProcess(tmp_path / "server", flags=["--port", str(port)], apart=False))
    assert code == 1
    assert str(port) in said.splitlines()[-1]


def test_locked_store_prevents_startup(running: ServerProcess, tmp_path: Path) -> None:
    code, said = start_fails(ServerProcess(tmp_path / "server", store=running.store, apart=False))
    assert code == 1
    assert str(running.store) in said.splitlines()[-1]


def test_unwritable_path_prevents_startup(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a directory")
    code, said = start_fails(ServerProcess(tmp_path / "server", store=blocker / "store", apart=False))
    assert code == 1
    assert str(blocker) in said.splitlines()[-1]


def test_unknown_configuration_key_prevents_startup_and_is_named(tmp_path: Path) -> None:
    config = tmp_path / "codeq.yaml"
    config.write_text("port: 0\nprot: 8080\n")
    code, said = start_fails(
        ServerProcess(tmp_path / "server", env={"CODEQ_CONFIG_PATH": os.fspath(config)}, apart=False)
    )
    assert code == 2
    assert "prot" in said.splitlines()[-1]
