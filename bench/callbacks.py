"""Measures callbacks: how fast they are delivered, and that receivers that are away hold up nobody.

    bench/callbacks.py drain                       10,000 queued callbacks to one receiver
    bench/callbacks.py outage                      2,000 completions/s while the receiver is up, unused and away
    bench/callbacks.py dead-host                   100 hosts, one silent and one closed
    bench/callbacks.py                             all three

The receiver is a process of its own. Prints one JSON line for each part. --save appends it to
bench/results/callbacks.jsonl. Exit code 1: a figure misses its aim, or a callback is missing, repeated too often or
not signed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
from codeq.v1 import producer_service_pb2 as produce_pb
from codeq.v1 import task_pb2
from codeq.v1 import worker_service_pb2 as work_pb
from codeq.v1.producer_service_pb2_grpc import ProducerServiceStub
from codeq.v1.worker_service_pb2_grpc import WorkerServiceStub
from measured_server import AUTH, TOKEN, BenchError, MeasuredServer
from run import BUILD, build_load, describe_commit, describe_machine, tell
from webhook_receiver import Report, WebhookReceiver

SECRET: Final = "secret-of-the-bench"  # noqa: S105 - signs requests to this machine only
LOCAL: Final = {"WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8", "WEBHOOK_HMAC_SECRET": SECRET}
"""Settings of a server that may call receivers on this machine."""
COMMAND: Final = "HOOKED"
FRAME: Final = 256
ARRIVE_SECONDS_MAX: Final = 180.0
POLL_SECONDS: Final = 0.05
DELIVERIES_AIM: Final = 2_000
"""Aim: deliveries in each second of CPU time of the server."""
PACED_FRAME: Final = 8
"""Tasks of a producer's frame in `outage`."""
P99_TIMES_AIM: Final = 1.1
"""Aim: p99 of creates with webhooks, as a multiple of that without."""
ONCE_AIM: Final = 0.99
TURNS: Final = 20
TURN_SECONDS: Final = 0.2
"""Tasks of each host in `dead-host`, and the pause after each round of all hosts."""
LAG_AIM_SECONDS: Final = 2.0
"""Aim: time from an end to the arrival of its callback, for hosts that answer."""


class Ends:
    """Creates tasks with webhooks, leases them all, and ends them when told."""

    def __init__(self, producer: Any, worker: Any) -> None:
        self._producer, self._worker = producer, worker

    @classmethod
    @asynccontextmanager
    async def opened(cls, server: MeasuredServer) -> AsyncIterator[Ends]:
        """Yields the streams to a server."""
        async with (
            grpc.aio.insecure_channel(server.producer) as to_producer,
            grpc.aio.insecure_channel(server.worker) as to_worker,
        ):
            producer: Any = ProducerServiceStub(to_producer).Produce(metadata=AUTH)
            worker: Any = WorkerServiceStub(to_worker).Work(metadata=AUTH)
            await producer.write(produce_pb.ProduceRequest(hello=produce_pb.ProducerHello()))
            await worker.write(work_pb.WorkRequest(hello=work_pb.WorkerHello(commands=[COMMAND], lease_seconds=600)))
            yield cls(producer, worker)
            producer.cancel()
            worker.cancel()

    async def lease(self, urls: Sequence[str]) -> list[task_pb2.Task]:
        """Creates a task for each URL, and leases them all, in this order."""
        await self._worker.write(work_pb.WorkRequest(add_credits=len(urls)))
        for first in range(0, len(urls), FRAME):
            specs = [
                task_pb2.TaskSpec(command=COMMAND, payload=b'{"n":1}', webhook=url)
                for url in urls[first : first + FRAME]
            ]
            await self._producer.write(produce_pb.ProduceRequest(tasks=specs))
        leased: list[task_pb2.Task] = []
        while len(leased) < len(urls):
            leased += (await self._worker.read()).tasks
        return leased

    async def end(self, tasks: Sequence[task_pb2.Task]) -> None:
        """Completes tasks; returns once all these ends are durable."""
        for first in range(0, len(tasks), FRAME):
            outcomes = [
                task_pb2.Outcome(
                    task_id=task.id,
                    lease_token=task.lease_token,
                    kind=task_pb2.OUTCOME_KIND_COMPLETED,
                    result=b'{"ok":true}',
                )
                for task in tasks[first : first + FRAME]
            ]
            await self._worker.write(work_pb.WorkRequest(outcomes=outcomes))
        left = len(tasks)
        while left:
            answer = await self._worker.read()
            if answer.outcome_errors:
                raise BenchError(f"an end was rejected: {answer.outcome_errors[0]}")
            left -= answer.settled


