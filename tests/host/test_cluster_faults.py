"""Faults of a cluster that need root or a compiler: nothing acknowledged is lost, nothing ends twice."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from cluster_client import Follower
from cluster_process import TOKEN
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from fault_kinds import Fault, play
from fault_run import assert_clean
from host_faults import (
    HOUR_SECONDS,
    ClockJump,
    DiskFull,
    DiskHangs,
    FiringClockJump,
    NetIsolateLeader,
    NetLoseOneWay,
    NetLoss,
    PowerLoss,
    PowerLossWithoutSync,
    SyncError,
)
from host_tools import need, need_root

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]

DELIVERY_SECONDS_MAX = 30.0


@pytest.mark.parametrize(
    ("kind", "rounds"),
    [
        (NetIsolateLeader, 2),
        (NetLoseOneWay, 2),
        (NetLoss, 1),
        (PowerLoss, 3),
        (SyncError, 2),
        (DiskHangs, 2),
        (DiskFull, 2),
        (ClockJump, 3),
        (FiringClockJump, 3),
    ],
)
async def test_fault_under_load_loses_and_duplicates_nothing(tmp_path: Path, kind: type[Fault], rounds: int) -> None:
    need_root()
    need("gcc", "ip", "nft")
    verdict, cluster = await play(kind(1), tmp_path, 1, rounds)
    assert_clean(verdict, cluster)


async def test_power_loss_without_sync_loses_acknowledged_tasks(tmp_path: Path) -> None:
    """Proves that the power loss test can fail. A cluster that does not recover has also lost everything."""
    need("gcc")
    try:
        verdict, _ = await play(PowerLossWithoutSync(1), tmp_path, 1, 1)
    except TimeoutError:
        return
    assert verdict.missing


async def test_leader_clock_that_was_an_hour_ahead_delays_no_task_by_an_hour(tmp_path: Path) -> None:
    need("gcc")
    fault = ClockJump(1)
    with fault.cluster(tmp_path) as processes:
        async with Follower(list(processes.addresses("grpc_addr").values()), TOKEN) as client:
            await processes.all_vote(client)
            (leader,) = [node for node in processes.nodes.values() if node.grpc_addr == client.leader]
            fault.shift(leader.name, HOUR_SECONDS)
            await create(client, "a")
            fault.shift(leader.name, 0)
            leader.kill()
            await create(client, "b", delay_seconds=1)
            request = pb.ClaimTaskRequest(commands=["b"], wait_seconds=1)
            deadline = time.monotonic() + DELIVERY_SECONDS_MAX
            while not (await client.call("tasks", "ClaimTask", request, again=True))[0].HasField("task"):
                assert time.monotonic() < deadline


async def create(client: Follower, command: str, **fields: Any) -> None:
    """Creates a task."""
    spec = task_pb2.TaskSpec(command=command, payload=b"{}", **fields)
    await client.call("tasks", "CreateTask", pb.CreateTaskRequest(spec=spec), again=True)
