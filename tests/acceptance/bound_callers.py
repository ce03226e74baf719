"""Callers that reach a limit of a server."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import httpx
import pytest
from bare_streams import auth
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from server_process import ServerProcess

SECONDS_MAX = 120
SLACK_SECONDS = 15
"""Extra time that a busy machine may need to notice a timeout."""
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
WATCH = "/grpc.health.v1.Health/Watch"


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


@asynccontextmanager
async def channel_to(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address, options=OWN_CONNECTION) as channel:
        yield channel


def claim(channel: grpc.aio.Channel) -> Any:
    """Starts a call that waits for a task that never arrives."""
    return TaskServiceStub(channel).ClaimTask(
        pb.ClaimTaskRequest(commands=["NONE"], wait_seconds=30), metadata=auth(), timeout=SECONDS_MAX
    )


async def create(
    channel: grpc.aio.Channel, command: str = "A", seconds: float = SECONDS_MAX, payload: bytes = b"1"
) -> None:
    spec = task_pb2.TaskSpec(command=command, payload=payload)
    await TaskServiceStub(channel).CreateTask(pb.CreateTaskRequest(spec=spec), metadata=auth(), timeout=seconds)


def padded(message: bytes, size: int) -> bytes:
    """Returns a message padded to a size by an unknown field: between 2 and 256 MiB."""
    missing = size - len(message) - 5
    length = bytes([missing & 127 | 128, missing >> 7 & 127 | 128, missing >> 14 & 127 | 128, missing >> 21])
    return message + b"\x7a" + length + bytes(missing)


async def code_of(call: Awaitable[object]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def waiting(server: ServerProcess, name: str, count: int) -> None:
    """Waits until a server metric reaches a count."""
    async with asyncio.timeout(SECONDS_MAX), httpx.AsyncClient(timeout=SECONDS_MAX) as client:
        while True:
            text = (await client.get(f"{server.http_url}/metrics")).text
            values = re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+]+)$", text, re.MULTILINE)
            if sum(map(float, values)) >= count:
                return
            await asyncio.sleep(0.1)


def watch(channel: grpc.aio.Channel) -> Any:
    return channel.stream_stream(WATCH)()  # type: ignore[call-arg]


async def watching(channel: grpc.aio.Channel, count: int) -> list[Any]:
    """Opens health watches and returns them."""
    calls = [watch(channel) for _ in range(count)]
    for call in calls:
        await call.write(b"")
        assert await call.read()
    return calls


async def closed_after(port: int, said: bytes, seconds: float) -> bytes:
    """Sends bytes; returns the reply and the seconds until the connection was closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.monotonic()
    writer.write(said)
    answer = b""
    try:
        async with asyncio.timeout(seconds + SLACK_SECONDS):
            with suppress(ConnectionResetError):
                while part := await reader.read(65_536):
                    answer += part
    finally:
        writer.close()
    assert time.monotonic() - began > seconds * 0.7  # a busy machine starts the timer late
    return answer


async def left_idle(address: str, seconds: float) -> None:
    """Connects without making a call, and waits for the close, which must take this many seconds."""
    async with channel_to(address) as channel:
        await channel.channel_ready()
        began = time.monotonic()
        async with asyncio.timeout(seconds + SLACK_SECONDS):
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        assert time.monotonic() - began > seconds * 0.7  # a busy machine starts the timer late


async def exchange(port: int, request: bytes) -> bytes:
    """Returns everything received for a request until its connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = b""
    async with asyncio.timeout(SECONDS_MAX):
        with suppress(ConnectionResetError):
            while part := await reader.read(65_536):
                answer += part
    writer.close()
    return answer


async def post(client: httpx.AsyncClient, server: ServerProcess, size: int) -> int:
    """Creates a task with a body of this many bytes; returns the status."""
    body = b'{"command":"A"}'.ljust(size)
    return (await client.post(f"{server.http_url}/v1/codeq/tasks", content=body)).status_code
