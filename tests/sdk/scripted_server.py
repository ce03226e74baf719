"""A server that follows a script. Unlike a real server, it breaks, stalls and rejects on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, Self, TypeVar

import grpc
from codeq import reasons
from codeq.v1 import (
    producer_service_pb2,
    producer_service_pb2_grpc,
    task_pb2,
    worker_service_pb2,
    worker_service_pb2_grpc,
)
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

READ_SECONDS_MAX = 30.0
LEASE_SECONDS = 60

_Request = TypeVar("_Request")


class Conversation(Generic[_Request]):
    """One stream as the script sees it."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.token = dict(context.invocation_metadata()).get("authorization")
        self.requests: list[_Request] = []

    async def read(self) -> _Request:
        """Returns the client's next message; fails the test if the client half-closed instead."""
        request = await self._read()
        assert request is not grpc.aio.EOF, "half-closed"
        self.requests.append(request)
        return request

    async def read_until(self, condition: Callable[[_Request], object]) -> _Request:
        """Returns the next message that matches."""
        while not condition(request := await self.read()):
            pass
        return request

    async def __aiter__(self) -> AsyncIterator[_Request]:
        """Yields messages up to the half-close, as they arrive."""
        while (request := await self._read()) is not grpc.aio.EOF:
            self.requests.append(request)
            yield request

    async def read_end(self) -> list[_Request]:
        """Returns the messages up to the half-close."""
        return [request async for request in self]

    async def write(self, response: Any) -> None:
        await self._context.write(response)

    async def read_break(self, nothing: Any) -> None:
        """Reads until the client breaks the call, which ends the script; fails the test if it half-closes.

        A read ends the same way in both cases, but a break cancels the write of the empty response `nothing`.
        """
        await self.read_end()
        await self.write(nothing)
        raise AssertionError("half-closed")

    async def cancelled(self) -> None:
        """Returns when the client has cancelled the call."""
        done = asyncio.Event()
        self._context.add_done_callback(lambda _: done.set())
        async with asyncio.timeout(READ_SECONDS_MAX):
            await done.wait()

    async def abort(self, reason: str, message: str = "as the script requires", **about: str) -> None:
        """Ends the call with a reason of the error table and its metadata."""
        row = reasons.BY_NAME[reason]
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=reasons.DOMAIN, metadata=about))
        status = status_pb2.Status(code=row.grpc_code, message=message, details=[detail])
        code = next(code for code in grpc.StatusCode if code.name == row.grpc_name)
        metadata = (("grpc-status-details-bin", status.SerializeToString()),)
        await self._context.abort(code, message, metadata)

    async def _read(self) -> Any:
        async with asyncio.timeout(READ_SECONDS_MAX):
            return await self._context.read()


Produce = Conversation[producer_service_pb2.ProduceRequest]
Work = Conversation[worker_service_pb2.WorkRequest]
Script = Callable[[Any], Awaitable[None]]


class ScriptedServer:
    """Runs one script for each stream, in the order in which they are opened; further streams get the last script.

    Attributes:
        address: Where it listens.
        streams: Number of streams opened so far.
    """

    def __init__(self, *scripts: Script) -> None:
        self._scripts = scripts
        self.streams = 0
        self.address = ""
        self.failures: list[BaseException] = []

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server()
        producer_service_pb2_grpc.add_ProducerServiceServicer_to_server(self, self._server)
        worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)
        if self.failures:
            raise self.failures[0]

    async def Produce(self, _: object, context: Any) -> None:  # noqa: N802 - named by the proto
        await self._follow(context)

    async def Work(self, _: object, context: Any) -> None:  # noqa: N802 - named by the proto
        await self._follow(context)

    async def _follow(self, context: Any) -> None:
        script = self._scripts[min(self.streams, len(self._scripts) - 1)]
        self.streams += 1
        try:
            await script(Conversation(context))
        except grpc.aio.AbortError:
            raise  # as the script requires
        except Exception as error:
            self.failures.append(error)
            raise


async def welcome_producer(
    stream: Produce,
    *,
    frames: int = 256,
    tasks: int = 4096,
    size: int = 16 << 20,
    frame_size: int = 8 << 20,
    protocol: int = 1,
    shard: int = 0,
    shards: int = 0,
) -> None:
    """Takes the hello and answers it with these limits."""
    assert (await stream.read()).HasField("hello")
    welcome = producer_service_pb2.ProducerWelcome(
        unacked_frames_max=frames,
        unacked_bytes_max=size,
        frame_tasks_max=tasks,
        frame_bytes_max=frame_size,
        protocol=protocol,
        shard=shard,
        shards=shards,
    )
    await stream.write(producer_service_pb2.ProduceResponse(welcome=welcome))


def ack(*frames: producer_service_pb2.ProduceRequest) -> producer_service_pb2.ProduceResponse:
    """Accepts frames; the id of a task is its payload."""
    acks = [producer_service_pb2.FrameAck(task_ids=[task.payload.decode() for task in each.tasks]) for each in frames]
    return producer_service_pb2.ProduceResponse(acks=acks)


async def welcome_worker(
    stream: Work, *, lease_seconds: int = LEASE_SECONDS, protocol: int = 1, shard: int = 0, shards: int = 0
) -> worker_service_pb2.WorkerHello:
    """Takes the hello, answers it and returns it."""
    request = await stream.read()
    assert request.HasField("hello")
    welcome = worker_service_pb2.WorkerWelcome(
        worker_id="w",
        lease_seconds=lease_seconds,
        credits_max=65536,
        protocol=protocol,
        shard=shard,
        shards=shards,
    )
    await stream.write(worker_service_pb2.WorkResponse(welcome=welcome))
    return request.hello


def delivery(*ids: str, token: int = 7, command: str = "X", payload: bytes = b"{}") -> worker_service_pb2.WorkResponse:
    """Delivers tasks."""
    shared = task_pb2.Task(
        command=command, payload=payload, attempts=1, status=task_pb2.TASK_STATUS_CLAIMED, lease_token=token
    )
    tasks = [task_pb2.Task(id=each) for each in ids]
    for task in tasks:
        task.MergeFrom(shared)
    return worker_service_pb2.WorkResponse(tasks=tasks)


def settled(count: int, errors: list[worker_service_pb2.OutcomeError] | None = None) -> worker_service_pb2.WorkResponse:
    """Settles outcomes, and rejects some of them."""
    return worker_service_pb2.WorkResponse(settled=count, outcome_errors=errors)


def has_outcomes(request: worker_service_pb2.WorkRequest) -> bool:
    """Whether a message carries outcomes."""
    return bool(request.outcomes)


async def answer(stream: Work) -> None:
    """Settles outcomes as they arrive, until the worker half-closes."""
    async for request in stream:
        if request.outcomes:
            await stream.write(settled(len(request.outcomes)))


async def answer_after_welcome(stream: Work) -> None:
    """Welcomes the worker, delivers nothing and settles every outcome."""
    await welcome_worker(stream)
    await answer(stream)
