"""Replies that become ready together are bounded like those that come one after the other."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc
from codeq.v1 import task_service_pb2 as pb
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from codeq_gateway.bodies import InFlight
from codeq_server.auth.authenticator import Authenticator
from codeq_server.core.errors import Reason, Rejection
from codeq_server.node.listeners import new_server
from codeq_server.services.calls import Calls
from codeq_server.services.grpc_front import GrpcFront
from codeq_server.services.serving import Serving
from codeq_server.services.shard_table import ShardTable
from codeq_server.services.unread import CONNECTION_BYTES_MAX
from held_log import HeldRunner, turns, until
from tenant_tokens import TenantTokens

CALLS = 60
PAYLOAD_BYTES = 1_000_000
METADATA = (("authorization", "Bearer acme"),)


async def test_reads_that_waited_together_are_refused_beyond_the_limit() -> None:
    runner = HeldRunner()
    elsewhere = Rejection(Reason.NOT_LEADER, "another node leads")
    calls = Calls(Authenticator(TenantTokens(), TenantTokens()), ShardTable(elsewhere.again))
    calls.shards.present(Serving(runner, None, lease_seconds=60, artifact_bytes_max=0))
    server = new_server(10)
    arrived: list[str] = []
    GrpcFront(calls, InFlight(), arrived.append, None, lambda *_: None).register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = TaskServiceStub(channel)
        task_id = runner.create(size=PAYLOAD_BYTES)
        runner.changed()
        await until(lambda: runner.log.batches)  # in flight, and held: reads wait for it

        async def read() -> str:
            try:
                await stub.GetTask(pb.GetTaskRequest(task_id=task_id), metadata=METADATA)
            except grpc.aio.AioRpcError as error:
                return str(error.details())
            return "answered"

        reads = [asyncio.create_task(read()) for _ in range(CALLS)]
        await until(lambda: len(arrived) == CALLS)
        await turns()
        runner.log.release()
        found = Counter(await asyncio.gather(*reads))
    await server.stop(None)
    most = -(-CONNECTION_BYTES_MAX // PAYLOAD_BYTES)
    assert found == {"answered": most, "too many unread replies": CALLS - most}
