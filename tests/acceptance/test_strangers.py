"""Thousands of connections without a token on every port of a server with 1024 open files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from bare_streams import auth, produce, producing, settle, take, working
from codeq.v1 import task_pb2
from codeq.v1.task_service_pb2 import CreateTaskRequest
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from server_process import ServerProcess
from strangers import HEALTH, HTTP2, LIMITED, strangers

COUNT = 3000
"""Connections on each port."""

ENTRY_SECONDS = 5
"""Time within which a client with a token must be served."""

ROUNDS = 3
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server limited to 1024 open files, which must still be healthy at the end."""
    env = {"BACKUP_DIR": str(tmp_path / "backups"), "LOG_LEVEL": "debug"}
    with ServerProcess(tmp_path / "server", env=env, prefix=LIMITED) as server:
        yield server
        print(server.log[-5000:])
        assert server.stop() == 0


def ports_of(server: ServerProcess) -> list[int]:
    return [int(address.rpartition(":")[2]) for address in (server.http_url, server.worker_addr, server.producer_addr)]


async def create_by_rest(client: httpx.AsyncClient, command: str) -> None:
    answer = await client.post("/v1/codeq/tasks", json={"command": command, "payload": 1})
    assert answer.status_code == 202, answer.text


async def create_by_grpc(address: str, command: str) -> None:
    """Creates a task over a new connection, which is opened again as long as it is rejected."""
    request = CreateTaskRequest(spec=task_pb2.TaskSpec(command=command, payload=b"1"))
    async with grpc.aio.insecure_channel(address, options=OWN_CONNECTION) as channel:
        while True:
            with suppress(grpc.aio.AioRpcError):
                await TaskServiceStub(channel).CreateTask(request, metadata=auth(), wait_for_ready=True)
                return


async def create_by_new_rest(server: ServerProcess, command: str) -> None:
    """Creates a task over a new connection, which is opened again as long as it is rejected."""
    while True:
        async with client_of(server) as client:
            with suppress(httpx.TransportError):
                return await create_by_rest(client, command)


@asynccontextmanager
async def client_of(server: ServerProcess) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": "Bearer dev-token"}
    async with httpx.AsyncClient(base_url=server.http_url, headers=headers, timeout=ENTRY_SECONDS) as client:
        yield client


async def complete_one(producer: Any, worker: Any, command: str) -> None:
    """Creates and completes a task over open streams."""
    ack = await produce(producer, [task_pb2.TaskSpec(command=command, payload=b"1")])
    assert not ack.errors
    [task] = await take(worker, 1)
    outcome = task_pb2.Outcome(
        task_id=task.id, lease_token=task.lease_token, kind=task_pb2.OUTCOME_KIND_COMPLETED, result=b"1"
    )
    assert await settle(worker, [outcome]) == []


@pytest.mark.parametrize("greeting", [b"", HTTP2, HEALTH], ids=["silent", "http2", "http"])
async def test_idle_connections_without_a_token_do_not_lock_out_clients(
    crowded: ServerProcess, greeting: bytes
) -> None:
    async with client_of(crowded) as client, producing(crowded) as producer, working(crowded, "THERE") as worker:
        await create_by_rest(client, "REST")
        await complete_one(producer, worker, "THERE")
        with strangers(ports_of(crowded), COUNT, greeting) as crowd:
            await crowd.come()
            for number in range(ROUNDS):
                async with asyncio.timeout(ENTRY_SECONDS):  # earlier clients continue
                    await create_by_rest(client, "REST")
                    await complete_one(producer, worker, "THERE")
                async with asyncio.timeout(ENTRY_SECONDS), asyncio.TaskGroup() as newcomers:
                    newcomers.create_task(create_by_new_rest(crowded, "NEW"))
                    newcomers.create_task(create_by_grpc(crowded.worker_addr, "NEW"))
                    newcomers.create_task(create_by_grpc(crowded.producer_addr, "NEW"))
                answer = await client.post("/v1/codeq/admin/backup", json={"name": f"b{number}"}, timeout=60)
                assert answer.status_code == 200, answer.text  # the store opens files
        assert crowded.is_running
