"""What happens by itself: due tasks, expired leases, retention."""

from __future__ import annotations

import pytest
from codeq_server.core import creates, timers
from driven_shard import DrivenShard


@pytest.fixture
def shard() -> DrivenShard:
    return DrivenShard(retention_ms=10_000, dlq_retention_ms=20_000)


def test_mature_when_slices_end_with_the_window_goes_on(shard: DrivenShard, monkeypatch: pytest.MonkeyPatch) -> None:
    """A herd whose size is a multiple of slice and window: the rest must not wait for another timer."""
    monkeypatch.setattr(timers, "SLICE", 2)
    monkeypatch.setattr(creates, "DUE_WINDOW_MAX", 4)
    herd = [shard.create(delay=1000) for _ in range(10)]
    shard.pass_time(1000)
    assert {shard.status(task_id) for task_id in herd} == {"PENDING"}