def wait_for(count: Callable[[], int], wanted: int) -> None:
    """Waits until a count is reached.

    Raises:
        BenchError: It was not reached in time.
    """
    deadline = time.monotonic() + ARRIVE_SECONDS_MAX
    while (found := count()) < wanted:
        if time.monotonic() > deadline:
            raise BenchError(f"{found} of {wanted} callbacks have arrived after {ARRIVE_SECONDS_MAX:g} s")
        time.sleep(POLL_SECONDS)


def check(report: Report, tasks: int) -> None:
    """Checks that all callbacks have arrived, with valid signatures.

    Raises:
        BenchError: Some have not.
    """
    if len(report.arrivals) != tasks or report.unsigned:
        raise BenchError(f"{len(report.arrivals)} of {tasks} callbacks have arrived, {report.unsigned} not signed")


# -- drain -----------------------------------------------------------------------------------------------------------


def drain(directory: Path, options: argparse.Namespace) -> tuple[dict[str, object], bool]:
    """Ends all tasks at once; measures the callbacks that are still to be delivered when all ends are durable."""
    with MeasuredServer(directory, more=LOCAL) as server, WebhookReceiver() as receiver:
        url = f"http://127.0.0.1:{receiver.port}/hook"

        async def end_all() -> tuple[float, float, int]:
            async with Ends.opened(server) as ends:
                tasks = await ends.lease([url] * options.tasks)
                await ends.end(tasks)
                return time.monotonic(), server.read().cpu_seconds, server.read().rows or 0

        began, cpu, rows = asyncio.run(end_all())
        wait_for(receiver.count, options.tasks)
        used, written = server.read().cpu_seconds - cpu, (server.read().rows or 0) - rows
        report = Report.of(receiver.requests(), SECRET)
    check(report, options.tasks)
    after = [at for at in report.arrivals.values() if at > began]
    seconds = max(after) - began
    per_core_s = len(after) / used
    figures: dict[str, object] = {
        "tasks": options.tasks,
        "queued": len(after),
        "deliveries_per_s": round(len(after) / seconds),
        "deliveries_per_core_s": round(per_core_s),
        "server_cpu_us_per_delivery": round(used * 1e6 / len(after)),
        "cores": round(used / seconds, 2),
        "row_ops_per_delivery": round(written / len(after), 2),
        "repeated": report.repeated,
        "aim_deliveries_per_core_s": DELIVERIES_AIM,
    }
    return figures, per_core_s >= DELIVERIES_AIM and not report.repeated


# -- outage ----------------------------------------------------------------------------------------------------------


def outage(directory: Path, options: argparse.Namespace) -> tuple[dict[str, object], bool]:
    """Completes tasks at a fixed rate: without webhooks, with a receiver, and with one that is away meanwhile."""
    p99: dict[str, list[float]] = {"off": [], "up": [], "down": []}
    tasks = repeated = requests = 0
    worst_wait = 0.0
    for number, mode in itertools.product(range(options.rounds), p99):
        folder = directory / f"{mode}-{number}"
        folder.mkdir()
        with MeasuredServer(folder, more=LOCAL) as server, WebhookReceiver() as receiver:
            load, back = _loaded(server, receiver, mode, options)
            p99[mode].append(float(load["create_p99_ms"]))
            if mode == "off":
                continue
            wait_for(receiver.count, load["completed"])
            report = Report.of(receiver.requests(), SECRET)
        check(report, load["completed"])
        worst_wait = max(worst_wait, max(report.arrivals.values()) - back)
        tasks, repeated, requests = tasks + load["completed"], repeated + report.repeated, requests + report.requests
    medians = {mode: statistics.median(values) for mode, values in p99.items()}
    once = 1 - repeated / tasks
    figures: dict[str, object] = {
        "rate": options.rate,
        "seconds": options.seconds,
        "create_p99_ms": medians,
        "callbacks": tasks,
        "repeated": repeated,
        "exactly_once": round(once, 5),
        "last_arrival_s": round(worst_wait, 1),
        "aims": {"create_p99_times": P99_TIMES_AIM, "exactly_once": ONCE_AIM},
    }
    return figures, max(medians.values()) <= P99_TIMES_AIM * medians["off"] and once >= ONCE_AIM


