"""Measures how unauthenticated hostile traffic, sent to every port at once, affects a quiet tenant.

    bench/hostile.py                     half a minute
    bench/hostile.py --seconds 5 --callers 2

The attackers are one process pinned to one core: large bodies and batches, gRPC calls and streams, malformed messages,
endless heads, random bytes, silent connections. A tenant creates one task at a time during the attack. Prints one JSON
line with p50, p99 and maximum of its creates in milliseconds, alone and under attack, how often each kind of input was
sent, and how many warnings and errors the server has logged. --save appends it to bench/results/hostile.jsonl. Exit
code 1: the p99 under attack, or the number of log lines, exceeds its target.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, MutableSequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
import psutil
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from measured_server import TOKEN, BenchError, MeasuredServer
from run import BUILD, describe_commit, describe_machine, percentiles, tell

P99_AIM_MS: Final = 150.0
LOG_LINES_AIM: Final = 100
CALL_SECONDS_MAX: Final = 60.0
PAUSE_SECONDS: Final = 0.01
"""Pause of the tenant between two creates, so that it measures the load without adding to it."""
ARRIVE_SECONDS_MAX: Final = 60.0
"""Time by which every kind of input must have been sent once."""
ATTACK_SECONDS_MAX: Final = 10.0
HOLD_SECONDS: Final = 1.0
"""How long a silent or incomplete connection stays open."""

JSON_BODY: Final = b'{"command":"A","payload":"' + b"x" * 1_000_000 + b'"}'
ITEMS: Final = b'{"tasks":[' + b",".join([b'{"command":"A"}'] * 500_000) + b"]}"
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
FORGED: Final = "x\n2026-01-01T00:00:00.000Z [error] forged"
EXCHANGE: Final = b"\x0a\x2e\x08\x01\x12\x2a" + FORGED.encode()
"""Name of a call that looks like a log line."""

Attack = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Ports:
    """Addresses of a server, each HOST:PORT."""

    http: str
    worker: str
    producer: str


# -- attacks -----------------------------------------------------------------------------------------------------------


async def say(address: str, content: bytes, hold_seconds: float = 0.0) -> None:
    """Sends bytes on a new connection, reads the first bytes of the answer, and aborts the connection."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(content)
        await writer.drain()
        async with asyncio.timeout(hold_seconds or None):
            await reader.read(65_536)
    finally:
        writer.transport.abort()


def request(line: str, body: bytes = b"", *headers: str) -> bytes:
    """Returns an HTTP/1.1 request."""
    head = "\r\n".join((f"{line} HTTP/1.1", "Host: strangers", *headers, f"Content-Length: {len(body)}", "", ""))
    return head.encode() + body


async def call(address: str, method: str, message: bytes, token: str = "") -> None:
    """Makes a gRPC call with one raw message, on a new connection."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        rpc: Any = channel.stream_stream(method)(metadata=metadata, timeout=HOLD_SECONDS)
        await rpc.write(message)
        await rpc.read()


def attacks_of(ports: Ports) -> dict[str, Attack]:
    """Returns the attacks, by name."""
    tasks, batch = "POST /v1/codeq/tasks", "POST /v1/codeq/tasks/batch"
    said: dict[str, tuple[str, bytes, float]] = {
        "REST, bodies of 1 MB": (ports.http, request(tasks, JSON_BODY), 0),
        "REST, unknown token": (ports.http, request(tasks, JSON_BODY, "Authorization: Bearer nobody"), 0),
        "REST, batches of 8 MB": (ports.http, request(batch, ITEMS), 0),
        "REST, many requests": (ports.http, request("GET /v1/codeq/tasks/x") * 100, 0),
        "REST, upgrades": (ports.http, request(tasks, b"{}", "Connection: Upgrade", "Upgrade: h2c"), 0),
        "REST, heads that never end": (ports.http, request(tasks)[:-2] + b"x: " + b"a" * 60_000, HOLD_SECONDS),
        "REST, bodies that never end": (ports.http, request(tasks, JSON_BODY)[:-1], HOLD_SECONDS),
        "gRPC, settings and nothing more": (ports.worker, PREFACE, HOLD_SECONDS),
        "gRPC, unknown frames": (ports.producer, PREFACE + b"\0\x40\0\xff\xff\xff\xff\xff\xff" * 1000, HOLD_SECONDS),
    }
    for name, address in (("REST", ports.http), ("workers", ports.worker), ("producers", ports.producer)):
        said[f"{name}, random bytes"] = (address, os.urandom(100_000) + b"\r\n\r\n", HOLD_SECONDS)
        said[f"{name}, silence"] = (address, b"", HOLD_SECONDS)
    called: dict[str, tuple[str, str, bytes, str]] = {
        "gRPC, calls of 1 MB": (ports.producer, "/codeq.v1.TaskService/CreateTask", JSON_BODY, ""),
        "gRPC, unknown token": (ports.worker, "/codeq.v1.TaskService/CreateTask", JSON_BODY, "nobody"),
        "gRPC, producer streams": (ports.producer, "/codeq.v1.ProducerService/Produce", b"\x0a\0", ""),
        "gRPC, worker streams": (ports.worker, "/codeq.v1.WorkerService/Work", b"\x0a\0", ""),
        "gRPC, forged names": (ports.worker, "/codeq_internal.v1.CallService/Exchange", EXCHANGE, ""),
        "gRPC, unknown methods": (ports.worker, "/nobody.Knows/This", b"", ""),
        "health, checks": (ports.producer, "/grpc.health.v1.Health/Check", b"", ""),
        "health, malformed": (ports.worker, "/grpc.health.v1.Health/Check", b"\xff\xff", ""),
        "health, watches": (ports.worker, "/grpc.health.v1.Health/Watch", b"", ""),
        "health, no such method": (ports.producer, "/grpc.health.v1.Health/List", b"", ""),
        "reflection": (ports.producer, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", b"\x3a\x01*", ""),
    }
    return {
        **{name: partial(say, *what) for name, what in said.items()},
        **{name: partial(call, *what) for name, what in called.items()},
    }


async def attack(ports: Ports, callers: int, counts: MutableSequence[int]) -> None:
    """Runs every attack from this many callers each, until the process ends."""

    async def repeat(number: int, once: Attack) -> None:
        while True:
            with suppress(OSError, TimeoutError, grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
                async with asyncio.timeout(ATTACK_SECONDS_MAX):
                    await once()
            counts[number] += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for number, once in enumerate(attacks_of(ports).values()):
            for _ in range(callers):
                group.create_task(repeat(number, once))


def be_strangers(ports: Ports, callers: int, counts: MutableSequence[int]) -> None:
    """Attacks a server from one core; entry point of the attackers' process."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    asyncio.run(attack(ports, callers, counts))


