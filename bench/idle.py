"""Measures the cost of idle workers: thousands waiting for work that never comes.

    bench/idle.py                                5000 workers for each kind, a minute each
    bench/idle.py --ways streams --waiters 1000 --seconds 10

Kinds of waiting: `rest` and `grpc` are repeated long polls of 30 s; `streams` are open worker streams with credits.
Prints one JSON line: for each kind the server's CPU time in percent of one core, and for polls its microseconds per
renewal. --save appends it to bench/results/idle.jsonl. Exit code 1: one kind of waiting costs more than its target.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from codeq.v1 import task_service_pb2 as task_pb
from codeq.v1 import worker_service_pb2 as worker_pb
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from codeq.v1.worker_service_pb2_grpc import WorkerServiceStub
from measured_server import AUTH, TOKEN, BenchError, MeasuredServer
from run import BUILD, describe_commit, describe_machine, tell

COMMAND: Final = "IDLE"
WAIT_SECONDS: Final = 30
CALLS_PER_CHANNEL: Final = 500
"""Calls on one connection; the server allows 1000."""
CONNECTS_AT_ONCE: Final = 64
SETTLE_SECONDS: Final = 2.0
"""Pause between the arrival of the last waiter and the measured window."""
ARRIVE_SECONDS_MAX: Final = 120.0
ARRIVED: Final = 0.9
"""Share of the waiters that must be waiting at once; some polls are always being renewed."""
POLL_AIM_PERCENT: Final = 5.0
STREAM_AIM_PERCENT: Final = 1.0
FILES: Final = 3
"""Open files allowed per waiter, here and in the server."""


@dataclass(slots=True)
class Answers:
    """Number of polls that ended without a task."""

    count: int = 0


def first_wait(number: int) -> int:
    """Returns the seconds of a waiter's first poll, staggered so that later polls do not all end at once."""
    return 1 + number % WAIT_SECONDS


def _request(seconds: int) -> bytes:
    claim = json.dumps({"commands": [COMMAND], "waitSeconds": seconds})
    return (
        f"POST /v1/codeq/tasks/claim HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {TOKEN}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(claim)}\r\n\r\n{claim}"
    ).encode()


class _Poller(asyncio.Protocol):
    """An HTTP client that polls forever on one connection."""

    def __init__(self, number: int, answers: Answers) -> None:
        self._transport: Any = None
        self._first, self._again = _request(first_wait(number)), _request(WAIT_SECONDS)
        self._answers = answers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.write(self._first)

    def data_received(self, data: bytes) -> None:
        if not data.startswith(b"HTTP/1.1 204 "):
            raise BenchError(f"a poll was answered with {data[:200]!r}")
        self._answers.count += 1
        self._transport.write(self._again)


async def _each(waiters: int, begin: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    """Starts every waiter, at most CONNECTS_AT_ONCE concurrently."""
    gate = asyncio.Semaphore(CONNECTS_AT_ONCE)

    async def one(number: int) -> None:
        async with gate:
            await begin(number)

    async with asyncio.TaskGroup() as group:
        for number in range(waiters):
            group.create_task(one(number))


@asynccontextmanager
async def by_rest(server: MeasuredServer, waiters: int, answers: Answers) -> AsyncIterator[None]:
    """Polls over HTTP from this many connections."""
    host, port = server.http.rsplit(":", 1)
    transports: list[asyncio.BaseTransport] = []

    async def begin(number: int) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: _Poller(number, answers), host, int(port))
        transports.append(transport)

    await _each(waiters, begin)
    yield
    for transport in transports:
        transport.close()


