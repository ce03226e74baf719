"""Limits and order of keys hold while servers under load are killed; tests/torture.py plays more rounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_kinds import Fault, play
from fault_run import assert_clean
from key_faults import KillLeaderOfKeys, KillNodeOfKeys
from key_load import PER_KEY

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize(("kind", "rounds"), [(KillNodeOfKeys, 2), (KillLeaderOfKeys, 1)])
async def test_kill_under_load_breaks_no_limit_and_no_order_of_keys(
    tmp_path: Path, kind: type[Fault], rounds: int
) -> None:
    verdict, cluster = await play(kind(1), tmp_path, 1, rounds)
    assert_clean(verdict, cluster)
    assert verdict.counts["keys judged"] > 0
    assert verdict.counts[f"peak of {PER_KEY}"] == PER_KEY
