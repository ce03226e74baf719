"""The table of bounds in docs/operations.md: as much as each says is taken, and more meets what it says."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from bare_streams import auth
from cluster_process import ClusterProcess
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq.v1 import worker_service_pb2 as worker_pb
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from codeq.v1.worker_service_pb2_grpc import WorkerServiceStub
from server_process import DEV_TOKEN, ServerProcess
from strangers import HTTP2, strangers

OPERATIONS = Path(__file__).resolve().parents[2] / "docs/operations.md"
PER_CHANNEL = 1000
FEW = 16
"""The lowest value of a setting that bounds connections."""

SECONDS_MAX = 60
SLACK_SECONDS = 15
"""How late a busy machine may notice that a time is over."""

OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
HEADERS = {"Authorization": f"Bearer {DEV_TOKEN}"}
WATCH = "/grpc.health.v1.Health/Watch"
HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def rows() -> dict[str, tuple[int, str]]:
    """Returns default and setting of each bound of the table."""
    section = OPERATIONS.read_text().partition("## Bounds\n")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.split("|")] for line in section.splitlines() if line.startswith("| ")]
    return {name: (int(bound), setting.strip("`")) for _, name, bound, _, setting, *_ in cells if bound.isdigit()}


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


# -- what callers do -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def channel_to(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address, options=OWN_CONNECTION) as channel:
        yield channel


def claim(channel: grpc.aio.Channel) -> Any:
    """Begins a call that waits for a task which does not come."""
    return TaskServiceStub(channel).ClaimTask(
        pb.ClaimTaskRequest(commands=["NONE"], wait_seconds=30), metadata=auth(), timeout=SECONDS_MAX
    )


async def create(channel: grpc.aio.Channel, command: str = "A", seconds: float = SECONDS_MAX, **more: Any) -> None:
    spec = task_pb2.TaskSpec(command=command, payload=b"1", **more)
    await TaskServiceStub(channel).CreateTask(pb.CreateTaskRequest(spec=spec), metadata=auth(), timeout=seconds)


async def code_of(call: Awaitable[object]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def waiting(server: ServerProcess, name: str, count: int) -> None:
    """Returns when a metric of the server has come to a count."""
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
    """Returns watches of health that are open."""
    calls = [watch(channel) for _ in range(count)]
    for call in calls:
        await call.write(b"")
        assert await call.read()
    return calls


async def closed_after(port: int, said: bytes, seconds: float) -> bytes:
    """Says something, and returns what comes until the connection is closed, which is after so many seconds."""
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
    assert time.monotonic() - began > seconds - 1.5
    return answer


async def left_idle(address: str, seconds: float) -> None:
    """Connects, makes no call, and returns when the connection is closed, which is after so many seconds."""
    async with channel_to(address) as channel:
        await channel.channel_ready()
        began = time.monotonic()
        async with asyncio.timeout(seconds + SLACK_SECONDS):
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        assert time.monotonic() - began > seconds - 1.5


async def exchange(port: int, request: bytes) -> bytes:
    """Returns what comes for a request until its connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = b""
    async with asyncio.timeout(SECONDS_MAX):
        with suppress(ConnectionResetError):
            while part := await reader.read(65_536):
                answer += part
    writer.close()
    return answer


# -- how each bound is reached -----------------------------------------------------------------------------------------


def limited_to(path: Path, files: int) -> ServerProcess:
    prefix = ("sh", "-c", f'ulimit -n {files}; exec "$@"', "sh")
    return ServerProcess(path / str(files), prefix=prefix, apart=False)


async def too_few_files(path: Path, bound: int) -> None:
    with limited_to(path, bound):
        pass
    with pytest.raises(RuntimeError, match="RLIMIT_NOFILE"), limited_to(path, bound - 1):
        pass


