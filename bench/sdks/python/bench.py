"""Measures the Python SDK against a server on this machine, with fsync off so that the disk does not count.

    bench/sdks/python/bench.py                       20,000 cycles, 256 creates in flight
    bench/sdks/python/bench.py --cycles 5000 --in-flight 64

A cycle is a task that is created on its own, delivered, and completed by an async handler in the same process. Prints
one JSON line: cycles per second; CPU of the client per cycle; the median of a lone create through the producer, and of
a bare unary call without the SDK, in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Final

import codeq
import grpc
from codeq.testing import LocalServer, temporary_server
from codeq.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc

CONCURRENCY: Final = 256
WARM_CYCLES: Final = 2000
LONE_CALLS: Final = 300
CYCLE_SECONDS_MAX: Final = 300.0
CPU_AIM_US: Final = 60.0
"""Aim of `client_cpu_us_per_cycle`."""
LONE_AIM_MS: Final = 0.3
"""Aim of the difference between a lone create and a bare call."""


async def cycles(server: LocalServer, count: int, in_flight: int) -> tuple[float, float]:
    """Runs cycles; returns their duration and the CPU time of this process, in seconds."""
    done = asyncio.Semaphore(0)
    worker = codeq.AsyncWorker(server.worker_addr, token=server.token, concurrency=CONCURRENCY)

    @worker.task("bench-cycle")
    async def handle(_: codeq.Task) -> None:
        done.release()

    async def create(producer: codeq.AsyncProducer, number: int) -> None:
        for _ in range(number):
            await producer.create("bench-cycle", {"n": 1})

    async def run(producer: codeq.AsyncProducer, number: int) -> None:
        async with asyncio.TaskGroup() as group:
            for index in range(in_flight):
                share = number // in_flight + (index < number % in_flight)
                group.create_task(create(producer, share))
        for _ in range(number):
            await done.acquire()

    running = asyncio.create_task(worker.run(handle_signals=False))
    async with (
        codeq.AsyncProducer(server.producer_addr, token=server.token) as producer,
        asyncio.timeout(CYCLE_SECONDS_MAX),
    ):
        await run(producer, WARM_CYCLES)
        begun, cpu = time.perf_counter(), time.process_time()
        await run(producer, count)
        spent = time.perf_counter() - begun, time.process_time() - cpu
    worker.stop()
    await running
    return spent


def lone_create_ms(server: LocalServer) -> float:
    """Returns the median duration of a create while nothing else happens."""
    with server.producer() as producer:
        return _median(lambda: producer.create("bench-lone", {"n": 1}))


def bare_call_ms(server: LocalServer) -> float:
    """Returns the median duration of a unary create with gRPC's own library."""
    with grpc.insecure_channel(server.producer_addr) as channel:
        stub = task_service_pb2_grpc.TaskServiceStub(channel)
        spec = task_pb2.TaskSpec(command="bench-lone", payload=b'{"n":1}')
        request = task_service_pb2.CreateTaskRequest(spec=spec)
        metadata = (("authorization", f"Bearer {server.token}"),)
        return _median(lambda: stub.CreateTask(request, metadata=metadata))


def _median(call: Any) -> float:
    for _ in range(LONE_CALLS // 10):
        call()
    times = []
    for _ in range(LONE_CALLS):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return 1000 * statistics.median(times)


def main() -> int:
    """Prints the measurement; exit code 1: it misses an aim."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cycles", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--command", default=f"{Path(sys.executable).parent}/codeq", help="command of the server")
    given = parser.parse_args()
    with temporary_server(given.command) as server:
        seconds, cpu = asyncio.run(cycles(server, given.cycles, given.in_flight))
        lone, bare = lone_create_ms(server), bare_call_ms(server)
    told = {
        "sdk": "python",
        "cycles_per_s": round(given.cycles / seconds),
        "client_cpu_us_per_cycle": round(1e6 * cpu / given.cycles, 1),
        "lone_create_ms": round(lone, 3),
        "bare_call_ms": round(bare, 3),
    }
    print(json.dumps(told))
    return int(told["client_cpu_us_per_cycle"] > CPU_AIM_US or lone > bare + LONE_AIM_MS)


if __name__ == "__main__":
    sys.exit(main())
