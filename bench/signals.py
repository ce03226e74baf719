"""Measures signals to many subscriptions while work becomes ready much more often than they may be sent.

    bench/signals.py                               1,000 subscriptions, 10,000 creates/s, an interval of 5 s
    bench/signals.py --subscriptions 100 --rate 2000 --interval 1 --seconds 5

Two tenants take turns: each creates tasks at the rate, in calls of one task for each of their commands, so that every
task is an edge of its own. Only one of them has subscriptions, each for one command and with a host of its own, which
a receiver in another process answers at once. Nobody claims, so the last signal of a subscription must tell the number
of all tasks of its command.

Prints one JSON line: signals and their spacing, the lateness of the last one after the last edge, the p99 of the calls
that create with and without subscriptions (median of the rounds), the server's CPU time. --save appends the line to
bench/results/signals.jsonl. Exit code 1: a figure misses its target, or a last edge was not signalled.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
from codeq.v1 import subscription_service_pb2 as subscription_pb
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq.v1.subscription_service_pb2_grpc import SubscriptionServiceStub
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from measured_server import BenchError, MeasuredServer
from run import BUILD, describe_commit, describe_machine, percentiles, tell
from webhook_receiver import Request, WebhookReceiver

SUBSCRIBED: Final = "subscribed"
PLAIN: Final = "plain"
"""Tenants with and without subscriptions, and their tokens."""
COMMANDS: Final = 100
CALLS_AT_ONCE: Final = 64
CALL_SECONDS_MAX: Final = 60.0
WARMUP_SECONDS: Final = 2.0
LATE_AIM_SECONDS: Final = 1.0
"""Time after the interval within which the last signal must arrive."""
P99_AIM_RATIO: Final = 1.1
RATE_AIM_SHARE: Final = 0.95
SPACING_SLACK_SECONDS: Final = 0.002
"""`sentAt` has milliseconds."""


class Signal(NamedTuple):
    """A signal: the path of the subscription, when it was sent and arrived in Unix seconds, and the depth it tells."""

    path: str
    sent: float
    arrived: float
    depth: int

    @classmethod
    def of(cls, request: Request) -> Signal:
        """Returns the signal that a request brought."""
        told = json.loads(request.body)
        return cls(request.path, datetime.fromisoformat(told["sentAt"]).timestamp(), request.unix, told["queueDepth"])


class Load(NamedTuple):
    """What a tenant created: tasks per second, p50 and p99 of the calls in ms, calls, times of the last call."""

    per_s: float
    p50_ms: float
    p99_ms: float
    calls: int
    last_sent: float
    last_answered: float


# -- the load, in a process of its own -----------------------------------------------------------------------------


def create(address: str, tenant: str, per_second: int, seconds: float) -> Load:
    """Creates tasks of all commands at a fixed rate."""
    return asyncio.run(_create(address, tenant, per_second, seconds))


async def _create(address: str, tenant: str, per_second: int, seconds: float) -> Load:
    specs = [task_pb2.TaskSpec(command=f"READY-{number}", payload=b'{"n":1}') for number in range(COMMANDS)]
    request = pb.BatchCreateTasksRequest(tasks=specs)
    latencies: list[float] = []
    room, interval = asyncio.Semaphore(CALLS_AT_ONCE), COMMANDS / per_second
    last_answered = 0.0

    async def call() -> None:
        nonlocal last_answered
        try:
            began = time.perf_counter()
            reply = await stub.BatchCreateTasks(
                request, metadata=(("authorization", f"Bearer {tenant}"),), timeout=CALL_SECONDS_MAX
            )
        finally:
            room.release()
        latencies.append((time.perf_counter() - began) * 1000)
        last_answered = time.time()
        if any(answer.HasField("error") for answer in reply.results):
            raise BenchError("a task was refused")

    async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as group:
        stub: Any = TaskServiceStub(channel)
        began = time.perf_counter()
        for number in itertools.count():
            await asyncio.sleep(max(0.0, began + number * interval - time.perf_counter()))
            if time.perf_counter() - began >= seconds:
                break
            await room.acquire()
            last_sent = time.time()
            group.create_task(call())
    took = time.perf_counter() - began
    calls = percentiles(latencies, 2)
    per_s = len(latencies) * COMMANDS / took
    return Load(per_s, calls["p50_ms"], calls["p99_ms"], len(latencies), last_sent, last_answered)


# -- the measurement -----------------------------------------------------------------------------------------------


async def subscribe(address: str, port: int, options: argparse.Namespace) -> None:
    """Makes the subscriptions, each for one command and with a loopback address of its own."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = SubscriptionServiceStub(channel)
        for number in range(options.subscriptions):
            request = subscription_pb.CreateSubscriptionRequest(
                callback_url=f"http://127.1.{number // 250}.{number % 250 + 1}:{port}/{number}",
                event_types=[f"READY-{number % COMMANDS}"],
                ttl_seconds=3600,
                min_interval_seconds=options.interval,
            )
            await stub.CreateSubscription(
                request, metadata=(("authorization", f"Bearer {SUBSCRIBED}"),), timeout=CALL_SECONDS_MAX
            )


