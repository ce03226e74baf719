"""Unread replies, compressed calls and bodies in tiny chunks take no more memory than allowed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import grpc
import httpx
import hyperframe.frame as frames
import psutil
import pytest
from bare_streams import auth
from codeq.v1 import task_pb2, task_service_pb2
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from hpack import Encoder
from server_process import DEV_TOKEN, LOOPBACK, ServerProcess

GROWTH_MAX: Final = 100 << 20
AUTHORIZATION: Final = f"Bearer {DEV_TOKEN}"
CALLS: Final = 120
LIST: Final = "/codeq.v1.TaskService/ListTasks"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path, apart=False) as server:
        yield server


def rss(server: ServerProcess) -> int:
    return psutil.Process(server.pid).memory_info().rss


def header_frame(number: int, headers: list[tuple[str, str]]) -> bytes:
    frame = frames.HeadersFrame(number)
    frame.data = Encoder().encode(headers)
    frame.flags.add("END_HEADERS")
    return frame.serialize()


async def test_unread_replies_are_bounded(server: ServerProcess) -> None:
    async with grpc.aio.insecure_channel(server.producer_addr) as channel:
        stub = TaskServiceStub(channel)
        for _ in range(3):
            spec = task_pb2.TaskSpec(command="SLOW", payload=b'"%s"' % (b"x" * 1_000_000))
            await stub.CreateTask(task_service_pb2.CreateTaskRequest(spec=spec), metadata=auth())
        before = rss(server)
        request = task_service_pb2.ListTasksRequest(command="SLOW", page_size=10).SerializeToString()
        host, _, port = server.producer_addr.rpartition(":")
        closed_window = frames.SettingsFrame(0)
        closed_window.settings = {frames.SettingsFrame.INITIAL_WINDOW_SIZE: 0}
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + closed_window.serialize())
            for number in range(1, 2 * CALLS, 2):
                data = frames.DataFrame(number)
                data.data = b"\0" + len(request).to_bytes(4) + request
                data.flags.add("END_STREAM")
                head = [(":method", "POST"), (":scheme", "http"), (":path", LIST), (":authority", "localhost")]
                told = [("content-type", "application/grpc"), ("te", "trailers"), ("authorization", AUTHORIZATION)]
                connection.sendall(header_frame(number, head + told) + data.serialize())
            # Once a call on another connection is answered, the server has seen all earlier ones.
            listed = await stub.ListTasks(
                task_service_pb2.ListTasksRequest(command="SLOW", page_size=10), metadata=auth(), timeout=30
            )
            assert len(listed.tasks) == 3
            assert rss(server) - before < GROWTH_MAX


async def test_compressed_grpc_calls_are_rejected(server: ServerProcess) -> None:
    async with grpc.aio.insecure_channel(server.worker_addr, compression=grpc.Compression.Gzip) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="x" * 1000), timeout=30)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    async with grpc.aio.insecure_channel(server.worker_addr) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="x" * 5000), timeout=30)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_body_in_tiny_chunks_takes_no_more_memory_than_its_size(server: ServerProcess) -> None:
    before = rss(server)
    port = int(server.http_url.rpartition(":")[2])
    head = f"POST /v1/codeq/tasks/batch HTTP/1.1\r\nHost: localhost\r\nAuthorization: {AUTHORIZATION}\r\n"
    with socket.create_connection((LOOPBACK, port)) as connection:
        connection.sendall(head.encode() + b"Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n")
        for _ in range(100):
            connection.sendall(b"7\r\n       \r\n" * 10_000)
        httpx.get(f"{server.http_url}/healthz")
        assert rss(server) - before < 40 << 20
