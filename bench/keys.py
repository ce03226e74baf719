"""Measures queues whose tasks have concurrency keys, with a limit of 1 and a hot key at the head of the queue.

    bench/keys.py                                  100,000 keys, and 50,000 tasks of one more key ahead of them
    bench/keys.py --part claims --keys 20000 --hot 10000
    bench/keys.py --part throughput --runs 5 --seconds 8

One task of the hot key is leased throughout, so that the others of that key must wait. Prints one JSON line:

    claims          single claims, each of another key, one after the other: the first one, which waits until the server
                    has passed the hot key's tasks, then p50, p99 and maximum of the others, in milliseconds; and the
                    same of claims from a queue without keys, made in turn with them, to show the noise of the machine
    throughput      full cycles per second over streams: of tasks without keys, of tasks with keys and no limit, and of
                    tasks with keys and limits while the hot key's tasks wait: medians, and the median ratio

A worker that gets a second task of a key fails the bench. --save appends the line to bench/results/keys.jsonl. Exit
code 1: a figure misses its target.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import grpc
from codeq.v1 import producer_service_pb2 as producer_pb
from codeq.v1 import task_pb2, topic_service_pb2
from codeq.v1 import task_service_pb2 as task_pb
from codeq.v1.producer_service_pb2_grpc import ProducerServiceStub
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from codeq.v1.topic_service_pb2_grpc import TopicServiceStub
from measured_server import AUTH, TOKEN, BenchError, MeasuredServer
from run import BUILD, COMMAND, Subject, build_load, describe_commit, describe_machine, percentiles, run_load, tell

PARTS: Final = ("claims", "throughput")
KINDS: Final = {"plain": (False, False), "unlimited": (True, False), "limited": (True, True)}
"""Loads of the throughput: whether tasks have keys, and whether keys have limits."""
HOT: Final = "hot"
PLAIN_COMMAND: Final = "PLAIN"
PRIORITY: Final = 3
"""Priority of the load's tasks."""
FRAME_TASKS: Final = 1000
CLAIMS_MAX: Final = 5_000
LEASE_SECONDS: Final = 3600
FIRST_SECONDS_MAX: Final = 30
CLAIM_AIM_MS: Final = 5.0
RATIO_AIM: Final = 0.8


def specs(keys: Iterable[str]) -> Iterator[task_pb2.TaskSpec]:
    """Yields a task for each key."""
    for key in keys:
        yield task_pb2.TaskSpec(command=COMMAND, payload=b'{"n":1}', priority=PRIORITY, concurrency_key=key)


async def create(channel: grpc.aio.Channel, tasks: list[task_pb2.TaskSpec]) -> None:
    """Creates the tasks over one stream, and waits until all are acknowledged."""
    stream: Any = ProducerServiceStub(channel).Produce(metadata=AUTH)
    await stream.write(producer_pb.ProduceRequest(hello=producer_pb.ProducerHello()))

    async def send() -> None:
        for first in range(0, len(tasks), FRAME_TASKS):
            await stream.write(producer_pb.ProduceRequest(tasks=tasks[first : first + FRAME_TASKS]))
        await stream.done_writing()

    accepted = 0
    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        while (message := await stream.read()) is not grpc.aio.EOF:
            accepted += sum(len(ack.task_ids) - len(ack.errors) for ack in message.acks)
    if accepted != len(tasks):
        raise BenchError(f"{accepted} of {len(tasks)} creates were acknowledged")


async def limit(channel: grpc.aio.Channel) -> None:
    """Allows one leased task per key."""
    policy = topic_service_pb2.QueuePolicy(concurrency_per_key=1)
    put: Any = TopicServiceStub(channel).PutTopic
    await put(topic_service_pb2.PutTopicRequest(command=COMMAND, policy=policy), metadata=AUTH)


async def claim(stub: Any, command: str, wait_seconds: int = 0) -> task_pb2.Task:
    """Leases one task."""
    request = task_pb.ClaimTaskRequest(commands=[command], lease_seconds=LEASE_SECONDS, wait_seconds=wait_seconds)
    response = await stub.ClaimTask(request, metadata=AUTH)
    task: task_pb2.Task = response.task
    if not task.id:
        raise BenchError("no task was claimed, although the queue has tasks whose keys are free")
    return task


async def hold_hot_key(channel: grpc.aio.Channel, hot: int) -> None:
    """Creates the tasks of the hot key, and leases one of them."""
    await create(channel, list(specs([HOT] * hot)))
    await claim(TaskServiceStub(channel), COMMAND)


async def timed_claim(stub: Any, command: str) -> tuple[task_pb2.Task, float]:
    """Leases one task; returns it and the milliseconds that the call took."""
    began = time.perf_counter()
    task = await claim(stub, command, FIRST_SECONDS_MAX)
    return task, (time.perf_counter() - began) * 1000