@contextmanager
def strangers(ports: Ports, callers: int) -> Iterator[tuple[psutil.Process, MutableSequence[int]]]:
    """Attacks a server within the block; yields the attackers' process, and how often each kind of input was sent.

    Raises:
        BenchError: The attackers ended early, or did not start.
    """
    spawn = multiprocessing.get_context("spawn")
    counts = spawn.RawArray("Q", len(attacks_of(ports)))
    process = spawn.Process(target=be_strangers, args=(ports, callers, counts), daemon=True)
    process.start()
    try:
        until = time.monotonic() + ARRIVE_SECONDS_MAX
        while not all(counts):
            if time.monotonic() > until or not process.is_alive():
                raise BenchError(f"the attackers did not start: {list(counts)}")
            time.sleep(0.1)
        yield psutil.Process(process.pid), counts
        if not process.is_alive():
            raise BenchError("the attackers ended early")
    finally:
        process.kill()
        process.join()


# -- the tenant --------------------------------------------------------------------------------------------------------


async def lone_creates(address: str, seconds: float) -> dict[str, float]:
    """Creates one task at a time; returns their number, and p50, p99 and maximum in milliseconds."""
    create = pb.CreateTaskRequest(spec=task_pb2.TaskSpec(command="QUIET", payload=b'{"n":1}'))
    options: dict[str, Any] = {"metadata": (("authorization", f"Bearer {TOKEN}"),), "timeout": CALL_SECONDS_MAX}
    took: list[float] = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = TaskServiceStub(channel)
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            began = time.perf_counter()
            await stub.CreateTask(create, **options)
            took.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(PAUSE_SECONDS)
    return {"creates": len(took), **percentiles(took)}


def measure(directory: Path, options: argparse.Namespace) -> dict[str, object]:
    """Returns the figures of the tenant, the attackers and the log."""
    with MeasuredServer(directory) as server:
        ports = Ports(server.http, server.worker, server.producer)
        alone = asyncio.run(lone_creates(server.producer, options.seconds))
        with strangers(ports, options.callers) as (process, counts):
            before, times, began = list(counts), process.cpu_times(), time.monotonic()
            beside = asyncio.run(lone_creates(server.producer, options.seconds))
            used, seconds = process.cpu_times(), time.monotonic() - began
            sent = {name: counts[number] - before[number] for number, name in enumerate(attacks_of(ports))}
            rss_mb = server.rss_mb()
        log_lines = server.log_lines()
    return {
        "bench": "hostile",
        "alone": alone,
        "beside": beside,
        "sent": sent,
        "strangers_cores": round((used.user + used.system - times.user - times.system) / seconds, 2),
        "log_lines": log_lines,
        "rss_mb": round(rss_mb, 1),
        "aims": {"p99_ms": P99_AIM_MS, "log_lines": LOG_LINES_AIM},
        "flags": {name: getattr(options, name) for name in ("seconds", "callers")},
        "commit": describe_commit(),
        "machine": describe_machine(BUILD),
    }


def main() -> int:
    """Runs the bench; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures a quiet tenant under attack; prints one JSON line.")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each half (default 30)")
    parser.add_argument("--callers", type=int, default=2, help="callers per kind of input (default 2)")
    parser.add_argument("--save", action="store_true", help="append the result to bench/results")
    options = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as directory:
        result = measure(Path(directory), options)
    tell("hostile", result, save=options.save)
    beside: Any = result["beside"]
    return 0 if beside["p99_ms"] <= P99_AIM_MS and int(str(result["log_lines"])) <= LOG_LINES_AIM else 1


if __name__ == "__main__":
    sys.exit(main())
