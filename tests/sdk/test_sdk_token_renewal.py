"""Streams whose token expires: a fresh token is sent; without one, the client leaves the stream. Nothing is lost."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable

import codeq
import pytest
from codeq.endpoint import Endpoint
from codeq.v1 import error_pb2, task_pb2
from codeq.v1 import producer_service_pb2 as producer_pb
from codeq.v1 import worker_service_pb2 as pb
from scripted_server import (
    Produce,
    ScriptedServer,
    Work,
    ack,
    answer,
    answer_after_welcome,
    delivery,
    has_outcomes,
    settled,
    welcome_producer,
    welcome_worker,
)
from waiting import eventually
from worker_runs import running


def ending(grace_ms: int) -> producer_pb.StreamNotice:
    return producer_pb.StreamNotice(reason=error_pb2.ERROR_REASON_UNAUTHENTICATED, grace_ms=grace_ms)


def tokens(*names: str) -> Callable[[], str]:
    """Returns a function that returns one token after the other, and the last one from then on."""
    remaining = itertools.chain(names, itertools.repeat(names[-1]))
    return lambda: next(remaining)


async def test_worker_renews_its_token_and_its_task_ends_on_the_same_stream() -> None:
    may_end = threading.Event()

    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a"))
        await stream.write(pb.WorkResponse(notice=ending(10_000)))
        request = await stream.read_until(lambda request: request.token)
        assert (stream.token, request.token) == ("Bearer t1", "t2")
        may_end.set()
        request = await stream.read_until(has_outcomes)
        assert (request.outcomes[0].lease_token, request.token) == (7, "")
        await stream.write(settled(1))
        await answer(stream)

    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address, token=tokens("t1", "t2"))
        async with running(worker, lambda _: may_end.wait(10)):
            await eventually(lambda: worker.stats.settled == 1)
    assert worker.stats == codeq.WorkerStats(streams=1, received=1, settled=1)


async def test_each_expiry_notice_is_answered_with_a_new_token() -> None:
    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        for expected in ("t2", "t3"):
            await stream.write(pb.WorkResponse(notice=ending(10_000)))
            assert (await stream.read_until(lambda request: request.token)).token == expected
        done.set()
        await answer(stream)

    done = asyncio.Event()
    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address, token=tokens("t1", "t2", "t3"))
        async with running(worker, lambda _: None):
            await asyncio.wait_for(done.wait(), 10)


async def test_token_function_that_fails_or_returns_the_old_token_is_called_again() -> None:
    answers = iter(["t1", "t1", None, "t2"])

    def token() -> str:
        told = next(answers)
        if told is None:
            raise OSError("the issuer does not answer")
        return told

    async def script(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(pb.WorkResponse(notice=ending(2000)))
        assert (await stream.read_until(lambda request: request.token)).token == "t2"
        done.set()
        await answer(stream)

    done = asyncio.Event()
    async with ScriptedServer(script) as server:
        worker = codeq.AsyncWorker(server.address, token=token)
        async with running(worker, lambda _: None):
            await asyncio.wait_for(done.wait(), 10)
    assert server.streams == 1


async def test_worker_without_a_fresh_token_leaves_early_and_its_task_ends_on_the_next_stream() -> None:
    may_end = threading.Event()
    outcomes: list[task_pb2.Outcome] = []

    async def first(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a"))
        await stream.write(pb.WorkResponse(notice=ending(400)))
        await stream.read_break(pb.WorkResponse())

    async def second(stream: Work) -> None:
        await welcome_worker(stream)
        may_end.set()
        outcomes.extend((await stream.read_until(has_outcomes)).outcomes)
        await stream.write(settled(1))
        await answer(stream)

    async with ScriptedServer(first, second) as server:
        worker = codeq.AsyncWorker(server.address, token=lambda: "same")
        async with running(worker, lambda _: may_end.wait(10)):
            await eventually(lambda: worker.stats.settled == 1)
    assert [(outcome.task_id, outcome.lease_token) for outcome in outcomes] == [("a", 7)]
    assert worker.stats == codeq.WorkerStats(streams=2, received=1, settled=1)


async def test_worker_that_leaves_does_not_run_a_delivery_that_crosses_its_half_close() -> None:
    async def first(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(pb.WorkResponse(notice=ending(400)))
        await stream.read_end()
        await stream.write(delivery("crossing"))  # and the server takes it back, because of the half-close

    async def second(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("mine"))
        (outcome,) = (await stream.read_until(has_outcomes)).outcomes
        assert outcome.task_id == "mine"
        await stream.write(settled(1))
        await answer(stream)

    ran: list[str] = []
    async with ScriptedServer(first, second) as server:
        worker = codeq.AsyncWorker(server.address, token=lambda: "same")
        async with running(worker, lambda task: ran.append(task.id)):
            await eventually(lambda: worker.stats.settled == 1)
    assert ran == ["mine"]
    assert worker.stats == codeq.WorkerStats(streams=2, received=1, settled=1)


async def test_worker_reconnects_with_a_fresh_token_after_its_stream_breaks() -> None:
    async def expiring(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.abort("UNAUTHENTICATED", "the token has expired")

    async with ScriptedServer(expiring, answer_after_welcome) as server:
        worker = codeq.AsyncWorker(server.address, token=tokens("t1", "t2"))
        async with running(worker, lambda _: None):
            await eventually(lambda: worker.stats.streams == 2)


async def test_worker_keeps_its_task_while_its_token_function_returns_an_expired_token() -> None:
    may_end = threading.Event()

    async def first(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(delivery("a"))
        await stream.abort("UNAUTHENTICATED", "the token has expired", expiredAt="2027-01-15T08:05:00Z")

    async def expired(stream: Work) -> None:
        await stream.abort("UNAUTHENTICATED", "the token has expired", expiredAt="2027-01-15T08:05:00Z")

    async def third(stream: Work) -> None:
        await welcome_worker(stream)
        may_end.set()
        await stream.read_until(has_outcomes)
        await stream.write(settled(1))
        await answer(stream)

    async with ScriptedServer(first, expired, third) as server:
        worker = codeq.AsyncWorker(server.address, token=tokens("t1", "t1", "t2"))
        async with running(worker, lambda _: may_end.wait(10)):
            await eventually(lambda: worker.stats.settled == 1)
    assert worker.stats == codeq.WorkerStats(streams=2, received=1, settled=1)


async def test_worker_with_a_static_token_ends_once_the_server_rejects_it() -> None:
    async def first(stream: Work) -> None:
        await welcome_worker(stream)
        await stream.write(pb.WorkResponse(notice=ending(200)))
        await answer(stream)

    async def expired(stream: Work) -> None:
        await stream.abort("UNAUTHENTICATED", "the token has expired")

    async with ScriptedServer(first, expired) as server:
        worker = codeq.AsyncWorker(server.address, token="plain")
        with pytest.raises(codeq.Unauthenticated, match="the token has expired"):
            await worker.run(lambda _: None, handle_signals=False)


async def test_producer_sends_a_fresh_token_between_its_frames() -> None:
    async def script(stream: Produce) -> None:
        await welcome_producer(stream)
        frame = await stream.read()
        await stream.write(ack(frame))
        await stream.write(producer_pb.ProduceResponse(notice=ending(10_000)))
        fresh = await stream.read()
        assert (fresh.token, len(fresh.tasks)) == ("t2", 0)
        renewed.set()
        await stream.write(ack(await stream.read()))
        await stream.read_end()

    renewed = asyncio.Event()
    async with (
        ScriptedServer(script) as server,
        codeq.AsyncProducer(server.address, token=tokens("t1", "t2")) as producer,
    ):
        assert await producer.create("X", 1) == "1"
        await asyncio.wait_for(renewed.wait(), 10)
        assert await producer.create("X", 2) == "2"
    assert server.streams == 1


async def test_producer_without_a_fresh_token_leaves_before_any_outcome_is_unknown() -> None:
    async def first(stream: Produce) -> None:
        await welcome_producer(stream)
        frame = await stream.read()
        await stream.write(producer_pb.ProduceResponse(notice=ending(400)))
        rest = await stream.read_end()
        await stream.write(ack(frame, *rest))

    async def second(stream: Produce) -> None:
        await welcome_producer(stream)
        async for frame in stream:
            await stream.write(ack(frame))

    async with (
        ScriptedServer(first, second) as server,
        codeq.AsyncProducer(server.address, token=lambda: "same") as producer,
    ):
        assert await producer.create("X", 1) == "1"
        assert await producer.create("X", 2) == "2"
    assert server.streams == 2


def stopping() -> str:
    raise StopIteration


def exiting() -> str:
    raise SystemExit(3)


def cancelled() -> str:
    raise asyncio.CancelledError


async def waiting() -> str:
    return "t"


@pytest.mark.parametrize(
    ("function", "trouble"),
    [
        (stopping, "StopIteration"),
        (exiting, "SystemExit: 3"),
        (cancelled, "CancelledError"),
        (waiting, "the token function returned coroutine, not str"),
        (lambda: b"t", "the token function returned bytes, not str"),
        (lambda: "\ud800", "UnicodeEncodeError"),
    ],
)
async def test_calls_fail_as_unavailable_if_the_token_function_returns_no_token(
    function: Callable[[], str], trouble: str
) -> None:
    endpoint = Endpoint.for_worker("localhost:9", function, tls=False)
    async with asyncio.timeout(10):
        with pytest.raises(codeq.Unavailable, match=trouble):
            await endpoint.aio_token()
    with pytest.raises(codeq.Unavailable, match=trouble):
        endpoint.metadata(10)
