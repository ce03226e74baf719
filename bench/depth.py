"""Measures deep queues: memory, restart, single claims, and whether the create rate stays constant.

    bench/depth.py                                      2 million tasks of 200 bytes in one queue
    bench/depth.py --tasks 10000000 --queues 1000
    bench/depth.py --tasks 1000000 --queues 100000      many queues: startup and memory

Fills a fresh server over one stream, kills and restarts it, and claims. Prints one JSON line:

    creates_per_s       rate of all creates; creates_ratio: rate of the last tenth divided by that of the first
    rss_mb              peak resident memory while filling; rss_after_restart_mb: peak after the restart
    start_seconds       time to ready after the kill, including the replay of the store's log
    claim_p99_ms        of single claims in random queues after a restart; claim_cold_p99_ms: of each queue's first
                        claim, whose head is not in memory yet; claim_loaded_p99_ms: under a load of creates
    in_order            whether tasks are delivered in order of creation

--save appends it to bench/results/depth.jsonl.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import grpc
from codeq.v1 import producer_service_pb2 as producer_pb
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as task_pb
from codeq.v1 import worker_service_pb2 as worker_pb
from codeq.v1.producer_service_pb2_grpc import ProducerServiceStub
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from codeq.v1.worker_service_pb2_grpc import WorkerServiceStub
from measured_server import AUTH, BenchError, MeasuredServer
from run import BUILD, describe_commit, describe_machine, tell

FRAME_TASKS: Final = 1000
RUN_TASKS_MAX: Final = 100
"""Maximum number of consecutive tasks that go to the same queue."""
PAYLOAD_BYTES: Final = 200
ORDERED: Final = 20_000
"""Tasks claimed to check their order, over all checked queues."""
ORDERED_QUEUES: Final = 10
LONE_CLAIMS_MAX: Final = 3_000
"""Sequential claims, once without load and once with; at most a tenth of the tasks."""
LOAD_PER_S: Final = 5_000
"""Creates per second during the claims under load."""
LOAD_FRAME_TASKS: Final = 100
RSS_SECONDS: Final = 0.5

_DRAW = random.Random(1)
_TEXT: Final = "".join(_DRAW.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=1 << 22)).encode()
"""Incompressible text, so that the store does not look smaller than with real payloads."""


def payload(number: int) -> bytes:
    """Returns a JSON payload of PAYLOAD_BYTES that contains the number of its task."""
    head = b'{"n":%d,"text":"' % number
    length = PAYLOAD_BYTES - len(head) - 2
    start = number * 1_000_003 % (len(_TEXT) - length)
    return head + _TEXT[start : start + length] + b'"}'


@dataclass(frozen=True, slots=True)
class Spread:
    """How tasks are spread over queues.

    Attributes:
        queues: Number of queues.
        run: Consecutive tasks that go to the same queue; queues take turns.
    """

    queues: int
    run: int

    def command(self, number: int) -> str:
        """Returns the command of the task with this number."""
        return f"DEEP.{number // self.run % self.queues}"

    def numbers(self, queue: int) -> Iterator[int]:
        """Yields the numbers of a queue's tasks in order."""
        for first in count(queue * self.run, self.queues * self.run):
            yield from range(first, first + self.run)

    def frame(self, numbers: range) -> producer_pb.ProduceRequest:
        """Returns the frame that creates these tasks."""
        specs = [task_pb2.TaskSpec(command=self.command(n), payload=payload(n)) for n in numbers]
        return producer_pb.ProduceRequest(tasks=specs)


