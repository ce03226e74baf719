"""The memory of a rejected call is freed once its reply is sent, on every interface; measured at once, without a pause.

With CODEQ_REFUSALS=10 in the environment, ten times as many calls are made: 4,000 of 1 MB on each interface, and 250
batches and frames of 8 MB. Memory must not grow more than it does with a tenth of the calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import grpc
import psutil
import pytest
from bare_streams import auth, producing, working
from codeq.v1 import producer_service_pb2 as producer_pb
from codeq.v1 import task_pb2, task_service_pb2
from codeq.v1 import worker_service_pb2 as worker_pb
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from server_process import DEV_TOKEN, ServerProcess

GROWTH_MAX: Final = 60 << 20
"""Maximum memory growth of a process through rejected calls, in bytes."""

TIMES: Final = int(os.environ.get("CODEQ_REFUSALS", "1"))
"""Factor by which the number of calls is multiplied."""

CALLS: Final = 400 * TIMES
"""Rejected calls of 1 MB: far more in total than may remain in memory."""

BATCHES: Final = 25 * TIMES
"""Rejected batches and frames of 8 MB."""

ROUNDS: Final = 2
"""Memory that calls leave behind grows in each round; the heap's peak on a busy machine is reached only once."""

WARM_CALLS: Final = 10
"""Calls after which buffers, caches and pools have reached their final size."""

MEGABYTE: Final = b'{"command":"BIG","payload":"' + b"x" * 1_000_000 + b'"}'
BATCH: Final = b'{"idempotencyKey":"k","tasks":[' + b",".join([MEGABYTE] * 8) + b"]}"
"""Request that is rejected after it is read, because a key needs an atomic batch."""

pytestmark = pytest.mark.timeout(180 * TIMES)

SPEC: Final = task_pb2.TaskSpec(command="BIG", payload=b'"%s"' % (b"x" * 1_000_000))


@pytest.fixture(scope="module", params=[False, True], ids=["in process", "apart"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server, with the gateway in its process and standalone."""
    with ServerProcess(tmp_path_factory.mktemp("served"), apart=request.param) as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for gRPC."""
    with ServerProcess(tmp_path_factory.mktemp("server"), apart=False) as server:
        yield server


def memory(server: ServerProcess, *, gateway: bool = False) -> int:
    """Returns the resident bytes of the server, plus those of a standalone gateway if it is counted."""
    sizes = [psutil.Process(server.pid).memory_info().rss]
    if gateway and server.is_apart:
        sizes.append(psutil.Process(server.gateway_pid).memory_info().rss)
    return max(sizes)


def stays_small(server: ServerProcess, call: Callable[[], None], count: int, *, gateway: bool = False) -> None:
    """Makes calls and checks that the memory they used is freed."""
    for _ in range(WARM_CALLS):
        call()
    for _ in range(ROUNDS):
        before = memory(server, gateway=gateway)
        for _ in range(count):
            call()
        grown = memory(server, gateway=gateway) - before
        print(f"{count} calls: {before / 1e6:.0f} MB, then {grown / 1e6:+.0f} MB")
        if grown < GROWTH_MAX:
            return
    pytest.fail(f"the process grew by more than {GROWTH_MAX} bytes in each of {ROUNDS} rounds")


@contextlib.contextmanager
def posting(
    server: ServerProcess, path: str, body: bytes, status: int, token: str = ""
) -> Iterator[Callable[[], None]]:
    """Yields a function that posts a body over one connection and checks that it is rejected."""
    host, _, port = server.http_url.removeprefix("http://").partition(":")
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}

    connection = http.client.HTTPConnection(host, int(port), timeout=60)

    def post() -> None:
        connection.request("POST", f"/v1/codeq{path}", body, headers)
        reply = connection.getresponse()
        reply.read()
        assert reply.status == status

    with contextlib.closing(connection):
        yield post


@pytest.mark.parametrize("token", ["", "unknown"])
def test_rest_calls_without_a_token_do_not_grow_memory(served: ServerProcess, token: str) -> None:
    with posting(served, "/tasks", MEGABYTE, 401, token) as post:
        stays_small(served, post, CALLS, gateway=True)


def test_rejected_rest_calls_do_not_grow_memory(served: ServerProcess) -> None:
    """The token is valid, but the task is not: it has an unknown field beside its payload."""
    body = b'{"nonsense":1,' + MEGABYTE[1:]
    with posting(served, "/tasks", body, 400, DEV_TOKEN) as post:
        stays_small(served, post, CALLS, gateway=True)


def test_rejected_rest_batches_do_not_grow_memory(served: ServerProcess) -> None:
    with posting(served, "/tasks/batch", BATCH, 400, DEV_TOKEN) as post:
        stays_small(served, post, BATCHES, gateway=True)


def refused(rpc: Any, request: Any, metadata: Any, code: grpc.StatusCode) -> Callable[[], None]:
    """Returns a function that makes a gRPC call and checks that it is rejected."""

    def call() -> None:
        with pytest.raises(grpc.RpcError) as error:
            rpc(request, metadata=metadata, timeout=60)
        assert error.value.code() is code

    return call


@pytest.mark.parametrize("metadata", [(), auth("unknown")])
def test_grpc_calls_without_a_token_do_not_grow_memory(server: ServerProcess, metadata: Any) -> None:
    with grpc.insecure_channel(server.producer_addr) as channel:
        request = task_service_pb2.CreateTaskRequest(spec=SPEC)
        call = refused(TaskServiceStub(channel).CreateTask, request, metadata, grpc.StatusCode.UNAUTHENTICATED)
        stays_small(server, call, CALLS)


def test_rejected_grpc_calls_do_not_grow_memory(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.producer_addr) as channel:
        request = task_service_pb2.CreateTaskRequest(spec=task_pb2.TaskSpec(command="no name", payload=SPEC.payload))
        call = refused(TaskServiceStub(channel).CreateTask, request, auth(), grpc.StatusCode.INVALID_ARGUMENT)
        stays_small(server, call, CALLS)


def test_rejected_grpc_batches_do_not_grow_memory(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.producer_addr) as channel:
        request = task_service_pb2.BatchCreateTasksRequest(idempotency_key="k", tasks=[SPEC] * 8)
        call = refused(TaskServiceStub(channel).BatchCreateTasks, request, auth(), grpc.StatusCode.INVALID_ARGUMENT)
        stays_small(server, call, BATCHES)


@contextlib.asynccontextmanager
async def _producer(server: ServerProcess) -> AsyncIterator[tuple[Any, Any]]:
    async with producing(server) as stream:
        yield stream, producer_pb.ProduceRequest(hello=producer_pb.ProducerHello(), tasks=[SPEC] * 8)


@contextlib.asynccontextmanager
async def _worker(server: ServerProcess) -> AsyncIterator[tuple[Any, Any]]:
    outcome = task_pb2.Outcome(task_id="none", kind=task_pb2.OUTCOME_KIND_COMPLETED, result=SPEC.payload)
    async with working(server) as stream:
        yield stream, worker_pb.WorkRequest(hello=worker_pb.WorkerHello(), outcomes=[outcome] * 8)


@pytest.mark.parametrize("opened", [_producer, _worker])
def test_rejected_frames_do_not_grow_memory(server: ServerProcess, opened: Any) -> None:
    """A second hello, with 8 MB in the same frame, ends the stream."""

    async def send() -> None:
        async with opened(server) as (stream, frame):
            await stream.write(frame)
            assert await stream.code() is grpc.StatusCode.FAILED_PRECONDITION

    with asyncio.Runner() as runner:
        stays_small(server, lambda: runner.run(send()), BATCHES)
