"""Callers are authenticated before anything else is read, and strangers leave no trace."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any, Final

import grpc
import pytest
from bare_streams import auth
from codeq_internal.v1 import call_pb2
from documented import ENVIRONMENT
from grpc_health.v1 import health_pb2
from server_process import ServerProcess

SECONDS_MAX: Final = 30
CREATE: Final = "/codeq.v1.TaskService/CreateTask"
PRODUCE: Final = "/codeq.v1.ProducerService/Produce"
WORK: Final = "/codeq.v1.WorkerService/Work"
EXCHANGE: Final = "/codeq_internal.v1.CallService/Exchange"
INFO: Final = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
GARBAGE: Final = b"\xff\xff\xff\xff"
FORGED: Final = "x\n2026-01-01T00:00:00.000Z [info ] forged"


@pytest.fixture(scope="module", params=[False, True], ids=["in process", "apart"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose worker may only claim, with the gateway in its process and standalone."""
    worker = {"token": "worker", "scopes": ["codeq:claim"], "eventTypes": ["*"], "raw": {"tenantId": "acme"}}
    env = {**ENVIRONMENT, "WORKER_AUTH_CONFIG": json.dumps(worker), "LOG_FORMAT": "text", "LOG_LEVEL": "debug"}
    del env["PERSISTENCE_CONFIG"]
    with ServerProcess(tmp_path_factory.mktemp("served"), env=env, dev=False, apart=request.param) as server:
        yield server


def reply_to_head(server: ServerProcess, *headers: str) -> str:
    """Sends only the head of a request with a large body; returns the status line of the reply."""
    host, _, port = server.http_url.removeprefix("http://").partition(":")
    head = ["POST /v1/codeq/tasks/x/result HTTP/1.1", "Host: a", "Content-Length: 1000000", *headers]
    with closing(socket.create_connection((host, int(port)), SECONDS_MAX)) as connection:
        connection.sendall("\r\n".join((*head, "", "")).encode())
        with connection.makefile() as file:
            return file.readline().strip()


@pytest.mark.parametrize(
    ("token", "status"), [("", "401 Unauthorized"), ("junk", "401 Unauthorized"), ("worker", "403 Forbidden")]
)
@pytest.mark.parametrize("expects", [False, True])
def test_unauthorized_call_is_rejected_before_its_body_is_read(
    served: ServerProcess, token: str, status: str, expects: bool
) -> None:
    headers = [f"Authorization: Bearer {token}"] if token else []
    assert reply_to_head(served, *headers, *(["Expect: 100-continue"] if expects else [])) == f"HTTP/1.1 {status}"


def test_permitted_call_gets_100_continue(served: ServerProcess) -> None:
    token = json.loads(ENVIRONMENT["PRODUCER_AUTH_CONFIG"])["token"]
    host, _, port = served.http_url.removeprefix("http://").partition(":")
    body = b'{"command":"A","payload":1}'
    with closing(socket.create_connection((host, int(port)), SECONDS_MAX)) as connection, connection.makefile() as file:
        for _ in range(2):
            connection.sendall(
                f"POST /v1/codeq/tasks HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n"
                f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n".encode()
            )
            assert file.readline() == "HTTP/1.1 100 Continue\n"
            assert file.readline() == "\n"
            connection.sendall(body)
            assert file.readline() == "HTTP/1.1 202 Accepted\n"
            while (line := file.readline().lower()) != "\n":
                if line.startswith("content-length:"):
                    size = int(line.split()[1])
            file.read(size)


async def nothing() -> AsyncIterator[bytes]:
    """A message that never arrives."""
    await asyncio.get_running_loop().create_future()
    yield b""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that logs as text."""
    env = {"LOG_FORMAT": "text"}
    with ServerProcess(tmp_path_factory.mktemp("server"), env=env, apart=False) as server:
        yield server


@pytest.mark.parametrize("name", [CREATE, PRODUCE, WORK, EXCHANGE])
async def test_stranger_is_rejected_before_the_first_message(server: ServerProcess, name: str) -> None:
    async with grpc.aio.insecure_channel(server.producer_addr) as channel, asyncio.timeout(SECONDS_MAX):
        assert await _code(channel.stream_stream(name)(nothing())) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("name", ["Authorize", "GetReadiness", "GetMetrics"])
@pytest.mark.parametrize("secret", ["", "wrong"])
async def test_gateway_calls_require_the_gateway_secret(server: ServerProcess, name: str, secret: str) -> None:
    metadata = (("codeq-gateway-secret", secret),) if secret else ()
    async with grpc.aio.insecure_channel(server.worker_addr) as channel:
        call: Any = channel.unary_unary(f"/codeq_internal.v1.CallService/{name}")(b"", metadata=metadata)
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def code_of(server: ServerProcess, name: str, *messages: bytes, metadata: Any = ()) -> grpc.StatusCode:
    """Sends messages unchanged and returns how the call ended.

    grpc.aio reports INTERNAL for a call that ends during a write; such a call is repeated.
    """
    async with grpc.aio.insecure_channel(server.producer_addr) as channel, asyncio.timeout(SECONDS_MAX):
        code = grpc.StatusCode.INTERNAL
        while code is grpc.StatusCode.INTERNAL:
            code = await _code(channel.stream_stream(name)(iter(messages), metadata=metadata))
        return code


async def _code(call: Any) -> grpc.StatusCode:
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_malformed_call_logs_no_traceback(server: ServerProcess) -> None:
    """Makes one exchange of each kind that used to log a traceback, a forged line or a line of megabytes."""
    before = len(server.log)
    invalid, unknown = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED
    for method, message, code in (
        ("Check", GARBAGE, invalid),
        ("Watch", GARBAGE, invalid),
        ("List", b"", unknown),
        ("List", GARBAGE, unknown),
        ("Nothing", b"", unknown),
        ("Check", health_pb2.HealthCheckRequest(service=FORGED).SerializeToString(), grpc.StatusCode.NOT_FOUND),
    ):
        assert await code_of(server, f"/grpc.health.v1.Health/{method}", message) is code, method
    assert await code_of(server, INFO, GARBAGE) is invalid
    for name in (CREATE, PRODUCE, WORK):
        assert await code_of(server, name, GARBAGE, metadata=auth()) is invalid
        assert await code_of(server, name, metadata=auth()) in {invalid, grpc.StatusCode.FAILED_PRECONDITION}
    named = call_pb2.ExchangeRequest(calls=[call_pb2.Call(number=1, method=FORGED)]).SerializeToString()
    long = call_pb2.ExchangeRequest(calls=[call_pb2.Call(number=1, method="x" * 8_000_000)]).SerializeToString()
    for message in (GARBAGE, named, long):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async with grpc.aio.insecure_channel(server.producer_addr) as channel:
                await channel.unary_unary(EXCHANGE)(message)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    written = server.log[before:]
    assert "Traceback" not in written
    assert "forged" not in written
    assert len(written) < 4_000
