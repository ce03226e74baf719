"""Measures herds: delayed tasks that fall due at once, and leases that expire at once, beside a quiet tenant.

    bench/herd.py                                   1 million delayed tasks, then 100,000 leases
    bench/herd.py --tasks 100000 --leases 10000

The quiet tenant creates, claims and completes one task at a time: alone, while the tasks of another tenant fall due,
and while that tenant's leases expire, all at once because startup rearms every lease. Prints one JSON line:
p50, p99 and maximum of the quiet tenant's calls in milliseconds, how many tasks returned per second, and the memory in
MB that the server needs for the leases (leased_mb). --save appends it to bench/results/herd.jsonl. Exit code 1: a p99
during a herd, or a rate, misses its target.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
from codeq.v1 import producer_service_pb2 as producer_pb
from codeq.v1 import task_pb2
from codeq.v1 import worker_service_pb2 as worker_pb
from codeq.v1.producer_service_pb2_grpc import ProducerServiceStub
from codeq.v1.worker_service_pb2_grpc import WorkerServiceStub
from google.protobuf.timestamp_pb2 import Timestamp
from measured_server import BenchError, MeasuredServer
from probe import TENANT, Latencies, for_seconds, probe
from run import BUILD, describe_commit, describe_machine, tell

HERDING: Final = "herd"
"""Tenant of the herds."""
AUTH: Final = (("authorization", f"Bearer {HERDING}"),)
FRAME_TASKS: Final = 500
STREAM_CREDITS: Final = 50_000
"""Credits of one worker stream."""
CREATES_PER_SECOND_MIN: Final = 10_000
"""Assumed create rate, which determines when the tasks are due."""
LEAD_SECONDS: Final = 5.0
LEASE_SECONDS: Final = 20
SAMPLE_SECONDS: Final = 0.1
HERD_SECONDS_MAX: Final = 600.0
P99_AIM_MS: Final = 200.0
RATE_AIM: Final = 20_000


def frames(command: str, tasks: int, due: float | None) -> Iterator[producer_pb.ProduceRequest]:
    """Yields the frames that create tasks, due at a Unix time or at once; the first one contains the hello."""
    run_at = None if due is None else Timestamp(seconds=int(due))
    spec = task_pb2.TaskSpec(command=command, payload=b'{"n":1}', run_at=run_at)
    hello: producer_pb.ProducerHello | None = producer_pb.ProducerHello()
    for first in range(0, tasks, FRAME_TASKS):
        yield producer_pb.ProduceRequest(hello=hello, tasks=[spec] * min(FRAME_TASKS, tasks - first))
        hello = None


async def create(address: str, command: str, tasks: int, due: float | None = None) -> None:
    """Creates tasks over one stream; returns when all are acknowledged."""
    acknowledged = 0
    async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as group:
        stream: Any = ProducerServiceStub(channel).Produce(metadata=AUTH)

        async def send() -> None:
            for frame in frames(command, tasks, due):
                await stream.write(frame)
            await stream.done_writing()

        group.create_task(send())
        while (message := await stream.read()) is not grpc.aio.EOF:
            acknowledged += sum(len(ack.task_ids) - len(ack.errors) for ack in message.acks)
    if acknowledged != tasks:
        raise BenchError(f"{acknowledged} of {tasks} creates were acknowledged")


async def lease(address: str, command: str, tasks: int) -> None:
    """Claims tasks over worker streams, then breaks the streams, so that the leases remain."""
    async with grpc.aio.insecure_channel(address) as channel:
        for first in range(0, tasks, STREAM_CREDITS):
            wanted = min(STREAM_CREDITS, tasks - first)
            stream: Any = WorkerServiceStub(channel).Work(metadata=AUTH)
            hello = worker_pb.WorkerHello(commands=[command], lease_seconds=LEASE_SECONDS)
            await stream.write(worker_pb.WorkRequest(hello=hello, add_credits=wanted))
            got = 0
            while got < wanted:
                got += len((await stream.read()).tasks)
            stream.cancel()


class Herd:
    """Watches a counter of the server grow by an expected amount.

    Attributes:
        seconds: Time from the last sample before the counter grew to the sample at which the growth was complete.
    """

    def __init__(self, server: MeasuredServer, counter: str, count: int) -> None:
        self._server, self._counter, self._wanted = server, counter, count
        self._start = self._value()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="herd")
        self.seconds = 0.0
        self._thread.start()

    def goes_on(self) -> bool:
        """Returns whether the herd is still incomplete."""
        return not self._done.is_set()

    def figures(self) -> dict[str, float]:
        """Returns how long the herd took and its rate.

        Raises:
            BenchError: The herd was not complete in time.
        """
        self._thread.join()
        if self._value() - self._start < self._wanted:
            raise BenchError(f"{self._counter} grew by {self._value() - self._start:.0f}, not by {self._wanted}")
        return {"count": self._wanted, "seconds": round(self.seconds, 2), "per_s": round(self._wanted / self.seconds)}

    def _value(self) -> float:
        return self._server.total(self._counter) or 0

    def _watch(self) -> None:
        deadline = time.monotonic() + HERD_SECONDS_MAX
        began = 0.0
        while time.monotonic() < deadline:
            before = time.monotonic()
            grown = self._value() - self._start
            if grown and not began:
                began = before - SAMPLE_SECONDS
            if grown >= self._wanted:
                self.seconds = time.monotonic() - began
                break
            time.sleep(SAMPLE_SECONDS)
        self._done.set()


def beside(server: MeasuredServer, counter: str, count: int) -> dict[str, object]:
    """Returns the figures of a herd and of the quiet tenant's calls during it."""
    herd = Herd(server, counter, count)
    calls = asyncio.run(probe(server.producer, herd.goes_on))
    return {**herd.figures(), "calls": calls}


