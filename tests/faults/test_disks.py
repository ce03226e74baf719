"""The disk of one node fails, is damaged or is lost under load: the cluster keeps serving, and nothing is lost."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest
from fault_kinds import Fault, play
from fault_run import Run, assert_clean
from member_faults import FlippedBit, NewDisk, OneMore, TornLog

pytestmark = pytest.mark.timeout(400)

FILE_BYTES_MAX = 1 << 20
END_SECONDS_MAX = 60.0


class WriteFails(Fault):
    """The leader's writes fail: a file size limit simulates a full disk."""

    name = "write-fails"
    fill = 2000

    async def strike(self, run: Run) -> None:
        await run.well()
        node = run.cluster.nodes[await run.leader()]
        struck = time.monotonic()
        resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
        await run.until(lambda: not node.is_running, "the end of the leader", END_SECONDS_MAX)
        assert node.wait() == 1
        await self.until_elsewhere(run, struck, node.grpc_addr)
        node.spawn()


@pytest.mark.parametrize("kind", [WriteFails, TornLog, FlippedBit, NewDisk, OneMore])
async def test_disk_fault_under_load_loses_and_duplicates_nothing(tmp_path: Path, kind: type[Fault]) -> None:
    verdict, cluster = await play(kind(1), tmp_path, 1, 1)
    assert_clean(verdict, cluster)
