"""A server stays within 512 MB under any mix of strangers and users."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from bare_streams import auth, create_many
from codeq.v1 import task_service_pb2 as pb
from codeq.v1 import worker_service_pb2 as worker_pb
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from codeq.v1.worker_service_pb2_grpc import WorkerServiceStub
from server_process import ServerProcess
from strangers import HTTP2, strangers

RSS_MB_MAX = 512
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
HEAD = b"POST /v1/codeq/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\n"
SECONDS = 2
"""Duration of a mix once all clients have connected."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server that gets all mixes in turn."""
    with ServerProcess(tmp_path_factory.mktemp("served"), apart=False) as server:
        yield server
        assert server.stop() == 0


def rss_mb(server: ServerProcess) -> float:
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def ports_of(*addresses: str) -> list[int]:
    return [int(address.rpartition(":")[2]) for address in addresses]


@asynccontextmanager
async def crowd_of(ports: Sequence[int], count: int, greeting: bytes) -> AsyncIterator[None]:
    with strangers(ports, count, greeting) as crowd:
        await crowd.come()
        yield


def silent(server: ServerProcess) -> AbstractAsyncContextManager[None]:
    return crowd_of(ports_of(server.http_url, server.worker_addr, server.producer_addr), 1000, b"")


def speaking_http2(server: ServerProcess) -> AbstractAsyncContextManager[None]:
    return crowd_of(ports_of(server.worker_addr, server.producer_addr), 1000, HTTP2)


def unfinished_heads(server: ServerProcess) -> AbstractAsyncContextManager[None]:
    return crowd_of(ports_of(server.http_url), 1200, (HEAD + b"x: ").ljust(60_000, b"a"))


def bodies_without_token(server: ServerProcess) -> AbstractAsyncContextManager[None]:
    return crowd_of(ports_of(server.http_url), 100, HEAD + b"Content-Length: 1000000\r\n\r\n" + b"a" * 500_000)


@asynccontextmanager
async def watches(server: ServerProcess) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        calls = []
        for _ in range(5):
            channel = grpc.aio.insecure_channel(server.worker_addr, options=OWN_CONNECTION)
            await stack.enter_async_context(channel)
            calls += [channel.stream_stream("/grpc.health.v1.Health/Watch")() for _ in range(200)]  # type: ignore[call-arg]
        await asyncio.gather(*(call.write(b"") for call in calls), return_exceptions=True)
        yield
        for call in calls:
            call.cancel()


@asynccontextmanager
async def users(server: ServerProcess) -> AsyncIterator[None]:
    """Workers on streams and long polls, and a producer."""
    hello = worker_pb.WorkRequest(hello=worker_pb.WorkerHello(commands=["MIX"]), add_credits=1)
    async with grpc.aio.insecure_channel(server.worker_addr, options=OWN_CONNECTION) as channel:
        works: Any = [WorkerServiceStub(channel).Work(metadata=auth()) for _ in range(300)]
        await asyncio.gather(*(work.write(hello) for work in works))
        polls: Any = [
            TaskServiceStub(channel).ClaimTask(pb.ClaimTaskRequest(commands=["NONE"], wait_seconds=30), metadata=auth())
            for _ in range(300)
        ]
        held = asyncio.gather(*polls, return_exceptions=True)
        await create_many(server, "MIX", 2000)
        yield
        for call in (*works, *polls):
            call.cancel()
        await held


Part = Callable[[ServerProcess], AbstractAsyncContextManager[None]]
PARTS: tuple[Part, ...] = (silent, speaking_http2, unfinished_heads, bodies_without_token, watches, users)
MIXES: tuple[tuple[Part, ...], ...] = (
    *((part,) for part in PARTS),
    *itertools.combinations((unfinished_heads, bodies_without_token, watches), 2),
    (silent, users),
    (speaking_http2, unfinished_heads, users),
    PARTS,
)


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: "+".join(part.__name__ for part in mix))
async def test_server_stays_within_its_memory_limit_under_any_mix_of_strangers(
    served: ServerProcess, mix: tuple[Part, ...]
) -> None:
    most = 0.0
    async with AsyncExitStack() as stack:
        for part in mix:
            await stack.enter_async_context(part(served))
            most = max(most, rss_mb(served))
        async with httpx.AsyncClient(timeout=20) as client:
            for _ in range(SECONDS * 2):
                most = max(most, rss_mb(served))
                with suppress(httpx.TransportError):
                    await client.get(f"{served.http_url}/healthz")
                await asyncio.sleep(0.25)
    print(f"{most:.0f} MB")
    assert most < RSS_MB_MAX
    assert served.is_running