async def create(address: str, tasks: int, spread: Spread) -> tuple[float, float]:
    """Creates the tasks over one stream; returns the overall rate, and the last tenth's rate divided by the first's."""
    async with grpc.aio.insecure_channel(address) as channel:
        stream: Any = ProducerServiceStub(channel).Produce(metadata=AUTH)

        async def send() -> None:
            await stream.write(producer_pb.ProduceRequest(hello=producer_pb.ProducerHello()))
            for first in range(0, tasks, FRAME_TASKS):
                await stream.write(spread.frame(range(first, min(first + FRAME_TASKS, tasks))))
            await stream.done_writing()

        began = time.monotonic()
        acknowledged, points = 0, [(0, began)]
        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            while (message := await stream.read()) is not grpc.aio.EOF:
                acknowledged += sum(len(ack.task_ids) - len(ack.errors) for ack in message.acks)
                points.append((acknowledged, time.monotonic()))
    if acknowledged != tasks:
        raise BenchError(f"{acknowledged} of {tasks} creates were acknowledged")
    first = next(point for point in points if point[0] * 10 >= tasks)
    last = next(point for point in reversed(points) if point[0] * 10 <= tasks * 9)
    return rate(points[0], points[-1]), rate(last, points[-1]) / rate(points[0], first)


def rate(start: tuple[int, float], end: tuple[int, float]) -> float:
    """Returns creates per second between two samples of a count."""
    return (end[0] - start[0]) / (end[1] - start[1])


async def claim_in_order(address: str, command: str, wanted: int) -> list[int]:
    """Returns the numbers of the first tasks that a worker stream receives, and gives the tasks back."""
    numbers: list[int] = []
    async with grpc.aio.insecure_channel(address, options=[("grpc.max_receive_message_length", 16 << 20)]) as channel:
        stream: Any = WorkerServiceStub(channel).Work(metadata=AUTH)
        hello = worker_pb.WorkerHello(commands=[command])
        await stream.write(worker_pb.WorkRequest(hello=hello, add_credits=wanted))
        while len(numbers) < wanted:
            message = await stream.read()
            numbers += [json.loads(task.payload)["n"] for task in message.tasks]
        await stream.done_writing()
        while await stream.read() is not grpc.aio.EOF:
            pass
    return numbers


