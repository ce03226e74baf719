"""A member whose disk fails stops taking part; the others continue."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from codeq_server.core.errors import Rejection
from codeq_server.storage.errors import StoreFailed
from members_net import Cluster


@pytest.mark.parametrize("step", ["write", "sync", "note_durable"])
async def test_leader_with_a_failed_disk_ends_once_and_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        await leader.write({b"t1": b"one"})

        def fail(*_: object) -> None:
            raise StoreFailed("the disk is gone")

        monkeypatch.setattr(leader.store, step, fail)
        assert leader.log is not None
        appended = leader.log.append(leader.batch(leader.lsn + 1, {b"t2": b"two"}))
        with pytest.raises(Rejection):
            async with asyncio.timeout(10):
                await appended
        other = await cluster.leader(beside=leader)
        await other.write({b"t3": b"three"})
        assert [type(problem) for problem in leader.problems] == [StoreFailed]
        assert not leader.term
        monkeypatch.undo()
        await leader.stop()
        leader.problems.clear()
