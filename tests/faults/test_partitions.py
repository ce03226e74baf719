"""Network partitions between nodes that clients can all reach: nothing is lost, nothing ends twice."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cluster_client import Follower, OutcomeUnknown
from cluster_process import TOKEN
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from fault_kinds import Bridge, Cut, IsolateLeader, LoseOneWay, Partition, SplitOne, play
from fault_run import assert_clean

pytestmark = pytest.mark.timeout(400)

ASK_SECONDS = 6.0


class EveryPartition(Partition):
    """Each kind of partition in turn."""

    name = "every-partition"
    kinds = (IsolateLeader, LoseOneWay, Bridge, SplitOne)

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._next = itertools.cycle(self.kinds)

    def lost(self, leader: str, others: list[str]) -> Cut:
        kind = next(self._next)
        self.elsewhere = kind is IsolateLeader
        return kind.lost(self, leader, others)


async def test_partitions_under_load_lose_and_duplicate_nothing(tmp_path: Path) -> None:
    verdict, cluster = await play(EveryPartition(1), tmp_path, 1, len(EveryPartition.kinds))
    assert_clean(verdict, cluster)


async def test_isolated_leader_answers_no_reads_and_delivers_nothing(tmp_path: Path) -> None:
    """The isolated leader's answers could be stale, because the next leader completes the task in the meantime."""
    fault = IsolateLeader(1)
    with fault.stack, fault.cluster(tmp_path) as cluster:
        addresses = cluster.addresses("grpc_addr")
        async with Follower(list(addresses.values()), TOKEN) as client:
            await cluster.all_vote(client)
            spec = task_pb2.TaskSpec(command="work", payload=b"{}")
            answer, former = await client.call("tasks", "CreateTask", pb.CreateTaskRequest(spec=spec), again=True)
            task_id = answer.task.id
            others = [name for name, address in addresses.items() if address != former]
            (leader,) = set(addresses) - set(others)
            async with (
                Follower([former], TOKEN) as behind,
                Follower([addresses[name] for name in others], TOKEN) as ahead,
                fault.cut(fault.lost(leader, others)),
            ):
                reads = asyncio.create_task(answered(behind, "GetTask", pb.GetTaskRequest(task_id=task_id)))
                claimed, _ = await ahead.call("tasks", "ClaimTask", pb.ClaimTaskRequest(commands=["work"]), again=True)
                claimed_at = time.monotonic()
                claims = asyncio.create_task(answered(behind, "ClaimTask", pb.ClaimTaskRequest(commands=["work"])))
                done = pb.SubmitResultRequest(
                    task_id=task_id, lease_token=claimed.task.lease_token, status=task_pb2.TASK_STATUS_COMPLETED
                )
                await ahead.call("tasks", "SubmitResult", done, again=True)
                assert [answer for asked, answer in await reads if asked > claimed_at] == []
                assert await claims == []


async def answered(client: Follower, method: str, request: Any) -> list[tuple[float, Any]]:
    """Sends reads for a few seconds and returns the successful replies, each with the time of its request."""
    answers = []
    end = time.monotonic() + ASK_SECONDS
    while (asked := time.monotonic()) < end:
        with suppress(TimeoutError, OutcomeUnknown):
            answers.append((asked, (await client.call("tasks", method, request, again=False, seconds=0))[0]))
    return answers
