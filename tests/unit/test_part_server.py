"""Parts of a worker's stream between processes, over gRPC: who may open them, and how they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from codeq.v1 import task_pb2
from codeq_internal.v1 import shard_work_pb2 as pb
from codeq_server.auth.claims import WORKER_SCOPES, Claims
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.ids import shard_of
from codeq_server.services.internal_callers import Owner
from codeq_server.services.part_links import GrpcLink, LinkEndedError
from codeq_server.services.part_server import PartServer
from codeq_server.services.stream_token import StreamToken
from held_log import until
from several_shards import Installation
from shard_fleet import no_renewal
from stream_client import Client

SECRET = "secret of the processes"
CLAIMS = Claims("acme", "acme", WORKER_SCOPES, frozenset({"*"}), "USER", is_admin=False)


class Linked:
    """The way of the process of shard 0 to shard 1, which is reached over gRPC."""

    count = 2
    mine = 0

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self.metadata = Owner(0, 2, SECRET).says_to

    def shard_of(self, task_id: str) -> int:
        return shard_of(task_id, self.count)

    def channel(self, shard: int) -> grpc.aio.Channel:
        assert shard == 1
        return self._channel

    async def call(self, *_: Any, **__: Any) -> Any:
        raise AssertionError


@asynccontextmanager
async def linked(installation: Installation) -> AsyncIterator[Linked]:
    """Serves the parts of shard 1."""
    server = grpc.aio.server()
    known: list[str] = []
    PartServer(installation.calls[1], Owner(1, 2, SECRET), known.append, lambda *_: None).register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Linked(channel)
    await server.stop(0)


@asynccontextmanager
async def working(installation: Installation, shards: Linked) -> AsyncIterator[tuple[Client, asyncio.Task[None]]]:
    client = Client("work")
    token = StreamToken(CLAIMS, no_renewal, time.time, "acme")
    stream = asyncio.create_task(installation.calls[0].shards.current().work(token, client, shards))
    await until(lambda: client.received)
    yield client, stream
    stream.cancel()
    await asyncio.gather(stream, return_exceptions=True)


async def test_worker_gets_tasks_of_another_process_and_gives_its_leases_back() -> None:
    installation = Installation(2)
    async with linked(installation) as shards, working(installation, shards) as (client, stream):
        ids = {await installation.create(process) for process in (0, 1, 1)}
        client.send(add_credits=5)
        await until(lambda: len(client.tasks) == 3)
        assert {task.id for task in client.tasks} == ids
        task = client.tasks[0]
        kind = task_pb2.OUTCOME_KIND_COMPLETED
        client.send(outcomes=[task_pb2.Outcome(task_id=task.id, lease_token=task.lease_token, kind=kind, result=b"1")])
        client.half_close()
        async with asyncio.timeout(10):
            await stream
        assert sum(message.settled for message in client.received) == 1
        assert installation.leased == 0


async def test_broken_call_keeps_the_leases_in_the_other_process() -> None:
    installation = Installation(2)
    async with linked(installation) as shards:
        async with working(installation, shards) as (client, _):
            await installation.create(1)
            client.send(add_credits=5)
            await until(lambda: client.tasks)
        assert installation.leased == 1
        await until(lambda: not installation.waiting)


@pytest.mark.parametrize(("secret", "tenant"), [("guess", "acme"), (SECRET, "")])
async def test_part_is_refused_without_the_secret_or_a_valid_token(secret: str, tenant: str) -> None:
    installation = Installation(2)
    async with linked(installation) as shards:
        link = GrpcLink(shards.channel(1), Owner(0, 2, secret).says_to(1))
        caller = pb.ShardCaller(authorization=f"Bearer {tenant}".strip())
        with suppress(LinkEndedError):  # the shard may be faster
            await link.write(pb.WorkOnShardRequest(hello=pb.ShardWorkHello(caller=caller)))
        with pytest.raises(Rejection) as refused:
            await link.read()
        assert refused.value.reason is Reason.UNAUTHENTICATED


@pytest.mark.parametrize(("shard", "count", "wanted"), [(0, 2, 0), (1, 2, 1), (0, 3, 1)])
async def test_part_for_another_owner_is_refused(shard: int, count: int, wanted: int) -> None:
    async with linked(Installation(2)) as shards:
        with pytest.raises(Rejection) as refused:
            await GrpcLink(shards.channel(1), Owner(shard, count, SECRET).says_to(wanted)).read()
        assert refused.value.reason is Reason.BAD_HANDSHAKE
        assert "this is shard 1 of 2" in refused.value.message


async def test_process_that_does_not_listen_is_unreachable() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        with pytest.raises(Rejection) as refused:
            await GrpcLink(channel, ()).read()
        assert refused.value.reason is Reason.SERVER_UNREACHABLE
