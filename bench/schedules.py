"""Measures how late many schedules fire that share their instants, and how that affects a quiet tenant.

    bench/schedules.py                             10,000 schedules fire each minute, for 5 minutes
    bench/schedules.py --schedules 1000 --period 10 --fires 6

All schedules have the same instants, the worst case. A schedule stores its next few instants; further ones are
computed after the fourth. Nobody claims the tasks. Another tenant creates, claims and completes one task at a time,
first alone and then for some seconds from each instant on, except the first, whose CPU time is that of the fires.

Prints one JSON line: p50, p99 and maximum of the lateness in milliseconds (`createdAt` of a task minus its instant), of
all fires and for each instant; the quiet tenant's calls; the server's CPU time; how long its main thread ran for the
first instant, and how long it waited for a core meanwhile because of other processes. --save appends the line to
bench/results/schedules.jsonl. Exit code 1: an instant has no task or two, or a task is later than the target.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import tempfile
import time
from collections import Counter, defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import grpc
from codeq.v1 import schedule_service_pb2 as schedule_pb
from codeq.v1 import task_service_pb2 as pb
from codeq.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from measured_server import BenchError, MeasuredServer
from probe import TENANT, for_seconds, probe
from run import BUILD, describe_commit, describe_machine, percentiles, tell

SCHEDULING: Final = "planner"
"""Tenant of the schedules, and its token."""
COMMANDS: Final = 100
"""Commands of the schedules' tasks."""
CALLS_AT_ONCE: Final = 64
CALL_SECONDS_MAX: Final = 60.0
PUTS_PER_SECOND: Final = 400
"""Definitions per second that a slow machine takes, by which the first instant is chosen."""
PROBE_SECONDS_MAX: Final = 10.0
"""Longest time of calls from an instant on."""
PAGE: Final = 500
LATE_AIM_MS: Final = 1000
AUTH: Final = (("authorization", f"Bearer {SCHEDULING}"),)


async def put_all(address: str, options: argparse.Namespace, first: float) -> None:
    """Puts the schedules, whose first instant is at a Unix time.

    Raises:
        BenchError: They were not put in time.
    """
    room = asyncio.Semaphore(CALLS_AT_ONCE)
    async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as group:
        stub: Any = ScheduleServiceStub(channel)

        async def put(number: int) -> None:
            spec = schedule_pb.ScheduleSpec(
                every=f"{options.period}s",
                command=f"PLAN-{number % COMMANDS}",
                payload=b'{"n":%d,"at":"{{scheduledAt}}"}' % number,
            )
            spec.start_at.FromSeconds(int(first))
            request = schedule_pb.PutScheduleRequest(name=f"plan-{number}", spec=spec)
            async with room:
                await stub.PutSchedule(request, metadata=AUTH, timeout=CALL_SECONDS_MAX)

        for number in range(options.schedules):
            group.create_task(put(number))
    if time.time() >= first:
        raise BenchError(f"{options.schedules} schedules were not put before their first instant")


async def lateness(address: str, until: float) -> tuple[dict[str, list[int]], int]:
    """Returns the milliseconds by which the tasks of each instant before a time are late, and how many were doubled."""
    late, seen = defaultdict[str, list[int]](list), Counter[tuple[int, str]]()
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = TaskServiceStub(channel)
        request = pb.ListTasksRequest(page_size=PAGE)
        while True:
            page = await stub.ListTasks(request, metadata=AUTH, timeout=CALL_SECONDS_MAX)
            for task in page.tasks:
                made = json.loads(task.payload)
                seen[made["n"], made["at"]] += 1
                instant = datetime.fromisoformat(made["at"]).timestamp()
                if instant < until:
                    late[made["at"]].append(task.created_at.ToMilliseconds() - round(instant * 1000))
            if not page.next_page_token:
                return late, sum(seen.values()) - len(seen)
            request.page_token = page.next_page_token


def summary(values: list[int]) -> dict[str, float]:
    """Returns number, p50, p99, maximum and minimum of times in milliseconds."""
    return {"tasks": len(values), **percentiles(values), "min_ms": min(values)}


def measure(directory: Path, options: argparse.Namespace) -> dict[str, object]:
    """Returns the figures of the schedules and of the quiet tenant."""
    probe_seconds = min(options.period / 2, PROBE_SECONDS_MAX)
    beside = []
    with MeasuredServer(directory, tenants=(TENANT, SCHEDULING)) as server:
        alone = asyncio.run(probe(server.producer, for_seconds(probe_seconds), callers=1))
        earliest = time.time() + max(options.schedules / PUTS_PER_SECOND, 2)
        first = math.ceil(earliest / options.period) * options.period
        asyncio.run(put_all(server.producer, options, first))
        put_cpu, idle = server.read().cpu_seconds, server.main_thread()
        for fire in range(options.fires):
            time.sleep(max(first + fire * options.period - time.time(), 0))
            if fire:
                beside.append(asyncio.run(probe(server.producer, for_seconds(probe_seconds), callers=1)))
            else:
                time.sleep(probe_seconds)
                first_cpu, fired = server.read().cpu_seconds, server.main_thread()
        cpu, rss_mb = server.read().cpu_seconds, server.rss_mb()
        late, twice = asyncio.run(lateness(server.producer, first + options.fires * options.period))
    everything = summary([value for values in late.values() for value in values])
    return {
        "bench": "schedules",
        "late": everything,
        "late_by_instant": [summary(late[instant]) for instant in sorted(late)],
        "twice": twice,
        "wanted": options.schedules * options.fires,
        "aim_max_ms": LATE_AIM_MS,
        "server_cpu_us_per_fire": round((first_cpu - put_cpu) / options.schedules * 1e6, 1),
        "main_thread_s": {"ran": round(fired[0] - idle[0], 2), "waited": round(fired[1] - idle[1], 2)},
        "server_cpu_percent": round((cpu - put_cpu) / (options.period * (options.fires - 1) + probe_seconds) * 100, 1),
        "alone": alone,
        "beside": {name: max(each[name] for each in beside) for name in alone} if beside else {},
        "rss_mb": round(rss_mb, 1),
        "flags": {name: getattr(options, name) for name in ("schedules", "period", "fires")},
        "commit": describe_commit(),
        "machine": describe_machine(BUILD),
    }


def is_good(result: dict[str, Any]) -> bool:
    """Returns whether each instant has one task, which is never early and no later than the target."""
    late = result["late"]
    exact = late["tasks"] == result["wanted"] and not result["twice"] and late["min_ms"] >= 0
    return bool(exact and late["max_ms"] <= result["aim_max_ms"])


def main() -> int:
    """Runs the bench; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures how late schedules fire; prints one JSON line.")
    parser.add_argument("--schedules", type=int, default=10_000, help="number of schedules (default 10000)")
    parser.add_argument("--period", type=int, default=60, help="seconds between two instants (default 60)")
    parser.add_argument("--fires", type=int, default=5, help="instants of each schedule (default 5)")
    parser.add_argument("--save", action="store_true", help="append the result to bench/results")
    options = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as directory:
        result = measure(Path(directory), options)
    tell("schedules", result, save=options.save)
    return 0 if is_good(result) else 1


if __name__ == "__main__":
    sys.exit(main())
