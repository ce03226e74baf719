"""Nodes with a Raft group per shard are killed or cut off under load: nothing acknowledged is lost or ends twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_kinds import Fault, IsolateLeader, KillRandom, play
from fault_run import assert_clean
from group_faults import with_groups

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize(("kind", "rounds"), [(KillRandom, 4), (IsolateLeader, 1)])
async def test_groups_under_faults_lose_and_duplicate_nothing(tmp_path: Path, kind: type[Fault], rounds: int) -> None:
    verdict, cluster = await play(with_groups(kind)(1), tmp_path, 1, rounds)
    assert_clean(verdict, cluster)
