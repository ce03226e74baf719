"""Only entries that were decided in their own term, on top of the previous batch, change rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from codeq_server.core.errors import Rejection
from codeq_server.replication.raft.entry import encode_batch
from members_net import Cluster


@pytest.mark.parametrize("behind", [1, -1])
async def test_batch_decided_in_another_term_changes_nothing(tmp_path: Path, behind: int) -> None:
    """A leader that loses and regains the leadership may have such a batch in flight."""
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        await leader.write({b"t1": b"one"})
        group = leader.member.group
        assert group is not None
        term = group.leading_term
        stale = encode_batch(term - behind, leader.batch(leader.lsn + 1, {b"t2": b"two"}))
        with pytest.raises(Rejection):
            await group.leadership._propose(term, lambda: group.node.propose(stale))
        await cluster.until(
            lambda: all(node.member.group and node.member.group.skipped for node in cluster.nodes.values())
        )
        assert [node.store.get(b"t2") for node in cluster.nodes.values()] == [None] * 3
