"""Calls without a token, many of them open or malformed, take no capacity from authenticated callers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from bare_streams import auth
from codeq.v1 import task_pb2
from codeq.v1.task_service_pb2 import CreateTaskRequest
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from server_process import ServerProcess

CONNECTIONS = 20
STREAMS = 1000
RSS_GROWTH_KB_MAX = 200_000
"""Memory that thousands of simultaneous calls may use until they are rejected."""

WATCH = "/grpc.health.v1.Health/Watch"
CHECK = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


def raw(channel: grpc.aio.Channel, method: str) -> Any:
    """Returns a method with bytes as requests and responses."""
    return channel.stream_stream(method)


@asynccontextmanager
async def channel_to(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address, options=OWN_CONNECTION) as channel:
        yield channel


async def create(address: str) -> None:
    request = CreateTaskRequest(spec=task_pb2.TaskSpec(command="A", payload=b"1"))
    async with channel_to(address) as channel:
        await TaskServiceStub(channel).CreateTask(request, metadata=auth(), timeout=20)


async def check(address: str) -> Any:
    async with channel_to(address) as channel:
        answer = await HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
        return answer.status


def rss_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


@pytest.mark.parametrize(
    ("method", "request_bytes", "connections"),
    [(WATCH, b"", CONNECTIONS), (CHECK, None, 5), (REFLECTION, b"\x3a\x01*", 5)],
)
async def test_thousands_of_open_calls_without_a_token_leave_room_for_others(
    server: ServerProcess, method: str, request_bytes: bytes | None, connections: int
) -> None:
    await create(server.producer_addr)
    assert await check(server.worker_addr) == health_pb2.HealthCheckResponse.SERVING
    before = rss_kb(server.pid)
    async with AsyncExitStack() as stack:
        calls = []
        for _ in range(connections):
            channel = await stack.enter_async_context(channel_to(server.worker_addr))
            calls += [raw(channel, method)() for _ in range(STREAMS)]
        if request_bytes is not None:
            await asyncio.gather(*(call.write(request_bytes) for call in calls), return_exceptions=True)
        for _ in range(3):
            await create(server.worker_addr)
            await create(server.producer_addr)
            assert await check(server.producer_addr) == health_pb2.HealthCheckResponse.SERVING
        assert rss_kb(server.pid) - before < RSS_GROWTH_KB_MAX
        for call in calls:
            call.cancel()
    await create(server.producer_addr)


async def test_calls_without_a_token_are_limited_per_connection(server: ServerProcess) -> None:
    async with channel_to(server.worker_addr) as channel:
        calls = [raw(channel, WATCH)() for _ in range(16)]
        for call in calls:
            await call.write(b"")
            assert await call.read()
        late = raw(channel, WATCH)()
        assert await late.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "16 unauthenticated calls" in await late.details()
        assert await check(server.worker_addr) == health_pb2.HealthCheckResponse.SERVING  # on another connection


async def test_oldest_call_without_a_token_is_evicted_at_the_limit(server: ServerProcess) -> None:
    async with AsyncExitStack() as stack:
        calls = []
        for _ in range(17):
            channel = await stack.enter_async_context(channel_to(server.worker_addr))
            for _ in range(16):
                calls.append(raw(channel, WATCH)())
                await calls[-1].write(b"")
                if len(calls) <= 256:
                    assert await calls[-1].read()
        assert await calls[0].code() is grpc.StatusCode.UNAVAILABLE
        assert not calls[100].done()


async def test_call_ends_if_its_request_never_arrives(server: ServerProcess) -> None:
    async with channel_to(server.worker_addr) as channel:
        assert await raw(channel, CHECK)().code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("method", [CHECK, WATCH, REFLECTION])
async def test_bytes_that_are_not_a_request_are_rejected_without_a_traceback(
    server: ServerProcess, method: str
) -> None:
    async with channel_to(server.worker_addr) as channel:
        call = raw(channel, method)()
        await call.write(b"\xff" * 10)
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await raw(channel, "/grpc.health.v1.Health/List")().code() is grpc.StatusCode.UNIMPLEMENTED
        assert await check(server.worker_addr) == health_pb2.HealthCheckResponse.SERVING
    assert "Traceback" not in server.log