async def claims(server: MeasuredServer, keys: int, hot: int) -> dict[str, object]:
    """Claims tasks of other keys, one at a time; returns the milliseconds that the claims took.

    Raises:
        BenchError: A claim got no task, or a task of a key that has a leased one.
    """
    async with grpc.aio.insecure_channel(server.producer) as channel:
        await limit(channel)
        await hold_hot_key(channel, hot)
        await create(channel, list(specs(f"k-{number}" for number in range(keys))))
        count = min(CLAIMS_MAX, keys)
        await create(channel, [task_pb2.TaskSpec(command=PLAIN_COMMAND, payload=b'{"n":1}')] * count)
        stub: Any = TaskServiceStub(channel)
        times: list[float] = []
        plain: list[float] = []
        for number in range(count):
            task, took = await timed_claim(stub, COMMAND)
            if task.concurrency_key != f"k-{number}":
                raise BenchError(f"the claim of key k-{number} got a task of {task.concurrency_key}")
            times.append(took)
            plain.append((await timed_claim(stub, PLAIN_COMMAND))[1])
    others = percentiles(times[1:], 2)
    return {"first_ms": round(times[0], 1), "claims": count, **others, "plain": percentiles(plain[1:], 2)}


@contextmanager
def fresh_server() -> Iterator[MeasuredServer]:
    """Yields a server with an empty store."""
    with tempfile.TemporaryDirectory(dir=BUILD) as directory, MeasuredServer(Path(directory)) as server:
        yield server


async def prepare(server: MeasuredServer, hot: int) -> None:
    """Limits the keys, has the tasks of the hot key wait for it, and leases a task of another key behind them."""
    async with grpc.aio.insecure_channel(server.producer) as channel:
        await limit(channel)
        await hold_hot_key(channel, hot)
        await create(channel, list(specs(["behind"])))
        await claim(TaskServiceStub(channel), COMMAND, FIRST_SECONDS_MAX)


def cycles(kind: str, options: argparse.Namespace) -> tuple[float, float]:
    """Measures one load; returns its cycles per second, and the microseconds of the server's CPU per cycle.

    Raises:
        BenchError: The load failed, or a task is missing.
    """
    keyed, limited = KINDS[kind]
    with fresh_server() as server:
        if limited:
            asyncio.run(prepare(server, options.hot))
        command = [str(build_load()), "stream", "-address", server.producer, "-worker-address", server.worker]
        command += ["-token", TOKEN, "-command", COMMAND, "-seconds", f"{options.seconds:g}"]
        command += ["-keys", str(options.keys)] if keyed else []
        load, before, after = run_load(command, Subject(server, None))
        counts = server.queue_counts(COMMAND)
    mine = options.hot + 1 if limited else 0
    accounted = int(str(load["completed"])) + sum(counts.values()) - mine
    if load["refused"] or load["created"] != accounted:
        raise BenchError(f"the counts do not add up: {load}, queue {counts}, of which {mine} precede the load")
    done = max(int(str(load["window_cycles"])), 1)
    (used,) = (after[name].cpu_seconds - before[name].cpu_seconds for name in after)
    return float(str(load["cycles_per_s"])), used * 1e6 / done


def throughput(options: argparse.Namespace) -> dict[str, object]:
    """Measures all loads in turn, several times; returns the figures."""
    runs = [{kind: cycles(kind, options) for kind in KINDS} for _ in range(options.runs)]
    return {
        "cycles_per_s": {kind: round(median(run[kind][0] for run in runs)) for kind in KINDS},
        "server_cpu_us_per_cycle": {kind: round(median(run[kind][1] for run in runs), 2) for kind in KINDS},
        "ratio_to_plain": round(median(run["limited"][0] / run["plain"][0] for run in runs), 2),
        "ratio_to_unlimited": round(median(run["limited"][0] / run["unlimited"][0] for run in runs), 2),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the figures of the parts that the options name."""
    result: dict[str, Any] = {"bench": "keys", "machine": describe_machine(BUILD)}
    if "claims" in options.part:
        with fresh_server() as server:
            result["claims"] = asyncio.run(claims(server, options.keys, options.hot))
    if "throughput" in options.part:
        result["throughput"] = throughput(options)
    flags = {name: getattr(options, name) for name in ("keys", "hot", "runs", "seconds")}
    return result | {"aim_p99_ms": CLAIM_AIM_MS, "aim_ratio": RATIO_AIM, "flags": flags, "commit": describe_commit()}


def is_good(result: dict[str, Any]) -> bool:
    """Returns whether the figures reach their targets."""
    quick = "claims" not in result or result["claims"]["p99_ms"] <= CLAIM_AIM_MS
    return quick and ("throughput" not in result or result["throughput"]["ratio_to_unlimited"] >= RATIO_AIM)


def main() -> int:
    """Runs the bench; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures queues with keys; prints one JSON line.")
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS, help="figures to measure (default: all)")
    parser.add_argument("--keys", type=int, default=100_000, help="keys with a limit of 1 (default 100000)")
    parser.add_argument("--hot", type=int, default=50_000, help="tasks of the hot key (default 50000)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each load (default 3)")
    parser.add_argument("--seconds", type=float, default=8.0, help="measured window of each load (default 8)")
    parser.add_argument("--save", action="store_true", help="append the result to bench/results")
    options = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    try:
        result = measure(options)
    except BenchError as error:
        print(json.dumps({"bench": "keys", "error": str(error)}), file=sys.stderr)
        return 1
    tell("keys", result, save=options.save)
    return 0 if is_good(result) else 1


if __name__ == "__main__":
    sys.exit(main())
