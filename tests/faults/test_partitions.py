"""Nodes of a cluster do not hear each other for a while, clients hear all: nothing is lost, nothing ends twice."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from cluster_faults import Bridge, Cut, IsolateLeader, LoseOneWay, Partition, SplitOne, play
from cluster_run import assert_clean

pytestmark = pytest.mark.timeout(400)


class EveryPartition(Partition):
    """One kind of partition after the other."""

    name = "every-partition"
    kinds = (IsolateLeader, LoseOneWay, Bridge, SplitOne)

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._next = itertools.cycle(self.kinds)

    def lost(self, leader: str, others: list[str]) -> Cut:
        kind = next(self._next)
        self.elsewhere = kind is IsolateLeader
        return kind.lost(self, leader, others)


async def test_partitions_under_load_lose_and_double_nothing(tmp_path: Path) -> None:
    verdict, cluster = await play(EveryPartition(1), tmp_path, 1, len(EveryPartition.kinds))
    assert_clean(verdict, cluster)
