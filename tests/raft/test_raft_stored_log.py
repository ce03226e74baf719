"""The log is truncated in slices, so that the event loop never waits long for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from codeq_server.replication.raft import stored_log
from codeq_server.replication.raft.disk import Work
from members_net import Cluster

BIG = 1 << 40


async def test_long_log_is_truncated_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_log, "LOG_BYTES", BIG)
    monkeypatch.setattr(stored_log, "LOG_BYTES_MAX", BIG)
    async with Cluster(tmp_path, "a") as cluster:
        node = await cluster.leader()
        group = node.member.group
        assert group is not None
        for number in range(100):
            await node.write({b"t%d" % number: b"x"})
        cuts: list[int] = []
        submit = node.member.disk.submit

        def note(work: Work) -> None:
            cuts.append(sum(value is None for value in work.rows.values()))
            submit(work)

        monkeypatch.setattr(node.member.disk, "submit", note)
        monkeypatch.setattr(stored_log, "CUT_ENTRIES_MAX", 10)
        monkeypatch.setattr(stored_log, "LOG_BYTES", 30 * stored_log.ENTRY_BYTES)
        monkeypatch.setattr(stored_log, "LOG_BYTES_MAX", 60 * stored_log.ENTRY_BYTES)
        for number in range(10):
            await node.write({b"u%d" % number: b"x"})
        assert max(cuts) == 10
        assert sum(cuts) >= 70
        status = group.node.status
        assert status.last_index - status.first_index < 40
        await node.stop()
        node.start()
        await cluster.leader()
        assert all(node.store.get(b"t%d" % number) == b"x" for number in range(100))
