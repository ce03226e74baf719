"""Calls of a quiet tenant: one task at a time, created while a claim waits for it, then completed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from run import percentiles

TENANT: Final = "quiet"
CALL_SECONDS_MAX: Final = 60.0
WAIT_SECONDS: Final = 30
PAUSE_SECONDS: Final = 0.01
"""Pause of a caller between two tasks, so that it measures the load without adding to it."""


@dataclass(slots=True)
class Latencies:
    """Milliseconds of each call: from create to answer, from create to delivery, and of the completion."""

    create: list[float] = field(default_factory=list)
    delivery: list[float] = field(default_factory=list)
    complete: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Returns the number of tasks, and p50, p99 and maximum of each kind of call."""
        figures: dict[str, float] = {"tasks": len(self.complete)}
        for name in ("create", "delivery", "complete"):
            figures |= {f"{name}_{label}": value for label, value in percentiles(getattr(self, name)).items()}
        return figures

    @staticmethod
    def worst_p99(figures: dict[str, float]) -> float:
        """Returns the p99 of the slowest kind of call."""
        return max(value for name, value in figures.items() if name.endswith("_p99_ms"))


def for_seconds(seconds: float) -> Callable[[], bool]:
    """Returns a function that returns true for this many seconds from now."""
    until = time.perf_counter() + seconds
    return lambda: time.perf_counter() < until


async def probe(address: str, goes_on: Callable[[], bool], callers: int = 4) -> dict[str, float]:
    """Calls while `goes_on` returns true; returns the figures of `Latencies`."""
    latencies = Latencies()
    async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(_call(TaskServiceStub(channel), f"LONE-{number}", goes_on, latencies))
    return latencies.figures()


async def _call(stub: Any, command: str, goes_on: Callable[[], bool], latencies: Latencies) -> None:
    options: dict[str, Any] = {"metadata": (("authorization", f"Bearer {TENANT}"),), "timeout": CALL_SECONDS_MAX}
    create = pb.CreateTaskRequest(spec=task_pb2.TaskSpec(command=command, payload=b'{"n":1}'))
    claim = pb.ClaimTaskRequest(commands=[command], wait_seconds=WAIT_SECONDS)
    while goes_on():
        waiting = stub.ClaimTask(claim, **options)
        await asyncio.sleep(PAUSE_SECONDS)
        created = time.perf_counter()
        delivery = asyncio.ensure_future(_timed(waiting))
        _, answered = await _timed(stub.CreateTask(create, **options))
        task, delivered = await delivery
        latencies.create.append((answered - created) * 1000)
        latencies.delivery.append((delivered - created) * 1000)
        began = time.perf_counter()
        done = pb.SubmitResultRequest(
            task_id=task.task.id, lease_token=task.task.lease_token, status=task_pb2.TASK_STATUS_COMPLETED, result=b"1"
        )
        _, ended = await _timed(stub.SubmitResult(done, **options))
        latencies.complete.append((ended - began) * 1000)


async def _timed(call: Any) -> tuple[Any, float]:
    """Returns the answer of a call and the time of its arrival."""
    return await call, time.perf_counter()