def lone_claims(tasks: int) -> int:
    """Returns how many single claims to make among this many tasks."""
    return min(LONE_CLAIMS_MAX, tasks // 10)


async def claim_lone(address: str, claims: int, queues: int) -> tuple[list[float], list[float]]:
    """Claims one task at a time from random queues; returns the seconds of all claims, and of each queue's first."""
    every: list[float] = []
    cold: list[float] = []
    met: set[str] = set()
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = TaskServiceStub(channel)
        await stub.GetTask(task_pb.GetTaskRequest(task_id="none"), metadata=AUTH).code()  # opens the connection
        for _ in range(claims):
            command = f"DEEP.{_DRAW.randrange(queues)}"
            began = time.perf_counter()
            response = await stub.ClaimTask(task_pb.ClaimTaskRequest(commands=[command]), metadata=AUTH)
            seconds = time.perf_counter() - began
            if not response.task.id:
                raise BenchError(f"no task was claimed in {command}, although it is full")
            every.append(seconds)
            if command not in met:
                met.add(command)
                cold.append(seconds)
    return every, cold


async def claim_under_load(worker: str, producer: str, tasks: int, spread: Spread) -> list[float]:
    """Claims like `claim_lone` while LOAD_PER_S tasks are created each second."""
    async with grpc.aio.insecure_channel(producer) as channel:
        stream: Any = ProducerServiceStub(channel).Produce(metadata=AUTH)
        await stream.write(producer_pb.ProduceRequest(hello=producer_pb.ProducerHello()))

        async def send() -> None:
            began = time.monotonic()
            for first in count(0, LOAD_FRAME_TASKS):
                await asyncio.sleep(max(0.0, began + first / LOAD_PER_S - time.monotonic()))
                await stream.write(spread.frame(range(tasks + first, tasks + first + LOAD_FRAME_TASKS)))

        async def receive() -> None:
            while await stream.read() is not grpc.aio.EOF:
                pass

        load = [asyncio.create_task(send()), asyncio.create_task(receive())]
        try:
            return (await claim_lone(worker, lone_claims(tasks), spread.queues))[0]
        finally:
            for task in load:
                task.cancel()
            await asyncio.gather(*load, return_exceptions=True)
            stream.cancel()


def p99_ms(seconds: list[float]) -> float:
    """Returns the 99th percentile in milliseconds."""
    return round(sorted(seconds)[len(seconds) * 99 // 100] * 1000, 2)


@contextmanager
def rss_samples(server: MeasuredServer) -> Iterator[list[float]]:
    """Samples the server's memory within the block; yields the growing list of samples in megabytes."""
    samples = [server.rss_mb()]
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(RSS_SECONDS):
            samples.append(server.rss_mb())

    sampler = threading.Thread(target=sample, name="rss")
    sampler.start()
    try:
        yield samples
    finally:
        ended.set()
        sampler.join()
        samples.append(server.rss_mb())


def comes_in_order(server: MeasuredServer, tasks: int, spread: Spread) -> bool:
    """Returns whether a sample of queues delivers tasks in order of creation, also after they have been given back."""
    looked = _DRAW.sample(range(spread.queues), min(spread.queues, ORDERED_QUEUES))
    wanted = min(ORDERED // len(looked), tasks // spread.queues)
    for queue in looked:
        numbers = spread.numbers(queue)
        expected = [next(numbers) for _ in range(wanted)]
        for _ in range(2):
            if asyncio.run(claim_in_order(server.worker, f"DEEP.{queue}", wanted)) != expected:
                return False
    return True


def measure(directory: Path, tasks: int, queues: int) -> dict[str, object]:
    """Fills a fresh server, restarts it, claims, and returns the figures."""
    spread = Spread(queues, min(RUN_TASKS_MAX, tasks // queues))
    server = MeasuredServer(directory, queues_max=queues)
    with server:
        with rss_samples(server) as rss_full:
            creates_per_s, creates_ratio = asyncio.run(create(server.producer, tasks, spread))
        server.kill()
    began = time.monotonic()
    with server:
        start_seconds = time.monotonic() - began
        with rss_samples(server) as rss_again:
            ready = sum(server.ready_counts())
            if ready != tasks:
                raise BenchError(f"{ready} tasks are ready after the restart, but {tasks} were created")
            store_mb = server.store_mb()
            in_order = comes_in_order(server, tasks, spread)
    with server, rss_samples(server) as rss_claims:
        every, cold = asyncio.run(claim_lone(server.worker, lone_claims(tasks), queues))
        loaded = asyncio.run(claim_under_load(server.worker, server.producer, tasks, spread))
    return {
        "bench": "depth",
        "tasks": tasks,
        "queues": queues,
        "payload_bytes": PAYLOAD_BYTES,
        "creates_per_s": round(creates_per_s),
        "creates_ratio": round(creates_ratio, 2),
        "rss_mb": round(max(rss_full), 1),
        "rss_after_restart_mb": round(max(rss_again + rss_claims), 1),
        "start_seconds": round(start_seconds, 2),
        "claim_p99_ms": p99_ms(every),
        "claim_cold_p99_ms": p99_ms(cold),
        "claim_loaded_p99_ms": p99_ms(loaded),
        "in_order": in_order,
        "store_mb": round(store_mb, 1),
    }


def main() -> int:
    """Runs the bench; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures deep queues; prints one JSON line.")
    parser.add_argument("--tasks", type=int, default=2_000_000, help="waiting tasks (default 2000000)")
    parser.add_argument("--queues", type=int, default=1, help="queues that share them (default 1)")
    parser.add_argument("--directory", type=Path, default=BUILD, help="parent folder of the store (default build/)")
    parser.add_argument("--save", action="store_true", help="append the result to bench/results")
    options = parser.parse_args()
    run = min(RUN_TASKS_MAX, options.tasks // max(1, options.queues))
    if options.queues < 1 or run < 1 or options.tasks % (options.queues * run):
        parser.error("every queue must get the same number of tasks, in whole runs")
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        result = measure(Path(directory), options.tasks, options.queues) | {
            "commit": describe_commit(),
            "machine": describe_machine(options.directory),
        }
    tell("depth", result, save=options.save)
    return 0 if result["in_order"] else 1


if __name__ == "__main__":
    sys.exit(main())