def _loaded(
    server: MeasuredServer, receiver: WebhookReceiver, mode: str, options: argparse.Namespace
) -> tuple[dict[str, Any], float]:
    """Runs the load; returns its result, and the time at which the receiver was back."""
    url = [] if mode == "off" else ["-webhook", f"http://127.0.0.1:{receiver.port}/hook"]
    command = [str(build_load()), "stream", "-address", server.producer, "-worker-address", server.worker]
    command += ["-token", TOKEN, "-command", COMMAND, "-frame", str(PACED_FRAME), "-rate", str(options.rate)]
    command += ["-seconds", f"{options.seconds:g}", "-warmup", "3", *url]
    result: dict[str, Any] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        assert load.stdout is not None
        for line in load.stdout:
            result = json.loads(line)
            if mode == "down" and result["event"] == "started":
                receiver.go_away()
            elif mode == "down" and result["event"] == "stopped":
                receiver.come_back()
    if load.returncode or result.get("event") != "result" or result["refused"]:
        raise BenchError(f"the load failed; the server's log ends with:\n{server.log}")
    return result, time.monotonic()


# -- dead host -------------------------------------------------------------------------------------------------------


def dead_host(directory: Path, options: argparse.Namespace) -> tuple[dict[str, object], bool]:
    """Ends tasks of many hosts in turn, one of which never answers, and one of which has closed its port."""
    silent, *others = [f"127.0.1.{number}" for number in range(1, options.hosts)]
    with MeasuredServer(directory, more=LOCAL) as server, WebhookReceiver(silent) as receiver:
        with socket.create_server(("127.0.0.1", 0)) as unused:
            closed = f"http://127.0.0.1:{unused.getsockname()[1]}/hook"
        urls = [closed, *(f"http://{host}:{receiver.port}/hook" for host in (silent, *others))]

        async def end_in_turns() -> None:
            async with Ends.opened(server) as ends:
                tasks = await ends.lease(urls * TURNS)
                for first in range(0, len(tasks), len(urls)):
                    await ends.end(tasks[first : first + len(urls)])
                    await asyncio.sleep(TURN_SECONDS)

        asyncio.run(end_in_turns())
        wait_for(receiver.count, len(others) * TURNS)
        report = Report.of(receiver.requests(), SECRET)
    check(report, len(others) * TURNS)
    slowest = max(max(each) for each in report.lags.values())
    figures: dict[str, object] = {
        "hosts": options.hosts,
        "callbacks_of_each": TURNS,
        "served_hosts": len(report.lags),
        "lag_p50_ms": round(statistics.median(itertools.chain(*report.lags.values())) * 1000, 1),
        "lag_max_ms": round(slowest * 1000, 1),
        "repeated": report.repeated,
        "aim_lag_max_ms": LAG_AIM_SECONDS * 1000,
    }
    return figures, slowest <= LAG_AIM_SECONDS and len(report.lags) == len(others)


PARTS: Final[dict[str, Callable[[Path, argparse.Namespace], tuple[dict[str, object], bool]]]] = {
    "drain": drain,
    "outage": outage,
    "dead-host": dead_host,
}


def main() -> int:
    """Runs the bench; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures callbacks; prints one JSON line for each part.")
    parser.add_argument(
        "parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=f"{', '.join(PARTS)} (default: all)"
    )
    parser.add_argument("--tasks", type=int, default=10_000, help="callbacks of drain (default 10000)")
    parser.add_argument("--rate", type=int, default=2_000, help="completions per second of outage (default 2000)")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the outage (default 30)")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of outage, whose median counts (default 1)")
    parser.add_argument("--hosts", type=int, default=100, help="hosts of dead-host (default 100)")
    parser.add_argument("--save", action="store_true", help="append the results to bench/results")
    options = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    all_good = True
    for part in options.parts or PARTS:
        machine = describe_machine(BUILD)
        try:
            with tempfile.TemporaryDirectory(dir=BUILD) as directory:
                figures, good = PARTS[part](Path(directory), options)
        except BenchError as error:
            print(f"bench: {part}: {error}", file=sys.stderr)
            return 1
        line = {"bench": "callbacks", "part": part, **figures, "good": good}
        tell("callbacks", line | {"commit": describe_commit(), "machine": machine}, save=options.save)
        all_good = all_good and good
    return 0 if all_good else 1


if __name__ == "__main__":
    sys.exit(main())
