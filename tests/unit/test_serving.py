"""Successive leaderships on one store: the old leadership decides nothing more, and all its callers are answered."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from codeq import reasons
from codeq.v1 import error_pb2, producer_service_pb2, server_service_pb2, task_pb2, worker_service_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq_gateway.bodies import InFlight
from codeq_internal.v1 import shard_create_pb2
from codeq_server import is_compiled
from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.claims import WORKER_SCOPES, Claims
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.shard import ShardSettings
from codeq_server.engine import runner as runner_module
from codeq_server.engine.backups import Backups
from codeq_server.services.auditing import Act
from codeq_server.services.calls import Calls
from codeq_server.services.elsewhere import CREATE_ON_SHARD
from codeq_server.services.grpc_front import status_of
from codeq_server.services.local_dispatch import failed
from codeq_server.services.server_info import ServerService
from codeq_server.services.serving import Serving
from codeq_server.services.shard_table import ShardTable
from codeq_server.services.stream_token import StreamToken
from codeq_server.storage.memory import MemoryStore
from codeq_server.storage.rocks import RocksStore
from google.rpc import error_details_pb2
from held_log import HeldRunner, turns, until
from tenant_tokens import TenantTokens

LEADER = {"leader": "two", "leaderHttp": "http://two:8080", "leaderGrpc": "two:9092"}
ELSEWHERE = Rejection(Reason.NOT_LEADER, "another node leads", metadata=LEADER)
SCOPES = WORKER_SCOPES
CREATE = pb.CreateTaskRequest(spec=task_pb2.TaskSpec(command="a", payload=b"1"))


CLAIMS = Claims("w", "acme", SCOPES, frozenset({"*"}), "USER", is_admin=False)


async def no_renewal(_: str) -> Claims:
    raise Rejection(Reason.UNAUTHENTICATED, "invalid token")


class Client:
    """The client end of a stream."""

    def __init__(self, *messages: Any) -> None:
        self._messages = list(messages)
        self.received: list[Any] = []
        self.reads = True

    async def read(self) -> Any:
        if not self._messages:
            await asyncio.get_running_loop().create_future()
        return self._messages.pop(0)

    async def write(self, message: Any) -> None:
        if not self.reads:
            await asyncio.get_running_loop().create_future()
        if isinstance(message, bytes):
            message = worker_service_pb2.WorkResponse.FromString(message)
        self.received.append(message)

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def notices(self) -> list[Any]:
        return [message.notice for message in self.received if message.HasField("notice")]


@pytest.fixture
async def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def runner(store: MemoryStore) -> HeldRunner:
    return HeldRunner(store=store)


@pytest.fixture
def serving(runner: HeldRunner) -> Serving:
    return serving_of(runner)


@pytest.fixture
def calls(serving: Serving) -> Calls:
    made = Calls(Authenticator(TenantTokens(), TenantTokens()), ShardTable(ELSEWHERE.again))
    made.shards.present(serving)
    return made


def serving_of(runner: HeldRunner) -> Serving:
    return Serving(runner, None, lease_seconds=60, artifact_bytes_max=0)


def started(calls: Calls, method: str, request: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(calls.call(f"/codeq.v1.TaskService/{method}", request, "Bearer acme"))


def lead_elsewhere(calls: Calls, serving: Serving) -> None:
    calls.shards.present(None)
    serving.end(ELSEWHERE)


async def refusal_of(task: asyncio.Task[Any]) -> Rejection:
    with pytest.raises((Rejection, BaseExceptionGroup)) as raised:
        await task
    problem: BaseException = raised.value
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    assert isinstance(problem, Rejection)
    return problem


async def reason_of(task: asyncio.Task[Any]) -> Reason:
    return (await refusal_of(task)).reason


async def create(calls: Calls, runner: HeldRunner) -> str:
    """Creates a task and waits until it is durable."""
    creating = started(calls, "CreateTask", CREATE)
    await until(lambda: runner.shard.in_flight)
    runner.log.release()
    return str((await creating).task.id)


# -- unary calls -------------------------------------------------------------------------------------------------


async def test_call_that_decided_something_gets_outcome_unknown(
    calls: Calls, serving: Serving, runner: HeldRunner
) -> None:
    sent = started(calls, "CreateTask", CREATE)
    await until(lambda: runner.shard.in_flight)
    unsent = started(calls, "CreateTask", CREATE)
    await turns()
    lead_elsewhere(calls, serving)
    assert [await reason_of(sent), await reason_of(unsent)] == [Reason.OUTCOME_UNKNOWN] * 2


async def test_calls_that_decided_nothing_get_the_rejection(
    calls: Calls, serving: Serving, runner: HeldRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = await create(calls, runner)
    claimed = started(calls, "ClaimTask", pb.ClaimTaskRequest())
    await until(lambda: runner.shard.in_flight)
    waiting = [
        started(calls, "ClaimTask", pb.ClaimTaskRequest(commands=["b"], wait_seconds=30)),
        started(calls, "GetTaskResult", pb.GetTaskResultRequest(task_id=task_id, wait_seconds=30)),
        started(calls, "GetTask", pb.GetTaskRequest(task_id=task_id)),
        started(calls, "NackTask", pb.NackTaskRequest(task_id="missing")),
    ]
    await until(lambda: len(runner.waiting) == 1 and runner.shard.watched)
    await turns()
    monkeypatch.setattr(runner_module, "BATCH_ROWS_MAX", -1)
    waiting.append(started(calls, "CreateTask", CREATE))
    await turns()
    assert not any(task.done() for task in waiting)
    lead_elsewhere(calls, serving)
    for task in waiting:
        refusal = await refusal_of(task)
        assert (refusal.reason, refusal.metadata) == (Reason.NOT_LEADER, LEADER)
    assert await reason_of(claimed) is Reason.OUTCOME_UNKNOWN


async def test_woken_claim_without_a_reply_gets_outcome_unknown(
    calls: Calls, serving: Serving, runner: HeldRunner
) -> None:
    waiting = started(calls, "ClaimTask", pb.ClaimTaskRequest(wait_seconds=30))
    await until(lambda: len(runner.waiting))
    runner.create()
    runner.changed()
    while not runner.shard.totals.claimed:  # noqa: ASYNC110 - turn by turn
        await asyncio.sleep(0)
    lead_elsewhere(calls, serving)
    assert await reason_of(waiting) is Reason.OUTCOME_UNKNOWN


@pytest.mark.parametrize("stops", [True, False], ids=["stops", "leads-elsewhere"])
@pytest.mark.parametrize("name", ["/codeq.v1.TaskService/BatchCreateTasks", CREATE_ON_SHARD])
async def test_creates_that_end_halfway_get_outcome_unknown(
    calls: Calls, serving: Serving, runner: HeldRunner, name: str, stops: bool
) -> None:
    batch = pb.BatchCreateTasksRequest(tasks=[CREATE.spec] * 1000)
    frame = producer_service_pb2.ProduceRequest(tasks=batch.tasks).SerializeToString()
    request = batch if name != CREATE_ON_SHARD else shard_create_pb2.CreateOnShardRequest(frame=frame)
    runner.log.free = stops
    creating = asyncio.create_task(calls.call(name, request, "Bearer acme"))
    while not runner.shard.totals.created:  # noqa: ASYNC110 - turn by turn
        await asyncio.sleep(0)
    assert runner.shard.totals.created < len(batch.tasks)
    if stops:
        await serving.close()
    else:
        lead_elsewhere(calls, serving)
    assert await reason_of(creating) is Reason.OUTCOME_UNKNOWN


async def test_interrupted_cleanup_gets_outcome_unknown_only_if_it_removed_something(store: MemoryStore) -> None:
    reasons_told = []
    for epoch, steps in ((7, 1), (8, 0)):
        runner = HeldRunner(ShardSettings(), store=store, epoch=epoch)
        runner.log.free = True
        serving = serving_of(runner)
        calls = Calls(Authenticator(TenantTokens(), TenantTokens()), ShardTable(ELSEWHERE.again))
        calls.shards.present(serving)
        for _ in range(2):  # each end gets its own batch, so that the cleanup takes one step for each
            task_id = (await started(calls, "CreateTask", CREATE)).task.id
            await started(calls, "ClaimTask", pb.ClaimTaskRequest())
            done = pb.SubmitResultRequest(task_id=task_id, status=task_pb2.TASK_STATUS_COMPLETED)
            await started(calls, "SubmitResult", done)
        cleaning = asyncio.create_task(
            serving.handlers["/codeq.v1.TaskService/CleanupTasks"](
                Claims("acme", "acme", SCOPES, frozenset({"*"}), "ADMIN", is_admin=True),
                cleanup_of_everything(runner),
                Act("CleanupTasks", pb.CleanupTasksRequest(), subject="acme", tenant="acme", origin=""),
            )
        )
        while steps and not runner.shard.totals.removed:  # noqa: ASYNC110 - turn by turn
            await asyncio.sleep(0)
        lead_elsewhere(calls, serving)
        reasons_told.append(await reason_of(cleaning))
    assert reasons_told == [Reason.OUTCOME_UNKNOWN, Reason.NOT_LEADER]


def cleanup_of_everything(runner: HeldRunner) -> pb.CleanupTasksRequest:
    request = pb.CleanupTasksRequest()
    request.before.FromMilliseconds(runner.clock.wall + 10**12)
    return request


async def test_calls_from_the_previous_leadership_do_not_affect_the_next(
    calls: Calls, serving: Serving, runner: HeldRunner, store: MemoryStore
) -> None:
    task_id = await create(calls, runner)
    old = [
        started(calls, "ClaimTask", pb.ClaimTaskRequest()),
        started(calls, "ClaimTask", pb.ClaimTaskRequest(commands=["b"], wait_seconds=30)),
        started(calls, "CreateTask", CREATE),
    ]
    await until(lambda: runner.shard.in_flight and len(runner.waiting))
    lead_elsewhere(calls, serving)
    with pytest.raises(Rejection) as refused:
        await calls.call("/codeq.v1.TaskService/CreateTask", CREATE, "Bearer acme")
    assert refused.value.metadata == LEADER
    following = HeldRunner(store=store, epoch=8)
    following.log.free = True
    calls.shards.present(serving_of(following))
    rows = store.scan(b"", b"\xff", 1000)
    assert [await reason_of(task) for task in old] == [
        Reason.OUTCOME_UNKNOWN,
        Reason.NOT_LEADER,
        Reason.OUTCOME_UNKNOWN,
    ]
    await serving.close()
    await turns()
    assert store.scan(b"", b"\xff", 1000) == rows
    assert following.shard.totals.created == 0
    claimed = await started(calls, "ClaimTask", pb.ClaimTaskRequest())
    assert claimed.task.id == task_id
    assert runner.shard.totals.claimed == 1
    assert following.shard.totals.claimed == 1
    assert (runner.fatal, following.fatal) == ([], [])


def server_service(calls: Calls, backups: Backups | None) -> ServerService:
    return ServerService(
        version="1",
        mode="raft",
        fsync=True,
        persistence_provider="rocksdb",
        num_shards=1,
        backups=backups,
        settled=calls.settled,
        on_trouble=lambda *_: None,
    )


async def test_backup_is_rejected_when_another_server_leads(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "store", fsync=False)
    calls = Calls(Authenticator(TenantTokens(), TenantTokens()), ShardTable(ELSEWHERE.again))
    calls.register("codeq.v1.ServerService", server_service(calls, Backups(store, None, tmp_path)))
    request = server_service_pb2.BackUpRequest(name="b")
    with pytest.raises(Rejection) as refused:
        await calls.call("/codeq.v1.ServerService/BackUp", request, "Bearer acme")
    assert refused.value.reason is Reason.NOT_LEADER
    assert not (tmp_path / "b").exists()
    store.close()


async def test_calls_about_the_node_succeed_whichever_node_serves_the_shard() -> None:
    calls = Calls(Authenticator(TenantTokens(), TenantTokens()), ShardTable(ELSEWHERE.again))
    service = server_service(calls, None)
    calls.register("codeq.v1.ServerService", service)
    name = "/codeq.v1.ServerService/GetServerInfo"
    info = await calls.call(name, server_service_pb2.GetServerInfoRequest(), "Bearer acme")
    assert isinstance(info, server_service_pb2.GetServerInfoResponse)
    assert info.server.compiled is is_compiled()
    assert info.server.mode == "raft"


# -- streams -----------------------------------------------------------------------------------------------------


def open_streams(serving: Serving) -> list[tuple[Client, asyncio.Task[None]]]:
    """Opens a producer stream with an unacked frame, and a worker stream with a task not yet pushed."""
    token = StreamToken(CLAIMS, no_renewal, time.time)
    frame = producer_service_pb2.ProduceRequest(
        hello=producer_service_pb2.ProducerHello(), tasks=[task_pb2.TaskSpec(command="a", payload=b"1")]
    )
    more = worker_service_pb2.WorkRequest(hello=worker_service_pb2.WorkerHello(), add_credits=5)
    producer, worker = Client(frame), Client(more)
    return [
        (producer, asyncio.create_task(serving.produce(token, producer, InFlight()))),
        (worker, asyncio.create_task(serving.work(token, worker))),
    ]


async def test_streams_learn_the_new_leader_and_are_rejected_a_moment_later(
    serving: Serving, runner: HeldRunner
) -> None:
    streams = open_streams(serving)
    await until(lambda: runner.shard.totals.claimed)
    serving.end(ELSEWHERE)
    await until(lambda: all(client.notices() for client, _ in streams))
    await turns()
    assert not any(stream.done() for _, stream in streams)
    for client, stream in streams:
        (notice,) = client.notices()
        assert notice.reason == error_pb2.ERROR_REASON_NOT_LEADER
        assert (notice.leader, notice.grace_ms > 0) == (LEADER["leaderGrpc"], True)
        refusal = await refusal_of(stream)
        assert (refusal.reason, refusal.metadata) == (Reason.NOT_LEADER, LEADER)
        assert [message.HasField("welcome") for message in client.received] == [True, False]
    assert len(serving.streams) == 0


async def test_stream_ends_even_if_its_client_reads_nothing(serving: Serving, runner: HeldRunner) -> None:
    streams = open_streams(serving)
    await until(lambda: runner.shard.totals.claimed)
    for client, _ in streams:
        client.reads = False
    serving.end(ELSEWHERE)
    assert [await reason_of(stream) for _, stream in streams] == [Reason.NOT_LEADER] * 2


async def test_stream_opened_after_the_leadership_ended_is_rejected(serving: Serving) -> None:
    serving.end(ELSEWHERE)
    for _, stream in open_streams(serving):
        refusal = await refusal_of(stream)
        assert (refusal.reason, refusal.metadata) == (Reason.NOT_LEADER, LEADER)


async def test_drain_notifies_streams_of_the_next_leader(serving: Serving) -> None:
    streams = open_streams(serving)
    await until(lambda: len(serving.streams) == 2)
    serving.drain(1500, "two:9092")
    await until(lambda: all(client.notices() for client, _ in streams))
    for client, stream in streams:
        (notice,) = client.notices()
        assert (notice.reason, notice.grace_ms, notice.leader) == (
            error_pb2.ERROR_REASON_DRAINING,
            1500,
            "two:9092",
        )
        stream.cancel()
    await asyncio.wait([stream for _, stream in streams])


# -- what the front ends report ----------------------------------------------------------------------------------


def test_rejection_carries_its_metadata_over_grpc_and_to_the_gateway() -> None:
    info = error_details_pb2.ErrorInfo()
    status_of(ELSEWHERE).details[0].Unpack(info)
    assert (info.reason, dict(info.metadata)) == ("NOT_LEADER", LEADER)
    failure = failed(ELSEWHERE)
    assert (failure.reason, failure.metadata) == (error_pb2.ERROR_REASON_NOT_LEADER, LEADER)
    reason = reasons.BY_NUMBER[error_pb2.ERROR_REASON_NOT_LEADER]
    assert (reason.grpc_name, reason.http_status, reason.retryable) == ("UNAVAILABLE", 503, True)
