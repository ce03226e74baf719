"""Heartbeats of mixed lengths: the longest extension applies after a restart, and leaves no row behind."""

from __future__ import annotations

import pytest
from codeq_server.core.status import Outcome
from driven_shard import DrivenShard

LEASE_MS = 1_000


@pytest.fixture
def driven() -> DrivenShard:
    return DrivenShard()


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.NACK, Outcome.ABANDON])
def test_shorter_heartbeat_after_a_longer_one_leaves_no_row_behind(
    driven: DrivenShard, outcome: Outcome, written: bool
) -> None:
    task_id = driven.create()
    driven.claim(lease=LEASE_MS)
    driven.heartbeat(task_id, 10 * LEASE_MS)
    if written:
        driven.write()
        assert len(driven.keys(b"x")) == 1
    driven.pass_time(9 * LEASE_MS + 500)
    driven.heartbeat(task_id, LEASE_MS)  # postpones the expiry, and is no longer than the lease
    if written:
        driven.write()
    driven.settle(task_id, outcome, delay=0)
    driven.write()
    assert driven.keys(b"xl") == []


def test_longest_extension_applies_after_a_restart_whatever_came_later(driven: DrivenShard) -> None:
    first, second = driven.create(), driven.create()
    driven.claim(2, lease=LEASE_MS)
    driven.heartbeat(first, 10 * LEASE_MS)
    driven.write()
    driven.pass_time(LEASE_MS - 1)
    driven.heartbeat(second, 2 * LEASE_MS)
    driven.pass_time(LEASE_MS)
    for extend in (3 * LEASE_MS, None, 2 * LEASE_MS, 500):
        driven.heartbeat(second, extend)
        driven.write()
    driven.reopen()
    claim = driven.shard.deliveries[first].claim
    assert claim.until_of(first) - driven.mono == 10 * LEASE_MS
    assert claim.until_of(second) - driven.mono == 3 * LEASE_MS


def test_end_of_one_extended_delivery_keeps_the_extension_of_its_sibling(driven: DrivenShard) -> None:
    first, second = driven.create(), driven.create()
    driven.claim(2, lease=LEASE_MS)
    driven.heartbeat(first, 10 * LEASE_MS)
    driven.heartbeat(second, 5 * LEASE_MS)
    driven.write()
    driven.settle(first)
    driven.write()
    driven.reopen()
    assert driven.shard.deliveries[second].claim.until_of(second) - driven.mono == 5 * LEASE_MS
    driven.settle(second)
    driven.write()
    assert driven.keys(b"xl") == []
