"""A standalone gateway and servers that disconnect, lead, or cannot be reached."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import grpc.aio
import pytest
from codeq.v1 import error_pb2, task_service_pb2
from codeq_gateway import refusals
from codeq_gateway.dispatch import LEADER_GRPC, Call, CallFailed
from codeq_gateway.links import SECRET_KEY, Messages, NotSentError, failed, open_channel
from codeq_gateway.reflection import SchemaError, read_schema
from codeq_gateway.remote import Forwarder, RemoteDispatcher
from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection
from other_versions import files_of_calls, pool_of
from served_gateway import serving, until
from stream_server import SECRET, StreamServer, remote
from task_double import SERVICES, TaskDouble

LONG = 10.0
"""How long calls are retried in tests whose retries must not end."""


@pytest.fixture
async def server() -> AsyncIterator[tuple[TaskDouble, StreamServer]]:
    double = TaskDouble()
    async with StreamServer(double) as started:
        yield double, started
        double.released.set()


def creating(command: str = "A", *, repeatable: bool = False, timeout_seconds: float = 30) -> Call:
    request = task_service_pb2.CreateTaskRequest(spec={"command": command})
    return Call("/codeq.v1.TaskService/CreateTask", request, "Bearer t", "r", timeout_seconds, repeatable=repeatable)


def reading(task_id: str, consistency: str = "") -> Call:
    request = task_service_pb2.GetTaskRequest(task_id=task_id)
    return Call("/codeq.v1.TaskService/GetTask", request, "", "r", 30, consistency=consistency, repeatable=True)


def not_leading(metadata: Mapping[str, str]) -> CallFailed:
    return CallFailed(error_pb2.ERROR_REASON_NOT_LEADER, "not here", (), 1, metadata)


async def refusal(answer: asyncio.Future[Message] | asyncio.Task[Message]) -> int:
    with pytest.raises(CallFailed) as refused:
        await asyncio.wait_for(answer, 20)
    return refused.value.reason


async def test_calls_of_one_turn_share_a_frame(server: tuple[TaskDouble, StreamServer]) -> None:
    double, started = server
    async with remote(started.address) as (_, dispatcher):
        await dispatcher.call(creating())
        frames = started.streams.frames
        answers = await asyncio.gather(*(dispatcher.call(creating(f"C{number}")) for number in range(200)))
    assert started.streams.frames - frames == 1
    assert [answer.task.command for answer in answers] == [f"C{number}" for number in range(200)]
    assert [call.request.spec.command for call in double.calls[1:]] == [f"C{number}" for number in range(200)]


async def test_schema_lists_the_public_services_only(
    server: tuple[TaskDouble, StreamServer],
) -> None:
    async with open_channel(server[1].address) as channel:
        schema = await read_schema(channel)
    assert {service.full_name for service in schema.services} == {service.full_name for service in SERVICES}
    assert schema.pool.FindServiceByName("codeq_internal.v1.CallService").methods


async def test_server_without_call_streams_is_rejected() -> None:
    plain = grpc.aio.server()
    port = plain.add_insecure_port("127.0.0.1:0")
    reflection.enable_server_reflection(["codeq.v1.TaskService"], plain, descriptor_pool.DescriptorPool())
    await plain.start()
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(SchemaError, match=r"codeq\.v1\.TaskService"):
                await read_schema(channel)
    finally:
        await plain.stop(0)


async def test_rejection_keeps_all_its_details(server: tuple[TaskDouble, StreamServer]) -> None:
    double, started = server
    double.failure = CallFailed(error_pb2.ERROR_REASON_INVALID_FIELD, "bad", [("spec.priority", "too high")])
    async with remote(started.address) as (_, dispatcher):
        with pytest.raises(CallFailed) as refused:
            await dispatcher.call(creating())
    assert (refused.value.reason, refused.value.message) == (error_pb2.ERROR_REASON_INVALID_FIELD, "bad")
    assert list(refused.value.violations) == [("spec.priority", "too high")]
    assert refused.value.retry_after_seconds is None


async def test_call_waits_for_the_validation_of_its_token(server: tuple[TaskDouble, StreamServer]) -> None:
    double, started = server
    validated = asyncio.Event()
    asked = asyncio.Event()

    async def validate() -> None:
        asked.set()
        await validated.wait()

    double.admission = validate
    async with remote(started.address) as (_, dispatcher):
        waiting = asyncio.create_task(dispatcher.call(creating()))
        await asyncio.wait_for(asked.wait(), 10)
        assert double.calls == []
        validated.set()
        assert (await waiting).task.command == "A"


async def test_stale_read_is_forwarded(server: tuple[TaskDouble, StreamServer]) -> None:
    double, started = server
    async with remote(started.address) as (_, dispatcher):
        task = await dispatcher.call(creating())
        await dispatcher.call(reading(task.task.id, "stale"))
        await dispatcher.call(reading(task.task.id))
    assert [call.consistency for call in double.calls] == ["", "stale", ""]


async def test_gateway_follows_the_leader(server: tuple[TaskDouble, StreamServer]) -> None:
    """The configured server names another server that the gateway does not know."""
    follower, at = server
    leader = TaskDouble()
    async with StreamServer(leader) as leading, remote(at.address, retry_seconds=LONG) as (_, dispatcher):
        follower.failure = not_leading({LEADER_GRPC: leading.address})
        for _ in range(3):
            await dispatcher.call(creating())
    assert (len(follower.calls), len(leader.calls)) == (1, 3)


async def test_gateway_waits_for_a_leader(server: tuple[TaskDouble, StreamServer]) -> None:
    double, started = server
    double.failure = not_leading({})
    async with remote(started.address, retry_seconds=LONG) as (_, dispatcher):
        answer = asyncio.ensure_future(dispatcher.call(creating()))
        await until(lambda: len(double.calls) > 2)
        double.failure = None
        assert (await answer).task.command == "A"


async def test_missing_leader_is_reported(server: tuple[TaskDouble, StreamServer]) -> None:
    double, started = server
    double.failure = not_leading({})
    async with remote(started.address) as (_, dispatcher):
        assert await refusal(asyncio.ensure_future(dispatcher.call(creating()))) == error_pb2.ERROR_REASON_NOT_LEADER
    assert 1 < len(double.calls) < 20


async def test_servers_naming_each_other_as_leader_get_a_bounded_number_of_calls(
    server: tuple[TaskDouble, StreamServer],
) -> None:
    one, first = server
    other = TaskDouble()
    async with StreamServer(other) as second, remote(first.address, second.address) as (_, dispatcher):
        one.failure = not_leading({LEADER_GRPC: second.address})
        other.failure = not_leading({LEADER_GRPC: first.address})
        assert await refusal(asyncio.ensure_future(dispatcher.call(creating()))) == error_pb2.ERROR_REASON_NOT_LEADER
    assert len(one.calls) + len(other.calls) < 20


async def test_unreachable_server_is_reported_and_used_once_it_starts() -> None:
    double = TaskDouble()
    async with StreamServer(double) as first, open_channel(first.address) as channel:
        schema = await read_schema(channel)
    dispatcher = RemoteDispatcher([first.address], schema.pool, schema.services, SECRET, 0.3)
    try:
        call = asyncio.ensure_future(dispatcher.call(creating()))
        assert await refusal(call) == error_pb2.ERROR_REASON_SERVER_UNREACHABLE
        assert await dispatcher.readiness() == (False, {"server": None, "reason": "no server can be reached"})
        assert await dispatcher.metrics() == b""
        async with StreamServer(double, int(first.address.rpartition(":")[2])) as again:
            await until(lambda: dispatcher.is_up)
            await dispatcher.call(creating())
            assert await dispatcher.readiness() == (True, {"server": again.address, "fsync": True})
            assert await dispatcher.metrics() == b"double 1\n"
    finally:
        await dispatcher.close()
    assert len(double.calls) == 1


@pytest.mark.parametrize("repeatable", [False, True])
async def test_lost_call_is_retried_only_if_it_is_idempotent(*, repeatable: bool) -> None:
    first, second = TaskDouble(), TaskDouble()
    first.hold = True
    other = StreamServer(second)
    async with (
        StreamServer(first) as lost,
        remote(lost.address, other.address, retry_seconds=LONG) as (_, dispatcher),
    ):
        await until(lambda: dispatcher.is_up)
        answer = asyncio.ensure_future(dispatcher.call(creating(repeatable=repeatable)))
        await asyncio.wait_for(first.waiting.wait(), 10)
        async with other:
            await lost.stop()
            if repeatable:
                assert (await answer).task.command == "A"
            else:
                assert await refusal(answer) == error_pb2.ERROR_REASON_OUTCOME_UNKNOWN
    assert (len(first.calls), len(second.calls)) == (1, int(repeatable))


async def test_draining_server_answers_open_calls_and_new_ones_go_elsewhere() -> None:
    first, second = TaskDouble(), TaskDouble()
    first.hold = True
    other = StreamServer(second)
    async with (
        StreamServer(first) as leaving,
        remote(leaving.address, other.address, retry_seconds=LONG) as (_, dispatcher),
    ):
        await until(lambda: dispatcher.is_up)
        begun = asyncio.ensure_future(dispatcher.call(creating("BEGUN")))
        await asyncio.wait_for(first.waiting.wait(), 10)
        async with other:
            first.failure = CallFailed(error_pb2.ERROR_REASON_DRAINING, "stopping", (), 1)
            stopping = asyncio.ensure_future(leaving.drain())
            for number in range(20):
                await dispatcher.call(creating(f"NEXT{number}"))
            first.released.set()
            assert (await asyncio.wait_for(begun, 10)).task.command == "BEGUN"
            await asyncio.wait_for(stopping, 20)
    assert [call.request.spec.command for call in second.calls] == [f"NEXT{number}" for number in range(20)]


async def test_every_call_is_answered_while_streams_open_and_close() -> None:
    """Streams end during calls; no call may wait for a reply that cannot arrive."""
    doubles = [TaskDouble(), TaskDouble()]
    async with (
        StreamServer(doubles[0]) as one,
        StreamServer(doubles[1]) as other,
        remote(one.address, other.address, retry_seconds=LONG) as (_, dispatcher),
    ):

        async def create_many() -> None:
            for _ in range(60):
                await dispatcher.call(creating())
                await asyncio.sleep(0)

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(create_many())
            for _ in range(10):
                await asyncio.sleep(0.01)
                for server in (one, other):
                    server.streams.end()
                    server.streams._is_ending = False
    assert sum(len(double.calls) for double in doubles) == 1200


async def test_ended_stream_accepts_no_call(server: tuple[TaskDouble, StreamServer]) -> None:
    """A call made in the same turn of the loop in which its stream ends would never be answered."""
    _, started = server
    async with remote(started.address) as (_, dispatcher):
        await dispatcher.call(creating())
        link = dispatcher._links.to(started.address)
        stream = link._stream
        assert stream is not None
        await started.stop()
        await asyncio.wait_for(stream.closed.wait(), 10)
        with pytest.raises(NotSentError):
            stream.send(creating())
        assert not link.is_up


async def test_disconnected_caller_cancels_its_call(server: tuple[TaskDouble, StreamServer]) -> None:
    double, started = server
    double.hold = True
    async with remote(started.address) as (_, dispatcher):
        call = asyncio.ensure_future(dispatcher.call(creating()))
        await asyncio.wait_for(double.waiting.wait(), 10)
        call.cancel()
        await until(lambda: double.cancelled == 1)


async def test_disconnected_gateway_cancels_its_calls(server: tuple[TaskDouble, StreamServer]) -> None:
    double, started = server
    double.hold = True
    async with remote(started.address) as (_, dispatcher):
        calls = [asyncio.ensure_future(dispatcher.call(creating())) for _ in range(5)]
        await until(lambda: len(double.calls) == 5)
    await until(lambda: double.cancelled == 5)
    assert {await refusal(call) for call in calls} == {error_pb2.ERROR_REASON_OUTCOME_UNKNOWN}
    await until(lambda: len(started.streams) == 0)


async def test_uncancelled_call_ends_at_its_timeout(server: tuple[TaskDouble, StreamServer]) -> None:
    double, started = server
    double.hold = True
    async with remote(started.address) as (_, dispatcher):
        await until(lambda: dispatcher.is_up)  # connecting may take longer than the call
        call = asyncio.ensure_future(dispatcher.call(creating(timeout_seconds=0.1)))
        assert await refusal(call) == error_pb2.ERROR_REASON_DEADLINE_EXCEEDED
    assert double.cancelled == 1


async def test_internal_error_is_logged_by_the_server_and_hidden_from_the_caller(
    server: tuple[TaskDouble, StreamServer],
) -> None:
    double, started = server
    double.failure = RuntimeError("the secret cause")
    async with remote(started.address) as (_, dispatcher):
        with pytest.raises(CallFailed, match="internal error") as refused:
            await dispatcher.call(creating())
    assert refused.value.reason == error_pb2.ERROR_REASON_UNSPECIFIED
    assert started.defects == [double.failure]


async def test_large_requests_and_replies_are_carried(server: tuple[TaskDouble, StreamServer]) -> None:
    _, started = server
    payload = b'"' + b"x" * 1_000_000 + b'"'
    request = task_service_pb2.BatchCreateTasksRequest(tasks=[{"command": "A", "payload": payload}] * 8)
    call = Call("/codeq.v1.TaskService/BatchCreateTasks", request, "", "r", 30)
    async with remote(started.address) as (_, dispatcher):
        answers = await asyncio.gather(*(dispatcher.call(call) for _ in range(4)))
    assert all(len(answer.results) == 8 and answer.results[7].task.payload == payload for answer in answers)


async def test_forwarder_forwards_a_call_only_once(server: tuple[TaskDouble, StreamServer]) -> None:
    double, started = server
    double.failure = not_leading({LEADER_GRPC: started.address})
    forwarder = Forwarder(descriptor_pool.Default(), SERVICES, SECRET)
    try:
        call = asyncio.ensure_future(forwarder.call(started.address, creating()))
        assert await refusal(call) == error_pb2.ERROR_REASON_NOT_LEADER
        assert len(double.calls) == 1
        double.failure = None
        assert (await forwarder.call(started.address, creating())).task.command == "A"
    finally:
        await forwarder.close()


@pytest.mark.parametrize(
    "given", [{"shard": 0}, {"shard": 0, "part": True}, {"method": "/codeq_internal.v1.ShardService/X"}]
)
async def test_gateway_cannot_route_calls_to_a_shard(
    server: tuple[TaskDouble, StreamServer], given: dict[str, Any]
) -> None:
    double, started = server
    async with remote(started.address) as (_, dispatcher):
        assert await refusal(dispatcher.call(creating()._replace(**given))) == error_pb2.ERROR_REASON_ROUTE_NOT_FOUND
        assert double.calls == []
        await dispatcher.call(creating())


async def test_server_without_a_secret_admits_no_gateway() -> None:
    async with StreamServer(TaskDouble(), secret="") as bare, open_channel(bare.address) as channel:
        ask: Any = channel.unary_unary("/codeq_internal.v1.CallService/GetReadiness")
        for metadata in ((), ((SECRET_KEY, ""),)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(b"", metadata=metadata)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert bare.known == []


def test_unknown_reason_from_a_newer_server_keeps_its_name_and_status() -> None:
    files = files_of_calls()
    values = files["codeq/v1/error.proto"].enum_type[0].value
    [known] = [value for value in values if value.name == "ERROR_REASON_TASK_NOT_FOUND"]
    values.add(name="ERROR_REASON_LATER", number=9999, options=known.options)
    pool = pool_of(files)
    status = status_pb2.Status(code=5, message="later")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="LATER", domain="codeq"))
    refused = failed(status, Messages(pool).reasons)
    assert refusals.error_status(refused) == 404
    assert b'"reason":"LATER"' in refusals.error_body(refused, None)


async def test_both_gateways_serve_the_same_document() -> None:
    async with serving() as inside, serving(apart=True) as apart:
        shown = [(await served.http.get("/openapi.json")).json() for served in (inside, apart)]
    assert shown[0] == shown[1]