def measure(directory: Path, options: argparse.Namespace) -> dict[str, object]:
    """Returns the figures of signals and calls."""
    more = {"WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8"}
    loads: dict[str, list[Load]] = {PLAIN: [], SUBSCRIBED: []}
    with WebhookReceiver() as receiver:
        with (
            MeasuredServer(directory, tenants=(SUBSCRIBED, PLAIN), more=more) as server,
            ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
        ):
            pool.submit(create, server.producer, PLAIN, options.rate, WARMUP_SECONDS).result()
            asyncio.run(subscribe(server.worker, receiver.port, options))
            cpu: dict[str, float] = defaultdict(float)
            for _ in range(options.rounds):
                for tenant, known in loads.items():
                    before = server.read().cpu_seconds
                    known.append(pool.submit(create, server.producer, tenant, options.rate, options.seconds).result())
                    time.sleep(options.interval + 2 * LATE_AIM_SECONDS)
                    cpu[tenant] += server.read().cpu_seconds - before
            dropped = server.total("codeq_webhook_deliveries_total")
        signals = [Signal.of(request) for request in receiver.requests()]
    tasks = {tenant: sum(load.calls for load in known) * COMMANDS for tenant, known in loads.items()}
    p99 = {tenant: statistics.median(load.p99_ms for load in known) for tenant, known in loads.items()}
    p50 = {tenant: statistics.median(load.p50_ms for load in known) for tenant, known in loads.items()}
    return {
        "bench": "signals",
        **judge(signals, loads[SUBSCRIBED], options),
        "counted_by_metric": dropped,
        "edges_per_s": round(statistics.median(load.per_s for load in loads[SUBSCRIBED])),
        "create_p50_ms": {"with": p50[SUBSCRIBED], "without": p50[PLAIN]},
        "create_p99_ms": {"with": p99[SUBSCRIBED], "without": p99[PLAIN]},
        "create_p99_ms_of_rounds": {tenant: [load.p99_ms for load in known] for tenant, known in loads.items()},
        "server_cpu_us_per_create": {tenant: round(cpu[tenant] / tasks[tenant] * 1e6, 2) for tenant in loads},
        "aims": {"late_s": LATE_AIM_SECONDS, "create_p99_ratio": P99_AIM_RATIO, "rate_share": RATE_AIM_SHARE},
        "flags": {name: getattr(options, name) for name in ("subscriptions", "rate", "interval", "seconds", "rounds")},
        "commit": describe_commit(),
        "machine": describe_machine(BUILD),
    }


def judge(signals: list[Signal], loads: list[Load], options: argparse.Namespace) -> dict[str, object]:
    """Returns the figures of the signals.

    Of each subscription and round, the last signal must tell the depth after the last edge. It may be as late as the
    interval and LATE_AIM_SECONDS more.
    """
    by_path: dict[str, list[Signal]] = {f"/{number}": [] for number in range(options.subscriptions)}
    for signal in signals:
        by_path[signal.path].append(signal)
    spacing, late, unsignalled, depth = [], [], 0, 0
    for each in by_path.values():
        each.sort(key=lambda signal: signal.sent)
        spacing += [later.sent - earlier.sent for earlier, later in itertools.pairwise(each)]
    for load in loads:
        depth += load.calls
        for each in by_path.values():
            last = [signal for signal in each if signal.depth == depth]
            unsignalled += not last
            late += [max(0.0, signal.arrived - load.last_answered) for signal in last]
    return {
        "signals": len(signals),
        "spacing_min_s": round(min(spacing, default=0.0), 3),
        "unsignalled": unsignalled,
        "last_after_s": {"p50": round(statistics.median(late), 3), "max": round(max(late), 3)} if late else {},
    }


def is_good(result: dict[str, Any]) -> bool:
    """Returns whether every figure is within its target."""
    aims, flags, p99 = result["aims"], result["flags"], result["create_p99_ms"]
    return bool(
        not result["unsignalled"]
        and result["spacing_min_s"] >= flags["interval"] - SPACING_SLACK_SECONDS
        and result["last_after_s"]["max"] <= flags["interval"] + aims["late_s"]
        and p99["with"] <= aims["create_p99_ratio"] * p99["without"]
        and result["edges_per_s"] >= aims["rate_share"] * flags["rate"]
    )


def main() -> int:
    """Runs the bench; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures signals to subscriptions; prints one JSON line.")
    parser.add_argument("--subscriptions", type=int, default=1000, help="number of subscriptions (default 1000)")
    parser.add_argument("--rate", type=int, default=10_000, help="creates per second (default 10000)")
    parser.add_argument("--interval", type=int, default=5, help="seconds between two signals (default 5)")
    parser.add_argument("--seconds", type=float, default=12.0, help="length of each load (default 12)")
    parser.add_argument("--rounds", type=int, default=3, help="loads of each tenant (default 3)")
    parser.add_argument("--save", action="store_true", help="append the result to bench/results")
    options = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as directory:
        result = measure(Path(directory), options)
    tell("signals", result, save=options.save)
    return 0 if is_good(result) else 1


if __name__ == "__main__":
    sys.exit(main())
