"""Leases whose length the policy of a queue names."""

from __future__ import annotations

import pytest
from codeq.v1 import task_pb2
from codeq_internal.v1.rows_pb2 import PolicyRow
from codeq_server.core.claims import claim
from driven_shard import TENANT, WORKER, DrivenShard


@pytest.fixture
def shard() -> DrivenShard:
    return DrivenShard()


def put(shard: DrivenShard, command: str = "a", **policy: int) -> None:
    shard.shard.policies.put(TENANT, command, PolicyRow(**policy), shard.now.wall_ms)


def leased(shard: DrivenShard, count: int = 10, *, by_policy: bool = True) -> tuple[int, list[str]]:
    """Claims from all queues; returns the length of the leases and the commands of the tasks."""
    claimed = claim(shard.shard, WORKER, None, count, 1 << 30, 60_000, shard.now, by_policy=by_policy)
    assert claimed is not None
    return claimed[0].lease_ms, [task_pb2.Task.FromString(each.raw).command for each in claimed[1]]


def test_claim_that_names_no_length_gets_leases_of_the_length_that_the_policy_names(shard: DrivenShard) -> None:
    put(shard, default_lease_seconds=7)
    task_id = shard.create()
    shard.create()
    assert leased(shard, 1) == (7_000, ["a"])
    assert leased(shard, by_policy=False) == (60_000, ["a"])
    shard.write()
    shard.pass_time(6_999)
    assert shard.status(task_id) == "CLAIMED"
    shard.write()
    shard.reopen()
    shard.pass_time(7_000)
    assert shard.status(task_id) == "PENDING"


def test_claim_takes_leases_of_one_length_and_no_task_overtakes_one_of_another_length(shard: DrivenShard) -> None:
    put(shard, "b", default_lease_seconds=7)
    for command, priority in (("a", 9), ("b", 9), ("b", 9), ("a", 5), ("c", 9)):
        shard.create(command, priority=priority)
    first = leased(shard)
    assert first == (60_000, ["a", "c"])
    assert leased(shard) == (7_000, ["b", "b"])
    assert leased(shard) == (60_000, ["a"])


def test_queues_without_a_length_of_their_own_are_claimed_together(shard: DrivenShard) -> None:
    put(shard, default_lease_seconds=7)
    put(shard, max_consumers=5)
    for command in ("a", "b", "a"):
        shard.create(command)
    assert not shard.shard.policies.leasing
    assert leased(shard) == (60_000, ["a", "a", "b"])
