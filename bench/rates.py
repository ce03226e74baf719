"""Measures how a tenant far above its rate limit affects a quiet tenant, and checks that the limit is exact.

    bench/rates.py                                 one tenant makes 1,000 creates/s, and may make 100
    bench/rates.py --rate 50 --times 20

The quiet tenant creates, claims and completes one task at a time, first alone and then during the flood; its own rate
is below the limit. The flooding tenant keeps calling, whatever it is told. Prints one JSON line: p50, p99 and maximum
of the quiet tenant's calls in milliseconds, alone and during the flood, and what became of the flood's calls.
--save appends the line to bench/results/rates.jsonl. Exit code 1: the server's count of refusals differs from that of
the flood, more calls were accepted than the limit allows, or a p99 during the flood exceeds the target.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from measured_server import BenchError, MeasuredServer
from probe import TENANT, Latencies, for_seconds, probe
from run import BUILD, describe_commit, describe_machine, tell

FLOODING: Final = "flood"
"""Tenant of the flood, and its token."""
SLICE_SECONDS: Final = 0.01
"""The flood sends the calls of this time together."""
IN_FLIGHT_MAX: Final = 500
WARMUP_SECONDS: Final = 1.0
GENTLE: Final = 10
"""Niceness of the flood's client."""
CALL_SECONDS_MAX: Final = 60.0
P99_AIM_MS: Final = 25.0


class Flood(NamedTuple):
    """What became of the calls of the flood.

    Attributes:
        accepted: Calls answered with a task.
        refused: Calls refused by the rate limit.
        seconds: How long the flood lasted, until the last reply.
    """

    accepted: int
    refused: int
    seconds: float


def flood(address: str, per_second: int, seconds: float) -> Flood:
    """Calls at a fixed rate for this time, and waits for the last reply.

    Raises:
        BenchError: A call failed for another reason than the rate limit.
    """
    os.nice(GENTLE)  # the quiet tenant waits for the server and not for the flood's client
    return asyncio.run(_flood(address, per_second, seconds))


async def _flood(address: str, per_second: int, seconds: float) -> Flood:
    began, answers, sent = time.perf_counter(), list[bool](), 0
    room = asyncio.Semaphore(IN_FLIGHT_MAX)

    async def call() -> None:
        async with room:
            answers.append(await _create(stub))

    async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as group:
        stub: Any = TaskServiceStub(channel)
        while (passed := time.perf_counter() - began) < seconds:
            while sent < passed * per_second:
                group.create_task(call())
                sent += 1
            await asyncio.sleep(SLICE_SECONDS)
    accepted = sum(answers)
    return Flood(accepted, len(answers) - accepted, time.perf_counter() - began)


async def _create(stub: Any) -> bool:
    """Returns whether the call was accepted, and not refused."""
    request = pb.CreateTaskRequest(spec=task_pb2.TaskSpec(command="FLOOD", payload=b'{"n":1}'))
    try:
        await stub.CreateTask(request, metadata=(("authorization", f"Bearer {FLOODING}"),), timeout=CALL_SECONDS_MAX)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise BenchError(f"a call of the flood failed: {error.details()}") from None
        return False
    return True


def measure(directory: Path, options: argparse.Namespace) -> dict[str, object]:
    """Returns the figures of the quiet tenant and of the flood."""
    limit = {"producer": {"requestsPerMinute": options.rate * 60, "burstSize": options.rate}}
    more = {"RATE_LIMIT": json.dumps(limit)}
    process = multiprocessing.get_context("spawn")
    with (
        MeasuredServer(directory, tenants=(TENANT, FLOODING), more=more) as server,
        ProcessPoolExecutor(1, mp_context=process) as pool,
    ):
        alone = asyncio.run(probe(server.producer, for_seconds(options.seconds), callers=1))
        before = server.total("codeq_rate_limit_hits_total")
        flooding = pool.submit(flood, server.producer, options.rate * options.times, options.seconds + WARMUP_SECONDS)
        time.sleep(WARMUP_SECONDS)
        beside = asyncio.run(probe(server.producer, for_seconds(options.seconds), callers=1))
        calls = flooding.result()
        after = server.total("codeq_rate_limit_hits_total")
    assert before is not None
    assert after is not None
    return {
        "bench": "rates",
        "alone": alone,
        "beside": beside,
        "flood": {
            "calls_per_s": round((calls.accepted + calls.refused) / calls.seconds),
            "accepted": calls.accepted,
            "allowed": int(options.rate * (1 + calls.seconds)),
            "refused": calls.refused,
            "refused_by_metric": after - before,
        },
        "worst_p99_ms": Latencies.worst_p99(beside),
        "aim_p99_ms": P99_AIM_MS,
        "flags": {name: getattr(options, name) for name in ("rate", "times", "seconds")},
        "commit": describe_commit(),
        "machine": describe_machine(BUILD),
    }


def is_good(result: dict[str, Any]) -> bool:
    """Returns whether the limit was exact, and the quiet tenant within the target."""
    calls = result["flood"]
    exact = calls["refused"] == calls["refused_by_metric"] and calls["accepted"] <= calls["allowed"]
    return bool(exact and result["worst_p99_ms"] <= result["aim_p99_ms"])


def main() -> int:
    """Runs the bench; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures a quiet tenant beside a refused one; prints one JSON line.")
    parser.add_argument("--rate", type=int, default=100, help="creates per second of each token (default 100)")
    parser.add_argument("--times", type=int, default=10, help="the flood's rate as a multiple of that (default 10)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each half (default 10)")
    parser.add_argument("--save", action="store_true", help="append the result to bench/results")
    options = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as directory:
        result = measure(Path(directory), options)
    tell("rates", result, save=options.save)
    return 0 if is_good(result) else 1


if __name__ == "__main__":
    sys.exit(main())