async def calls_at_a_time(path: Path, bound: int) -> None:
    with ServerProcess(path) as server:
        async with AsyncExitStack() as stack:
            calls = []
            while len(calls) < bound:
                channel = await stack.enter_async_context(channel_to(server.worker_addr))
                calls += [claim(channel) for _ in range(min(PER_CHANNEL, bound - len(calls)))]
            held = asyncio.gather(*calls, return_exceptions=True)
            await waiting(server, "codeq_workers_waiting", bound)
            late = await stack.enter_async_context(channel_to(server.producer_addr))
            assert await code_of(create(late)) is grpc.StatusCode.RESOURCE_EXHAUSTED
            for call in calls:
                call.cancel()
            await held


async def streams_at_a_time(path: Path, bound: int) -> None:
    hello = worker_pb.WorkRequest(hello=worker_pb.WorkerHello(commands=["NONE"]))
    with ServerProcess(path) as server:
        async with AsyncExitStack() as stack:

            async def work(channel: grpc.aio.Channel) -> Any:
                stream: Any = WorkerServiceStub(channel).Work(metadata=auth())
                await stream.write(hello)
                assert (await stream.read()).welcome.worker_id
                return stream

            streams: list[Any] = []
            while len(streams) < bound:
                channel = await stack.enter_async_context(channel_to(server.worker_addr))
                streams += await asyncio.gather(*(work(channel) for _ in range(min(900, bound - len(streams)))))
            assert await code_of(work(channel)) is grpc.StatusCode.RESOURCE_EXHAUSTED
            await create(channel)  # other calls go on


async def calls_without_token(path: Path, bound: int) -> None:
    with ServerProcess(path) as server:
        async with AsyncExitStack() as stack:
            calls = []
            while len(calls) < bound:
                channel = await stack.enter_async_context(channel_to(server.worker_addr))
                calls += await watching(channel, min(FEW, bound - len(calls)))
            assert not any(call.done() for call in calls)
            late = await stack.enter_async_context(channel_to(server.worker_addr))
            await watching(late, 1)
            first = [asyncio.ensure_future(call.code()) for call in calls[:FEW]]  # they came in some order
            ended, others = await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            assert [await code for code in ended] == [grpc.StatusCode.UNAVAILABLE]
            assert not any(call.done() for call in calls[FEW:])
            for code in others:
                code.cancel()


async def http_connections(path: Path, bound: int) -> None:
    with ServerProcess(path, env={"HTTP_CONNECTIONS_MAX": str(bound)}) as server:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(httpx.AsyncClient(headers=HEADERS)) for _ in range(bound)]
            url = f"{server.http_url}/v1/codeq/tasks"
            for client in clients:
                assert (await client.post(url, json={"command": "A"}, timeout=SECONDS_MAX)).status_code == 202
            async with httpx.AsyncClient(headers=HEADERS) as late:
                with pytest.raises(httpx.TransportError):
                    await late.post(url, json={"command": "A"}, timeout=SECONDS_MAX)


async def grpc_connections(path: Path, bound: int) -> None:
    with ServerProcess(path, env={"GRPC_CONNECTIONS_MAX": str(bound)}, apart=False) as server:
        async with AsyncExitStack() as stack:
            channels = [await stack.enter_async_context(channel_to(server.worker_addr)) for _ in range(bound)]
            for channel in channels:
                await create(channel)
            late = await stack.enter_async_context(channel_to(server.worker_addr))
            assert await code_of(create(late, seconds=5)) in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            )
            for channel in channels:
                await create(channel)


async def peer_connections(path: Path, bound: int) -> None:
    with ClusterProcess(path, 1) as cluster:
        [node] = cluster.nodes.values()
        with strangers([port_of(node.raft_addr)], bound + 20, HTTP2) as crowd:
            await crowd.come()
            async with asyncio.timeout(SECONDS_MAX):
                while crowd.open() > bound:  # noqa: ASYNC110 - sockets of the kernel set no event
                    await asyncio.sleep(0.05)


