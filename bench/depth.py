"""Measures a deep queue: memory with many waiting tasks, a restart on them, and whether claims stay in order.

    bench/depth.py                      2 million tasks of 200 bytes in one queue
    bench/depth.py --tasks 100000

Prints one JSON line: rss_mb after the creates and after the restart, start_seconds of the restart to ready, and
in_order: whether the tasks claimed after it come in the order of their creation. --save appends it to
bench/results/depth.jsonl.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
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
from measured_server import TOKEN, BenchError, MeasuredServer
from run import BUILD, RESULTS, describe_commit, describe_machine

COMMAND: Final = "DEEP"
FRAME_TASKS: Final = 1000
PAYLOAD_BYTES: Final = 200
CLAIMED: Final = 20_000
"""Tasks claimed after the restart, to see their order."""
AUTH: Final = (("authorization", f"Bearer {TOKEN}"),)


def payload(number: int) -> bytes:
    """Returns a JSON payload of PAYLOAD_BYTES that tells the number of its task."""
    head = b'{"n":%d,"text":"' % number
    return head + b"x" * (PAYLOAD_BYTES - len(head) - 2) + b'"}'


def frames(tasks: int) -> Iterator[producer_pb.ProduceRequest]:
    """Yields the frames that create the tasks, the hello in the first."""
    hello: producer_pb.ProducerHello | None = producer_pb.ProducerHello()
    for first in range(0, tasks, FRAME_TASKS):
        numbers = range(first, min(first + FRAME_TASKS, tasks))
        specs = [task_pb2.TaskSpec(command=COMMAND, payload=payload(number)) for number in numbers]
        yield producer_pb.ProduceRequest(hello=hello, tasks=specs)
        hello = None


async def create(address: str, tasks: int) -> None:
    """Creates the tasks over one stream; returns when all are acknowledged."""
    async with grpc.aio.insecure_channel(address) as channel:
        stream: Any = ProducerServiceStub(channel).Produce(metadata=AUTH)

        async def send() -> None:
            for frame in frames(tasks):
                await stream.write(frame)
            await stream.done_writing()

        acknowledged = 0
        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            while (message := await stream.read()) is not grpc.aio.EOF:
                acknowledged += sum(len(ack.task_ids) - len(ack.errors) for ack in message.acks)
    if acknowledged != tasks:
        raise BenchError(f"{acknowledged} of {tasks} creates were acknowledged")


async def claim(address: str, count: int) -> list[int]:
    """Returns the numbers of the tasks that a worker stream gets first; they are given back."""
    numbers: list[int] = []
    async with grpc.aio.insecure_channel(address, options=[("grpc.max_receive_message_length", 16 << 20)]) as channel:
        stream: Any = WorkerServiceStub(channel).Work(metadata=AUTH)
        hello = worker_pb.WorkerHello(commands=[COMMAND])
        await stream.write(worker_pb.WorkRequest(hello=hello, add_credits=count))
        while len(numbers) < count:
            message = await stream.read()
            numbers += [json.loads(task.payload)["n"] for task in message.tasks]
        await stream.done_writing()
        while await stream.read() is not grpc.aio.EOF:
            pass
    return numbers


def measure(directory: Path, tasks: int) -> dict[str, object]:
    """Fills a fresh server, restarts it, claims; returns the figures."""
    server = MeasuredServer(directory)
    with server:
        began = time.monotonic()
        asyncio.run(create(server.producer, tasks))
        creates_per_s = round(tasks / (time.monotonic() - began))
        rss_full = server.rss_mb()
    began = time.monotonic()
    with server:
        start_seconds = time.monotonic() - began
        if server.queue_counts(COMMAND)["ready"] != tasks:
            raise BenchError(f"{server.queue_counts(COMMAND)} after the restart, {tasks} were ready before")
        wanted = min(CLAIMED, tasks)
        numbers = asyncio.run(claim(server.worker, wanted))
        again = asyncio.run(claim(server.worker, wanted))
        rss_again = server.rss_mb()
        store_mb = server.store_mb()
    return {
        "bench": "depth",
        "tasks": tasks,
        "payload_bytes": PAYLOAD_BYTES,
        "creates_per_s": creates_per_s,
        "rss_mb": round(rss_full, 1),
        "rss_after_restart_mb": round(rss_again, 1),
        "start_seconds": round(start_seconds, 2),
        "in_order": numbers == again == list(range(wanted)),
        "store_mb": round(store_mb, 1),
    }


def main() -> int:
    """Runs the bench; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures a deep queue; prints one JSON line.")
    parser.add_argument("--tasks", type=int, default=2_000_000, help="tasks that wait (default 2000000)")
    parser.add_argument("--save", action="store_true", help="append the result to bench/results")
    options = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as directory:
        result = measure(Path(directory), options.tasks) | {
            "commit": describe_commit(),
            "machine": describe_machine(BUILD),
        }
    print(json.dumps(result))
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / "depth.jsonl").open("a") as results:
            results.write(json.dumps(result) + "\n")
    return 0 if result["in_order"] else 1


if __name__ == "__main__":
    sys.exit(main())
