"""Nodes of a cluster are killed or paused under load: nothing acknowledged is lost, nothing ends twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_kinds import (
    Crowd,
    Fault,
    FiringKillLeader,
    FiringKillSingle,
    KillAll,
    KillLeader,
    KillRandom,
    PauseLeader,
    play,
)
from fault_run import assert_clean

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize(("kind", "rounds"), [(KillLeader, 4), (KillRandom, 6), (KillAll, 2), (PauseLeader, 2)])
async def test_kill_or_pause_under_load_loses_and_duplicates_nothing(
    tmp_path: Path, kind: type[Fault], rounds: int
) -> None:
    verdict, cluster = await play(kind(1), tmp_path, 1, rounds)
    assert_clean(verdict, cluster)


async def test_leader_killed_while_strangers_crowd_every_port_is_replaced(tmp_path: Path) -> None:
    verdict, cluster = await play(Crowd(1), tmp_path, 1, 2)
    assert_clean(verdict, cluster)


@pytest.mark.parametrize("kind", [FiringKillLeader, FiringKillSingle])
async def test_each_instant_has_one_task_although_servers_are_killed(tmp_path: Path, kind: type[Fault]) -> None:
    verdict, cluster = await play(kind(1), tmp_path, 1, 2)
    assert_clean(verdict, cluster)
    assert verdict.counts["fired"] > 0
    assert verdict.counts["missed"] == 0