async def calls_of_a_connection(path: Path, bound: int) -> None:
    with ServerProcess(path) as server:
        async with channel_to(server.worker_addr) as channel, channel_to(server.worker_addr) as other:
            calls = [claim(channel) for _ in range(bound)]
            held = asyncio.gather(*calls, return_exceptions=True)
            await waiting(server, "codeq_workers_waiting", bound)
            assert await code_of(create(channel, seconds=1)) is grpc.StatusCode.DEADLINE_EXCEEDED
            await create(other)
            calls[0].cancel()
            await create(channel)
            for call in calls:
                call.cancel()
            await held


async def calls_without_token_of_a_connection(path: Path, bound: int) -> None:
    with ServerProcess(path) as server:
        async with channel_to(server.worker_addr) as channel:
            await watching(channel, bound)
            assert await watch(channel).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def without_http2(path: Path, bound: int) -> None:
    with ServerProcess(path) as server:
        for address in (server.worker_addr, server.producer_addr):
            await closed_after(port_of(address), b"", bound)


async def without_a_call(path: Path, bound: int) -> None:
    with ServerProcess(path) as server:
        async with asyncio.TaskGroup() as group:
            group.create_task(left_idle(server.worker_addr, bound))
            group.create_task(closed_after(port_of(server.http_url), HEAD + b"\r\n", bound))


async def slow_request(path: Path, bound: int) -> None:
    with ServerProcess(path) as server:
        await closed_after(port_of(server.http_url), HEAD, bound)


async def queues_of_a_tenant(path: Path, bound: int) -> None:
    with ServerProcess(path, env={"QUEUES_PER_TENANT_MAX": str(bound)}) as server:
        async with channel_to(server.producer_addr) as channel:
            for number in range(bound):
                await create(channel, f"Q{number}")
            assert await code_of(create(channel, "ONE.MORE")) is grpc.StatusCode.RESOURCE_EXHAUSTED
            await create(channel, "Q0")


async def headers(path: Path, bound: int) -> None:
    with ServerProcess(path) as server:
        port, close = port_of(server.http_url), b"Connection: close\r\n"
        for count, status in ((bound - 2, b"200"), (bound - 1, b"4")):
            lines = b"".join(b"x-%d: 1\r\n" % number for number in range(count))
            assert (await exchange(port, HEAD + close + lines + b"\r\n")).startswith(b"HTTP/1.1 " + status)


async def head_bytes(path: Path, bound: int) -> None:
    with ServerProcess(path) as server:
        port, start = port_of(server.http_url), HEAD + b"Connection: close\r\nx: "
        for size, status in ((bound - 200, b"200"), (bound + 70_000, b"4")):
            request = start + b"a" * (size - len(start)) + b"\r\n\r\n"
            assert (await exchange(port, request)).startswith(b"HTTP/1.1 " + status)


