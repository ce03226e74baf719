"""Measures the Python SDK against a running server; started by bench/sdks/run.py.

A cycle is a task that is created on its own, delivered, and completed by an async handler in the same process. Prints
one JSON line: cycles per second; CPU of this process per cycle; the median of a lone create through the producer, and
of a bare unary call without the SDK, in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Final

import codeq
import grpc
from codeq.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc

CONCURRENCY: Final = 256
WARMUP_SECONDS: Final = 2.0
LONE_CALLS: Final = 300


class _Count:
    """Tasks that the handler has completed."""

    def __init__(self) -> None:
        self.done = 0


async def cycles(given: argparse.Namespace) -> tuple[float, float]:
    """Returns the cycles per second, and the CPU time of this process per cycle in microseconds."""
    count = _Count()
    worker = codeq.AsyncWorker(given.worker, token=given.token, concurrency=CONCURRENCY)

    @worker.task("bench-cycle")
    async def handle(_: codeq.Task) -> None:
        count.done += 1

    end = time.perf_counter() + WARMUP_SECONDS + given.seconds

    async def create(producer: codeq.AsyncProducer) -> None:
        while time.perf_counter() < end:
            await producer.create("bench-cycle", {"n": 1})

    running = asyncio.create_task(worker.run(handle_signals=False))
    async with codeq.AsyncProducer(given.producer, token=given.token) as producer:
        creating = [asyncio.create_task(create(producer)) for _ in range(given.callers)]
        await asyncio.sleep(WARMUP_SECONDS)
        begun, cpu, before = time.perf_counter(), time.process_time(), count.done
        await asyncio.gather(*creating)
        seconds, cpu, done = time.perf_counter() - begun, time.process_time() - cpu, count.done - before
    worker.stop()
    await running
    return done / seconds, 1e6 * cpu / done


def lone_create_ms(given: argparse.Namespace) -> float:
    """Returns the median duration of a create while nothing else happens."""
    with codeq.Producer(given.producer, token=given.token) as producer:
        return _median(lambda: producer.create("bench-lone", {"n": 1}))


def bare_call_ms(given: argparse.Namespace) -> float:
    """Returns the median duration of a unary create with gRPC's own library."""
    with grpc.insecure_channel(given.producer) as channel:
        stub = task_service_pb2_grpc.TaskServiceStub(channel)
        spec = task_pb2.TaskSpec(command="bench-lone", payload=b'{"n":1}')
        request = task_service_pb2.CreateTaskRequest(spec=spec)
        metadata = (("authorization", f"Bearer {given.token}"),)
        return _median(lambda: stub.CreateTask(request, metadata=metadata))


def _median(call: Callable[[], object]) -> float:
    for _ in range(LONE_CALLS // 10):
        call()
    times = []
    for _ in range(LONE_CALLS):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return 1000 * statistics.median(times)


def main() -> int:
    """Prints the measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--producer", required=True, help="address of the server for producers")
    parser.add_argument("--worker", required=True, help="address of the server for workers")
    parser.add_argument("--token", required=True)
    parser.add_argument("--callers", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=8.0)
    given = parser.parse_args()
    lone, bare = lone_create_ms(given), bare_call_ms(given)
    per_second, cpu = asyncio.run(cycles(given))
    told = {
        "cycles_per_s": round(per_second),
        "client_cpu_us_per_cycle": round(cpu, 1),
        "lone_create_ms": round(lone, 3),
        "bare_call_ms": round(bare, 3),
    }
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
