"""Faults of a cluster that only root or a compiler can make: nothing acknowledged is lost, nothing ends twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_faults import Fault, play
from cluster_run import assert_clean
from host_faults import (
    ClockJump,
    DiskFull,
    NetIsolateLeader,
    NetLoseOneWay,
    NetLoss,
    PowerLoss,
    PowerLossWithoutSync,
    SyncError,
)
from host_tools import need, need_root

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("kind", "rounds"),
    [
        (NetIsolateLeader, 2),
        (NetLoseOneWay, 2),
        (NetLoss, 1),
        (PowerLoss, 3),
        (SyncError, 2),
        (DiskFull, 2),
        (ClockJump, 3),
    ],
)
async def test_fault_under_load_loses_and_doubles_nothing(tmp_path: Path, kind: type[Fault], rounds: int) -> None:
    need_root()
    need("gcc", "ip", "nft")
    verdict, cluster = await play(kind(1), tmp_path, 1, rounds)
    assert_clean(verdict, cluster)


async def test_power_loss_without_sync_loses_what_was_acknowledged(tmp_path: Path) -> None:
    """Proves that the test of power loss can fail."""
    need("gcc")
    verdict, _ = await play(PowerLossWithoutSync(1), tmp_path, 1, 1)
    assert verdict.missing
