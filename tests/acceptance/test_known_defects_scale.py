"""Costs that must not grow with the load: rows of ended tasks, idle waiters, counters."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
from bare_streams import auth, create_many, settle, take
from codeq.v1 import queue_service_pb2, task_pb2
from codeq.v1 import worker_service_pb2 as worker_pb
from codeq.v1.queue_service_pb2_grpc import QueueServiceStub
from codeq.v1.worker_service_pb2_grpc import WorkerServiceStub
from codeq_server.storage.reading import stored_rows
from server_process import DEV_TOKEN, ServerProcess

ENDED = 20_000
STREAMS = 300
POLLS = 150
IDLE_SECONDS = 6
CPU_SHARE_MAX = 0.01
"""Share of one core that idle waiters may use; polling for each 20 times a second would use four times as much."""


def metric(server: ServerProcess, name: str) -> float:
    """Returns the value of a metric without labels."""
    found = re.search(rf"^{name} (\S+)$", httpx.get(f"{server.http_url}/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


def cpu_seconds(process: psutil.Process) -> float:
    """Returns the CPU time that a process has used on all cores."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def complete_all(stream: Any, tasks: list[task_pb2.Task]) -> None:
    """Completes tasks over a worker stream."""
    for first in range(0, len(tasks), 4000):
        outcomes = [
            task_pb2.Outcome(task_id=task.id, lease_token=task.lease_token, kind=1, result=b"1")
            for task in tasks[first : first + 4000]
        ]
        assert await settle(stream, outcomes) == []


async def test_retention_keeps_up_with_the_load_and_leaves_no_rows(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, env={"RETENTION_SECONDS": "1"}) as server:
        async with grpc.aio.insecure_channel(server.worker_addr) as channel:
            stream: Any = WorkerServiceStub(channel).Work(metadata=auth())
            hello = worker_pb.WorkerHello(commands=["ended"])
            await stream.write(worker_pb.WorkRequest(hello=hello))
            await stream.read()
            await create_many(server, "ended", ENDED)
            await complete_all(stream, await take(stream, ENDED))
        ended = time.monotonic()
        async with asyncio.timeout(30):
            while metric(server, "codeq_tasks_removed_total") < ENDED:  # noqa: ASYNC110 - another process's doing
                await asyncio.sleep(0.05)
        assert ENDED / (time.monotonic() - ended) > 1000
        assert server.stop() == 0
        left = {key[:1] for key, _ in stored_rows(server.store)}
    assert left <= {b"m", b"q"}  # the store itself, and its queues


async def test_idle_waiters_cost_next_to_nothing(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        async with (
            grpc.aio.insecure_channel(server.worker_addr) as channel,
            httpx.AsyncClient(limits=httpx.Limits(max_connections=POLLS), timeout=60) as http,
        ):
            streams = []
            for number in range(STREAMS):
                stream: Any = WorkerServiceStub(channel).Work(metadata=auth())
                hello = worker_pb.WorkerHello(commands=[f"idle-{number % 7}"])
                await stream.write(worker_pb.WorkRequest(hello=hello, add_credits=1))
                await stream.read()
                streams.append(stream)
            body, headers = {"commands": ["idle-1"], "waitSeconds": 30}, {"Authorization": f"Bearer {DEV_TOKEN}"}
            url = f"{server.http_url}/v1/codeq/tasks/claim"
            polls = [asyncio.create_task(http.post(url, json=body, headers=headers)) for _ in range(POLLS)]
            while metric(server, "codeq_workers_waiting") < STREAMS + POLLS:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.05)
            process = psutil.Process(server.pid)
            before = cpu_seconds(process)
            await asyncio.sleep(IDLE_SECONDS)
            assert cpu_seconds(process) - before <= IDLE_SECONDS * CPU_SHARE_MAX
            for poll in polls:
                poll.cancel()
            await asyncio.gather(*polls, return_exceptions=True)


async def test_counters_cost_the_same_for_a_deep_queue_as_for_an_empty_one(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        await create_many(server, "flat", 1)
        await create_many(server, "deep", 60_000)
        async with grpc.aio.insecure_channel(server.producer_addr) as channel:

            async def median_ms(command: str) -> float:
                spent = []
                for _ in range(40):
                    begin = time.perf_counter()
                    await QueueServiceStub(channel).GetQueue(
                        queue_service_pb2.GetQueueRequest(command=command), metadata=auth()
                    )
                    spent.append(time.perf_counter() - begin)
                return 1000 * statistics.median(spent)

            await median_ms("flat")
            flat, deep = await median_ms("flat"), await median_ms("deep")
            # Counting 60,000 rows takes tens of milliseconds.
            assert deep < 3 * flat + 5
