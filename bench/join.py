"""Measures how clients are affected when an empty fourth node joins a full cluster of three.

    bench/join.py                                     2 million tasks, 500 creates a second
    bench/join.py --tasks 100000 --rate 200

Creates arrive at a steady rate, one per call, while the node is added: as a learner it receives a snapshot, and it gets
a vote once it has caught up. Prints one JSON line: the longest gap between two acknowledged creates before and during
the join, their latencies, and how long the join took. --save appends it to bench/results/join.jsonl. Exit code 1: the
longest gap during the join exceeds its target.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import grpc
from codeq.v1 import cluster_service_pb2 as cluster_pb
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq.v1.cluster_service_pb2_grpc import ClusterServiceStub
from codeq.v1.producer_service_pb2_grpc import ProducerServiceStub
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from herd import frames
from measured_cluster import MeasuredCluster
from measured_server import AUTH, LOOPBACK, BenchError, MeasuredServer
from run import BUILD, describe_commit, describe_machine, tell

COMMAND: Final = "join"
NEWCOMER: Final = "node-d"
QUIET_SECONDS: Final = 5.0
"""Time under load before and after the join."""
FRAMES_OPEN_MAX: Final = 16
CALLS_MAX: Final = 4000
"""Maximum number of creates in flight."""
CALL_SECONDS_MAX: Final = 30.0
JOIN_SECONDS_MAX: Final = 900.0
POLL_SECONDS: Final = 0.1
AIM_SECONDS: Final = 1.0


@dataclass(slots=True)
class Creates:
    """Creates that were sent, and their outcomes.

    Attributes:
        sent: Creates sent.
        acknowledged: Time (monotonic) and latency in seconds of each acknowledged create, in the order of the answers.
        failed: Creates that were not acknowledged.
    """

    sent: int = 0
    acknowledged: list[tuple[float, float]] = field(default_factory=list)
    failed: int = 0

    def figures(self, start: float, end: float) -> dict[str, float]:
        """Returns the longest gap without an answer between two times, and the latencies of the answered creates."""
        answered = [(when, latency) for when, latency in self.acknowledged if start <= when < end]
        times = [start, *(when for when, _ in answered), end]
        latencies = sorted(latency for _, latency in answered)
        if not latencies:
            raise BenchError("nothing was acknowledged")
        return {
            "gap_max_s": round(max(later - earlier for earlier, later in pairwise(times)), 3),
            "create_p50_ms": round(1000 * latencies[len(latencies) // 2], 1),
            "create_p99_ms": round(1000 * latencies[len(latencies) * 99 // 100], 1),
        }


async def fill(address: str, tasks: int) -> None:
    """Creates tasks over one stream, several frames in flight; returns when all are acknowledged."""
    acknowledged = 0
    room = asyncio.Semaphore(FRAMES_OPEN_MAX)
    async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as group:
        stream: Any = ProducerServiceStub(channel).Produce(metadata=AUTH)

        async def send() -> None:
            for frame in frames(COMMAND, tasks, None):
                await room.acquire()
                await stream.write(frame)
            await stream.done_writing()

        group.create_task(send())
        while (message := await stream.read()) is not grpc.aio.EOF:
            for ack in message.acks:
                acknowledged += len(ack.task_ids) - len(ack.errors)
                room.release()
    if acknowledged != tasks:
        raise BenchError(f"{acknowledged} of {tasks} creates were acknowledged")


async def produce(channel: grpc.aio.Channel, rate: float, creates: Creates) -> None:
    """Sends creates at a steady rate until cancelled; if late, catches up on at most one second."""
    stub: Any = TaskServiceStub(channel)
    spec = task_pb2.TaskSpec(command=COMMAND, payload=b'{"n":1}')
    calls: deque[asyncio.Task[None]] = deque()

    async def call() -> None:
        begin = time.monotonic()
        try:
            await stub.CreateTask(pb.CreateTaskRequest(spec=spec), metadata=AUTH, timeout=CALL_SECONDS_MAX)
        except grpc.aio.AioRpcError:
            creates.failed += 1
        else:
            now = time.monotonic()
            creates.acknowledged.append((now, now - begin))

    due = time.monotonic()
    while True:
        while calls and calls[0].done():
            calls.popleft()
        if len(calls) < CALLS_MAX:
            calls.append(asyncio.create_task(call()))
            creates.sent += 1
        due = max(due + 1 / rate, time.monotonic() - 1)
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def join(channel: grpc.aio.Channel, address: str) -> None:
    """Adds the newcomer; returns when it has a vote."""
    stub: Any = ClusterServiceStub(channel)
    request = cluster_pb.AddMemberRequest(id=NEWCOMER, raft_addr=address)
    await stub.AddMember(request, metadata=AUTH, timeout=CALL_SECONDS_MAX)
    deadline = time.monotonic() + JOIN_SECONDS_MAX
    while True:
        answer = await stub.GetRaftStatus(cluster_pb.GetRaftStatusRequest(), metadata=AUTH, timeout=CALL_SECONDS_MAX)
        if any(member.id == NEWCOMER and member.voter for group in answer.status.groups for member in group.members):
            return
        if time.monotonic() > deadline:
            raise BenchError(f"the node had no vote within {JOIN_SECONDS_MAX:g} s")
        await asyncio.sleep(POLL_SECONDS)


def newcomer(directory: Path, peers: dict[str, str]) -> MeasuredServer:
    """Returns the fourth node, with an empty store, not started.

    Args:
        directory: Where its files are kept.
        peers: Raft addresses of all nodes by name, including its own.
    """
    directory.mkdir()
    more = {
        "RAFT_ENABLED": "true",
        "RAFT_SELF_ID": NEWCOMER,
        "RAFT_BIND_ADDR": peers[NEWCOMER],
        "RAFT_PEERS": ",".join(f"{name}={address}" for name, address in peers.items()),
    }
    return MeasuredServer(directory, more=more)


async def measure_join(cluster: MeasuredCluster, directory: Path, tasks: int, rate: float) -> dict[str, Any]:
    """Joins a node under load and returns the figures."""
    creates = Creates()
    leader = cluster.nodes[cluster.leader()]
    async with grpc.aio.insecure_channel(leader.producer) as channel:
        stub: Any = ClusterServiceStub(channel)
        status = (await stub.GetRaftStatus(cluster_pb.GetRaftStatusRequest(), metadata=AUTH)).status
        peers = {member.id: member.raft_addr for member in status.groups[0].members}
        with socket.socket() as held:  # bound but never listening, which reserves the port
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((LOOPBACK, 0))
            peers[NEWCOMER] = f"{LOOPBACK}:{held.getsockname()[1]}"
            with newcomer(directory / NEWCOMER, peers) as node:
                load = asyncio.create_task(produce(channel, rate, creates))
                start = time.monotonic()
                await asyncio.sleep(QUIET_SECONDS)
                began = time.monotonic()
                await join(channel, peers[NEWCOMER])
                joined = time.monotonic()
                await asyncio.sleep(QUIET_SECONDS)
                end = time.monotonic()
                load.cancel()
                await asyncio.gather(load, return_exceptions=True)
                has = await asyncio.to_thread(node.get_json, f"/v1/codeq/admin/queues/{COMMAND}?consistency=stale")
    if int(str(has["ready"])) < tasks:
        raise BenchError(f"the node has a vote, but only {has['ready']} of {tasks} tasks")
    return {
        "join_seconds": round(joined - began, 1),
        "sent": creates.sent,
        "acknowledged": len(creates.acknowledged),
        "failed": creates.failed,
        "before": creates.figures(start, began),
        "during": creates.figures(began, end),
    }


def measure(directory: Path, tasks: int, rate: float) -> dict[str, Any]:
    """Runs the bench and returns the line."""
    with MeasuredCluster(directory) as cluster:
        began = time.monotonic()
        asyncio.run(fill(cluster.nodes[cluster.leader()].producer, tasks))
        filled = time.monotonic() - began
        figures = asyncio.run(measure_join(cluster, directory, tasks, rate))
    return {
        "bench": "join",
        "tasks": tasks,
        "rate": rate,
        "fill_per_s": round(tasks / filled),
        **figures,
        "aim_gap_s": AIM_SECONDS,
        "commit": describe_commit(),
        "machine": describe_machine(BUILD),
    }


def main() -> int:
    """Runs the bench; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures the join of an empty node under load; prints one JSON line.")
    parser.add_argument("--tasks", type=int, default=2_000_000, help="waiting tasks (default 2000000)")
    parser.add_argument("--rate", type=float, default=500.0, help="creates a second (default 500)")
    parser.add_argument("--save", action="store_true", help="append the result to bench/results")
    options = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as directory:
        result = measure(Path(directory), options.tasks, options.rate)
    tell("join", result, save=options.save)
    return 0 if result["during"]["gap_max_s"] <= AIM_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
