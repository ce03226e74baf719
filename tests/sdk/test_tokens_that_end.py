"""A server and the SDK with tokens that expire after two seconds: work continues while the tokens are renewed.

`make soak` sets CODEQ_TOKEN_SECONDS and CODEQ_TOKEN_RENEWALS, for tokens that live longer and are renewed more often.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import codeq
import grpc
import pytest
from codeq.v1 import task_pb2, task_service_pb2
from codeq.v1 import worker_service_pb2 as pb
from codeq_gateway.bodies import InFlight
from codeq_server.auth.authenticator import Authenticator, Validation
from codeq_server.auth.claims import WORKER_SCOPES, Token
from codeq_server.core import recovery
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.shard import ShardSettings
from codeq_server.engine.runner import ShardRunner, system_clock
from codeq_server.node.listeners import new_server
from codeq_server.replication.local import LocalLog
from codeq_server.services.calls import Calls
from codeq_server.services.grpc_front import GrpcFront
from codeq_server.services.serving import Serving
from codeq_server.services.shard_table import ShardTable
from codeq_server.storage.memory import MemoryStore
from waiting import eventually
from worker_runs import running

LIFE_SECONDS = float(os.environ.get("CODEQ_TOKEN_SECONDS", "2"))
RENEWALS = int(os.environ.get("CODEQ_TOKEN_RENEWALS", "3"))
"""How often each stream renews its token."""
LEASE_SECONDS = 2
LONG_SECONDS_MAX = 20 + LIFE_SECONDS * RENEWALS


class Issuer:
    """Issues tokens with an expiry, and validates them with a delay, like an issuer whose key is fetched."""

    def __init__(self) -> None:
        self.issued = 0
        self.refused = 0
        self.validated = 0
        self.ahead = 0.0
        self.is_open = True

    def token(self) -> str:
        if not self.is_open:
            self.refused += 1
            raise OSError("the issuer is closed")
        self.issued += 1
        return f"{self.issued}:{time.time() + LIFE_SECONDS}"

    def clock(self) -> float:
        """Returns the Unix time of the server."""
        return time.time() + self.ahead

    def validate(self, token: str) -> Validation:
        return lambda: self._validate(token)

    async def _validate(self, token: str) -> Token | None:
        await asyncio.sleep(0)
        self.validated += 1
        number, _, expires_at = token.partition(":")
        if not number.isdecimal():
            return None
        return Token("w", "", WORKER_SCOPES, frozenset({"*"}), {"tenantId": "acme"}, float(expires_at))


@asynccontextmanager
async def served(issuer: Issuer, problems: list[BaseException]) -> AsyncIterator[str]:
    """Serves a shard in memory on a free port; yields the address."""
    store = MemoryStore()
    shard = recovery.open_shard(store, ShardSettings(), 1, *system_clock())
    runner = ShardRunner(shard, LocalLog(store), system_clock, random.random, problems.append)
    authenticator = Authenticator(issuer, issuer, clock=issuer.clock)
    calls = Calls(authenticator, ShardTable(lambda: Rejection(Reason.NOT_LEADER, "elsewhere")))
    calls.shards.present(Serving(runner, None, lease_seconds=60, artifact_bytes_max=0))
    front = GrpcFront(calls, InFlight(), lambda _: None, None, lambda _, problem: problems.append(problem))
    server = new_server(64)
    front.register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
        await runner.close()


async def test_worker_and_producer_renew_their_tokens_on_one_stream_each() -> None:
    issuer, problems = Issuer(), list[BaseException]()
    may_end = threading.Event()
    async with served(issuer, problems) as address:
        worker = codeq.AsyncWorker(address, token=issuer.token, concurrency=8)
        async with (
            codeq.AsyncProducer(address, token=issuer.token) as producer,
            running(worker, lambda task: may_end.wait(LONG_SECONDS_MAX) if task.payload == "long" else None),
        ):
            await producer.create("X", "long")
            await eventually(lambda: worker.stats.received == 1)
            created = 1
            while issuer.issued < 2 * (1 + RENEWALS):
                await producer.create("X", created)
                created += 1
            may_end.set()
            await eventually(lambda: worker.stats.settled == created)
        assert worker.stats == codeq.WorkerStats(streams=1, received=created, settled=created)
        assert issuer.validated < 100
    assert problems == []


async def test_worker_that_does_not_renew_its_token_gets_a_notice_and_its_task_returns_with_the_lease() -> None:
    issuer, problems = Issuer(), list[BaseException]()
    async with (
        served(issuer, problems) as address,
        codeq.AsyncClient(address, token=issuer.token) as client,
        grpc.aio.insecure_channel(address) as channel,
    ):
        made = await client.create("X", 1)
        work = channel.stream_stream(
            "/codeq.v1.WorkerService/Work",
            request_serializer=pb.WorkRequest.SerializeToString,
            response_deserializer=pb.WorkResponse.FromString,
        )
        stream = work(metadata=(("authorization", f"Bearer {issuer.token()}"),))
        began = time.monotonic()
        await stream.write(pb.WorkRequest(hello=pb.WorkerHello(lease_seconds=LEASE_SECONDS), add_credits=1))
        seen: list[pb.WorkResponse] = []

        async def read() -> None:
            while (response := await stream.read()) is not grpc.aio.EOF:
                seen.append(response)

        with pytest.raises(grpc.aio.AioRpcError, match="the token has expired") as caught:
            await read()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert time.monotonic() - began > LIFE_SECONDS / 2
        (task,) = [task for response in seen for task in response.tasks]
        (notice,) = [response.notice for response in seen if response.HasField("notice")]
        assert (task.id, task.attempts) == (made.id, 1)
        assert 0 < notice.grace_ms <= LIFE_SECONDS * 500
        again: list[codeq.Task] = []
        while not again:
            again = await client.claim(wait=1)
        assert [(each.id, each.attempts) for each in again] == [(made.id, 2)]
    assert problems == []


async def test_error_for_an_expired_token_says_when_it_expired() -> None:
    issuer, problems = Issuer(), list[BaseException]()
    token = issuer.token()
    async with served(issuer, problems) as address, codeq.AsyncClient(address, token=token) as client:
        await client.create("X", 1)
        (task,) = await client.claim(count=1)
        issuer.ahead = LIFE_SECONDS
        for attempt in (client.heartbeat(task.id), client.complete(task.id, 1), client.get(task.id)):
            with pytest.raises(codeq.Unauthenticated, match="the token has expired") as caught:
                await attempt
            assert caught.value.metadata["expiredAt"].endswith("Z")
    assert problems == []


async def test_worker_keeps_its_task_while_the_token_issuer_is_down() -> None:
    issuer, problems = Issuer(), list[BaseException]()
    may_end = threading.Event()
    async with served(issuer, problems) as address:
        worker = codeq.AsyncWorker(address, token=issuer.token)
        async with (
            running(worker, lambda _: may_end.wait(20)),
            codeq.AsyncClient(address, token=issuer.token) as client,
        ):
            await client.create("X", 1)
            await eventually(lambda: worker.stats.received == 1)
            issuer.is_open = False
            await eventually(lambda: issuer.refused >= 10)
            issuer.is_open = True
            await eventually(lambda: worker.stats.streams == 2)
            may_end.set()
            await eventually(lambda: worker.stats.settled == 1)
        assert (worker.stats.received, worker.stats.lost) == (1, 0)
    assert problems == []


async def test_call_whose_token_expires_before_its_message_has_no_effect() -> None:
    issuer, problems = Issuer(), list[BaseException]()
    async with served(issuer, problems) as address, grpc.aio.insecure_channel(address) as channel:
        create = channel.stream_unary("/codeq.v1.TaskService/CreateTask")
        call = create(metadata=(("authorization", f"Bearer {issuer.token()}"),))
        await call.wait_for_connection()
        await eventually(lambda: issuer.validated == 2)
        issuer.ahead = LIFE_SECONDS
        spec = task_pb2.TaskSpec(command="X")
        await call.write(task_service_pb2.CreateTaskRequest(spec=spec).SerializeToString())
        await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError, match="the token has expired"):
            await call
    assert problems == []