async def unfinished_heads(path: Path, bound: int) -> None:
    size = 60_000
    greeting = (HEAD + b"x: ").ljust(size, b"a")
    with ServerProcess(path) as server, strangers([port_of(server.http_url)], bound // size + 50, greeting) as crowd:
        await crowd.come()
        async with asyncio.timeout(SECONDS_MAX):
            while crowd.open() > bound // size:  # noqa: ASYNC110 - sockets of the kernel set no event
                await asyncio.sleep(0.05)
        assert crowd.open() > bound // size - 50
        async with httpx.AsyncClient(headers=HEADERS, timeout=SECONDS_MAX) as client:
            assert (await client.post(f"{server.http_url}/v1/codeq/tasks", json={"command": "A"})).status_code == 202


async def batch_bytes(path: Path, bound: int) -> None:
    with ServerProcess(path) as server:
        async with httpx.AsyncClient(headers=HEADERS, timeout=SECONDS_MAX) as client:
            for size, status in ((bound, 400), (bound + 1, 413)):
                content = b'{"tasks":[],"x":"'.ljust(size - 2, b"a") + b'"}'
                answer = await client.post(
                    f"{server.http_url}/v1/codeq/tasks/batch",
                    content=content,
                    headers={"Content-Type": "application/json"},
                )
                assert answer.status_code == status, answer.text


async def message_bytes(path: Path, bound: int) -> None:
    with ServerProcess(path) as server:
        async with channel_to(server.producer_addr) as channel:
            call = channel.unary_unary("/codeq.v1.TaskService/CreateTask")
            assert await code_of(call(b"\xff" * bound, metadata=auth())) is grpc.StatusCode.INVALID_ARGUMENT
            over = await code_of(call(b"\xff" * (bound + 1), metadata=auth()))
            assert over is grpc.StatusCode.RESOURCE_EXHAUSTED


async def metadata_bytes(path: Path, bound: int) -> None:
    with ServerProcess(path) as server:
        async with channel_to(server.producer_addr) as channel:
            call = TaskServiceStub(channel).CreateTask
            request = pb.CreateTaskRequest(spec=task_pb2.TaskSpec(command="A", payload=b"1"))
            await call(request, metadata=(*auth(), ("x", "a" * (bound - 1024))))
            over = await code_of(call(request, metadata=(*auth(), ("x", "a" * bound))))
            assert over is grpc.StatusCode.RESOURCE_EXHAUSTED


async def artifact_bytes(path: Path, bound: int) -> None:
    with ServerProcess(path, env={"ARTIFACT_BYTES_MAX": str(bound)}) as server:
        async with channel_to(server.worker_addr) as channel:
            await create(channel)
            stub: Any = TaskServiceStub(channel)
            claimed = await stub.ClaimTask(pb.ClaimTaskRequest(commands=["A"]), metadata=auth())

            def submit(size: int) -> Any:
                task = claimed.task
                artifact = task_pb2.NewArtifact(name="a", content=b"x" * size)
                request = pb.SubmitResultRequest(
                    task_id=task.id,
                    lease_token=task.lease_token,
                    status=task_pb2.TASK_STATUS_COMPLETED,
                    result=b"1",
                    artifacts=[artifact],
                )
                return stub.SubmitResult(request, metadata=auth())

            assert await code_of(submit(bound + 1)) is grpc.StatusCode.INVALID_ARGUMENT
            await submit(bound)


async def late_request(path: Path, bound: int) -> None:
    with ServerProcess(path) as server:
        async with channel_to(server.worker_addr) as channel:
            began = time.monotonic()
            assert await watch(channel).code() is grpc.StatusCode.UNAVAILABLE
            assert bound - 1 < time.monotonic() - began < bound + SLACK_SECONDS


REACH: dict[str, Callable[[Path, int], Awaitable[None]]] = {
    "open files, at least": too_few_files,
    "gRPC calls": calls_at_a_time,
    "producer and worker streams": streams_at_a_time,
    "calls without a token": calls_without_token,
    "HTTP connections": http_connections,
    "gRPC connections": grpc_connections,
    "connections of other nodes": peer_connections,
    "gRPC calls of a connection": calls_of_a_connection,
    "calls without a token of a connection": calls_without_token_of_a_connection,
    "seconds without HTTP/2": without_http2,
    "seconds without a call": without_a_call,
    "seconds of a request": slow_request,
    "queues": queues_of_a_tenant,
    "HTTP headers": headers,
    "bytes of an HTTP head": head_bytes,
    "bytes of unfinished HTTP heads": unfinished_heads,
    "bytes of a batch over HTTP": batch_bytes,
    "bytes of a gRPC message": message_bytes,
    "bytes of gRPC metadata": metadata_bytes,
    "bytes of an artifact": artifact_bytes,
    "seconds until the request of a call without a token": late_request,
}

LOWERED = {"HTTP_CONNECTIONS_MAX": FEW, "GRPC_CONNECTIONS_MAX": FEW, "QUEUES_PER_TENANT_MAX": 2}
"""What a setting is lowered to, so that its bound is reached soon."""


def test_every_bound_of_the_table_is_reached_below() -> None:
    assert rows().keys() == REACH.keys()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", REACH)
async def test_as_much_as_a_bound_says_is_taken_and_more_meets_what_it_says(tmp_path: Path, name: str) -> None:
    bound, setting = rows()[name]
    await REACH[name](tmp_path, LOWERED.get(setting, bound))
