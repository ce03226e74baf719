"""The table of limits in docs/operations.md: each limit is accepted, and excess is handled as documented."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from bare_streams import auth, producing, working
from bound_callers import (
    SECONDS_MAX,
    SLACK_SECONDS,
    channel_to,
    claim,
    closed_after,
    code_of,
    create,
    exchange,
    left_idle,
    padded,
    port_of,
    post,
    waiting,
    watch,
    watching,
)
from cluster_process import ClusterProcess
from codeq.v1 import producer_service_pb2 as producer_pb
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq.v1 import worker_service_pb2 as worker_pb
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from codeq.v1.worker_service_pb2_grpc import WorkerServiceStub
from google.protobuf.message import Message
from server_process import DEV_TOKEN, LOOPBACK, ServerProcess, raft_variables, reserved_port
from strangers import HTTP2, strangers

OPERATIONS = Path(__file__).resolve().parents[2] / "docs/operations.md"
PER_CHANNEL = 1000
FEW = 16
"""Lowest allowed value of a connection limit setting."""

LARGE = 256 << 10
"""Size in bytes from which a request counts as large."""

HEADERS = {"Authorization": f"Bearer {DEV_TOKEN}"}
HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def rows() -> dict[str, tuple[int, str]]:
    """Returns the default and the setting of each bound in the table."""
    section = OPERATIONS.read_text().partition("## Bounds\n")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.split("|")] for line in section.splitlines() if line.startswith("| ")]
    return {name: (int(bound), setting.strip("`")) for _, name, bound, _, setting, *_ in cells if bound.isdigit()}


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
            await create(channel)  # other calls continue


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
            first = [asyncio.ensure_future(call.code()) for call in calls[:FEW]]  # they arrived in any order
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


async def headless_connections(path: Path, bound: int) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(reserved_port()) for _ in "abc"]
        places = {name: f"{LOOPBACK}:{port.getsockname()[1]}" for name, port in zip("abc", held, strict=True)}
        node = ServerProcess(path, env=raft_variables(3, places, "a"), apart=False)
        stack.callback(node.close)
        node.spawn()  # it is not ready without the others, but takes connections
        async with asyncio.timeout(SECONDS_MAX):
            while not is_open(port_of(places["a"])):  # noqa: ASYNC110 - nothing tells when
                await asyncio.sleep(0.05)
        with strangers([port_of(places["a"])], bound + 20, b"") as crowd:
            await crowd.come()
            async with asyncio.timeout(SECONDS_MAX):
                while (left := crowd.open()) > bound:  # noqa: ASYNC110 - sockets of the kernel set no event
                    await asyncio.sleep(0.02)
            assert left == bound


def is_open(port: int) -> bool:
    with socket.socket() as made:
        return made.connect_ex((LOOPBACK, port)) == 0


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


async def held_bytes(path: Path, bound: int) -> None:
    batch = 8 << 20
    head = f"POST /v1/codeq/tasks/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {DEV_TOKEN}\r\n"
    unfinished = f"{head}Content-Length: {batch + 1}\r\n\r\n".encode() + b" " * batch
    with ServerProcess(path) as server, strangers([port_of(server.http_url)], bound // batch, unfinished) as crowd:
        await crowd.come()
        async with httpx.AsyncClient(headers=HEADERS, timeout=SECONDS_MAX) as client, asyncio.timeout(SECONDS_MAX):
            while await post(client, server, LARGE) == 202:  # until the server has read everything that was sent
                pass
            assert await post(client, server, LARGE) == 429
            async with channel_to(server.producer_addr) as channel:
                assert await code_of(create(channel, payload=b"1".ljust(LARGE))) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await post(client, server, 100) == 202
            assert crowd.open() == bound // batch
            crowd.leave()
            while await post(client, server, LARGE) == 429:
                pass


async def worked_bytes(path: Path, bound: int) -> None:
    size = 8 << 20
    with ServerProcess(path) as server:
        async with channel_to(server.worker_addr) as channel:
            waits = pb.ClaimTaskRequest(commands=["NONE"], wait_seconds=30).SerializeToString()
            method: Any = channel.unary_unary("/codeq.v1.TaskService/ClaimTask")
            calls = [method(padded(waits, size), metadata=auth()) for _ in range(bound // size)]
            held = asyncio.gather(*calls, return_exceptions=True)
            await waiting(server, "codeq_workers_waiting", bound // size)
            late = asyncio.ensure_future(create(channel, payload=b"1".ljust(LARGE)))
            await create(channel)
            assert not late.done()
            calls[0].cancel()
            await late
            for call in calls:
                call.cancel()
            await held


async def fields(path: Path, bound: int) -> None:
    field = b"\x78\x0a"  # a field number that no request has, whose value starts a list
    with ServerProcess(path) as server:
        async with channel_to(server.producer_addr) as channel:
            call = channel.unary_unary("/codeq.v1.TaskService/BatchCreateTasks")
            for count, text in ((bound, "tasks"), (bound + 1, f"more than {bound} fields")):
                with pytest.raises(grpc.aio.AioRpcError, match=text) as caught:
                    await call(field * count, metadata=auth())
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def refused_body(path: Path, bound: int) -> None:
    with ServerProcess(path) as server:
        port, healthy = port_of(server.http_url), HEAD + b"Connection: close\r\n\r\n"
        for size, goes_on in ((bound, True), (bound + 1, False)):
            head = b"POST /v1/codeq/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % size
            answer = await exchange(port, head + bytes(size) + healthy)
            assert answer.startswith(b"HTTP/1.1 4") or not goes_on
            assert (b"HTTP/1.1 200" in answer) == goes_on


async def ends_stream(path: Path, fits: Message, is_too_large: Message) -> None:
    """Sends two messages, each on a stream of its own: the first is accepted, and the second ends its stream."""
    open_stream = producing if isinstance(fits, producer_pb.ProduceRequest) else working
    with ServerProcess(path) as server:
        async with open_stream(server) as stream:
            await stream.write(fits)
            assert await stream.read() is not grpc.aio.EOF
        async with open_stream(server) as stream:
            await stream.write(is_too_large)
            assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "TOO_LARGE" in str(dict(await stream.trailing_metadata()))


async def frame_bytes(path: Path, bound: int) -> None:
    def frame(size: int) -> Message:
        made = producer_pb.ProduceRequest()
        for payload_bytes in (*[1_000_000] * (size // 1_050_000), 500_000):
            made.tasks.add(command="A", payload=b"1".ljust(payload_bytes))
        made.tasks[-1].payload = b"1".ljust(500_000 + size - made.ByteSize())
        assert made.ByteSize() == size
        return made

    await ends_stream(path, frame(bound), frame(bound + 1))


async def frame_tasks(path: Path, bound: int) -> None:
    spec = task_pb2.TaskSpec(command="A", payload=b"1")
    await ends_stream(
        path, producer_pb.ProduceRequest(tasks=[spec] * bound), producer_pb.ProduceRequest(tasks=[spec] * (bound + 1))
    )


async def message_outcomes(path: Path, bound: int) -> None:
    outcome = task_pb2.Outcome(task_id="none", kind=task_pb2.OUTCOME_KIND_COMPLETED, result=b"1")
    await ends_stream(
        path, worker_pb.WorkRequest(outcomes=[outcome] * bound), worker_pb.WorkRequest(outcomes=[outcome] * (bound + 1))
    )


async def late_hello(path: Path, bound: int) -> None:
    with ServerProcess(path) as server:
        async with channel_to(server.worker_addr) as channel:
            began = time.monotonic()
            stream: Any = WorkerServiceStub(channel).Work(metadata=auth())
            assert await stream.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert bound - 1 < time.monotonic() - began < bound + SLACK_SECONDS


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
    "unauthenticated calls": calls_without_token,
    "HTTP connections": http_connections,
    "gRPC connections": grpc_connections,
    "bytes of large requests": held_bytes,
    "bytes of large requests in progress": worked_bytes,
    "connections from other nodes": peer_connections,
    "connections from other nodes that have not named their group": headless_connections,
    "gRPC calls per connection": calls_of_a_connection,
    "unauthenticated calls per connection": calls_without_token_of_a_connection,
    "seconds without HTTP/2": without_http2,
    "seconds without a call": without_a_call,
    "seconds to receive a request": slow_request,
    "queues": queues_of_a_tenant,
    "HTTP headers": headers,
    "bytes of an HTTP head": head_bytes,
    "bytes of unfinished HTTP heads": unfinished_heads,
    "bytes of a batch over HTTP": batch_bytes,
    "bytes of a gRPC message": message_bytes,
    "bytes of gRPC metadata": metadata_bytes,
    "fields of a gRPC message": fields,
    "bytes of a rejected HTTP body": refused_body,
    "bytes of a producer's frame": frame_bytes,
    "tasks of a producer's frame": frame_tasks,
    "outcomes of a worker's message": message_outcomes,
    "seconds to wait for the hello of a stream": late_hello,
    "bytes of an artifact": artifact_bytes,
    "seconds to wait for the request of an unauthenticated call": late_request,
}

LOWERED = {"HTTP_CONNECTIONS_MAX": FEW, "GRPC_CONNECTIONS_MAX": FEW, "QUEUES_PER_TENANT_MAX": 2}
"""Lowered value of each setting, so that its bound is reached quickly."""


def test_every_documented_bound_has_a_test() -> None:
    assert rows().keys() == REACH.keys()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", REACH)
async def test_limit_accepts_its_bound_and_handles_excess_as_documented(tmp_path: Path, name: str) -> None:
    bound, setting = rows()[name]
    await REACH[name](tmp_path, LOWERED.get(setting, bound))