@asynccontextmanager
async def _channels(server: MeasuredServer, waiters: int) -> AsyncIterator[list[grpc.aio.Channel]]:
    options = [("grpc.use_local_subchannel_pool", 1)]  # otherwise equal channels share a connection
    async with AsyncExitStack() as stack:
        count = -(-waiters // CALLS_PER_CHANNEL)
        yield [
            await stack.enter_async_context(grpc.aio.insecure_channel(server.worker, options=options))
            for _ in range(count)
        ]


@asynccontextmanager
async def by_grpc(server: MeasuredServer, waiters: int, answers: Answers) -> AsyncIterator[None]:
    """Polls over gRPC with this many concurrent calls."""
    async with _channels(server, waiters) as channels:
        stubs: list[Any] = [TaskServiceStub(channel) for channel in channels]

        async def poll(number: int) -> None:
            request = task_pb.ClaimTaskRequest(commands=[COMMAND], wait_seconds=first_wait(number))
            while True:
                await stubs[number % len(stubs)].ClaimTask(request, metadata=AUTH)
                answers.count += 1
                request.wait_seconds = WAIT_SECONDS

        polls = [asyncio.create_task(poll(number)) for number in range(waiters)]
        yield
        broken = [str(task.exception()) for task in polls if task.done()]
        for task in polls:
            task.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
        if broken:
            raise BenchError(f"{len(broken)} polls failed, the first: {broken[0]}")


@asynccontextmanager
async def by_streams(server: MeasuredServer, waiters: int, _: Answers) -> AsyncIterator[None]:
    """Keeps this many worker streams open, with credits."""
    hello = worker_pb.WorkRequest(hello=worker_pb.WorkerHello(commands=[COMMAND]), add_credits=10)
    streams: list[Any] = []
    async with _channels(server, waiters) as channels:

        async def begin(number: int) -> None:
            stub: Any = WorkerServiceStub(channels[number % len(channels)])
            stream = stub.Work(metadata=AUTH)
            await stream.write(hello)
            await stream.read()
            streams.append(stream)

        await _each(waiters, begin)
        yield
        for stream in streams:
            stream.cancel()


WAYS: Final = {"rest": by_rest, "grpc": by_grpc, "streams": by_streams}


async def measure_way(server: MeasuredServer, way: str, waiters: int, seconds: float) -> dict[str, float]:
    """Returns the cost of this many waiters."""
    answers = Answers()
    async with WAYS[way](server, waiters, answers):
        deadline = time.monotonic() + ARRIVE_SECONDS_MAX
        while (waiting := (await asyncio.to_thread(server.counters))["codeq_workers_waiting"]) < ARRIVED * waiters:
            if time.monotonic() > deadline:
                raise BenchError(f"only {waiting:.0f} of {waiters} waiters arrived over {way}")
            await asyncio.sleep(1)
        await asyncio.sleep(SETTLE_SECONDS)
        before, began, ended = server.read().cpu_seconds, time.monotonic(), answers.count
        await asyncio.sleep(seconds)
        after, passed = server.read().cpu_seconds, time.monotonic() - began
        rss_mb = server.rss_mb()
    figures = {"cpu_percent": round((after - before) / passed * 100, 2), "rss_mb": round(rss_mb, 1)}
    renewals = answers.count - ended
    if renewals:
        figures["renewals_per_s"] = round(renewals / passed)
        figures["cpu_us_per_renewal"] = round((after - before) / renewals * 1e6)
    return figures


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Returns the figures of every kind of waiting, each on a fresh server."""
    result: dict[str, object] = {"bench": "idle", "waiters": options.waiters, "seconds": options.seconds}
    for way in options.ways:
        with tempfile.TemporaryDirectory(dir=BUILD) as directory, MeasuredServer(Path(directory)) as server:
            result[way] = asyncio.run(measure_way(server, way, options.waiters, options.seconds))
    aims = {way: STREAM_AIM_PERCENT if way == "streams" else POLL_AIM_PERCENT for way in options.ways}
    return result | {"aims_percent": aims, "commit": describe_commit(), "machine": describe_machine(BUILD)}


def main() -> int:
    """Runs the bench; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures the cost of idle workers; prints one JSON line.")
    parser.add_argument("--waiters", type=int, default=5000, help="waiting workers (default 5000)")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="seconds measured for each kind of waiting (default 60)"
    )
    parser.add_argument(
        "--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="kinds of waiting (default all)"
    )
    parser.add_argument("--save", action="store_true", help="append the result to bench/results")
    options = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, FILES * options.waiters)), hard))
    result: dict[str, Any] = measure(options)
    tell("idle", result, save=options.save)
    return 0 if all(result[way]["cpu_percent"] <= aim for way, aim in result["aims_percent"].items()) else 1


if __name__ == "__main__":
    sys.exit(main())