def wait_until(at: float) -> None:
    """Sleeps until a Unix time.

    Raises:
        BenchError: The time has passed.
    """
    if time.time() > at:
        raise BenchError("the creates took so long that the tasks are already due")
    time.sleep(at - time.time())


def measure(directory: Path, tasks: int, leases: int) -> dict[str, object]:
    """Returns the figures of both herds."""
    server = MeasuredServer(directory, tenants=(TENANT, HERDING))
    with server:
        alone = asyncio.run(probe(server.producer, for_seconds(LEAD_SECONDS)))
        due = int(time.time() + tasks / CREATES_PER_SECOND_MIN + 2 * LEAD_SECONDS)
        asyncio.run(create(server.producer, "DELAYED", tasks, due))
        wait_until(due - LEAD_SECONDS / 5)
        delayed = beside(server, "codeq_tasks_matured_total", tasks)
        asyncio.run(create(server.producer, "LEASED", leases))
        unleased_mb = server.rss_mb()
        asyncio.run(lease(server.worker, "LEASED", leases))
        leased_mb = server.rss_mb() - unleased_mb
    with server:
        started = time.monotonic()
        time.sleep(max(0.0, started + LEASE_SECONDS - LEAD_SECONDS - time.monotonic()))
        leased = beside(server, "codeq_lease_expired_total", leases)
        rss_mb = server.rss_mb()
    return {
        "bench": "herd",
        "alone": alone,
        "delayed": delayed,
        "leases": leased,
        "leased_mb": round(leased_mb, 1),
        "rss_mb": round(rss_mb, 1),
        "aim_p99_ms": P99_AIM_MS,
        "aim_per_s": RATE_AIM,
        "commit": describe_commit(),
        "machine": describe_machine(BUILD),
    }


def is_good(herd: Any) -> bool:
    """Returns whether a herd was processed fast enough without slowing down the quiet tenant."""
    return bool(herd["per_s"] >= RATE_AIM and Latencies.worst_p99(herd["calls"]) <= P99_AIM_MS)


def main() -> int:
    """Runs the bench; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures herds beside a quiet tenant; prints one JSON line.")
    parser.add_argument("--tasks", type=int, default=1_000_000, help="tasks due at once (default 1000000)")
    parser.add_argument("--leases", type=int, default=100_000, help="leases that expire at once (default 100000)")
    parser.add_argument("--save", action="store_true", help="append the result to bench/results")
    options = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as directory:
        result = measure(Path(directory), options.tasks, options.leases)
    tell("herd", result, save=options.save)
    return 0 if is_good(result["delayed"]) and is_good(result["leases"]) else 1


if __name__ == "__main__":
    sys.exit(main())
