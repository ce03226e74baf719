"""Snapshots that arrive twice, late or incomplete while writes are on their way to the disk."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from codeq_server.replication.raft.group import Group
from codeq_server.replication.raft.installing import SnapshotNotWanted
from members_net import Cluster, MemberNode


class Behind:
    """A follower that needs a snapshot, with the message and the files meant for it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.messages: list[tuple[bytes, Path]] = []

    async def get(self) -> tuple[MemberNode, MemberNode]:
        """Returns leader and follower once a snapshot has been sent, which is held back."""
        cluster = self.cluster
        await cluster.voters(3)
        leader = await cluster.leader()
        follower = next(node for node in cluster.nodes.values() if node is not leader)
        install = follower.member.install
        self.ready, self.goes_on = asyncio.Event(), asyncio.Event()

        async def held(group: int, message: bytes, folder: Path) -> None:
            self.messages.append((message, folder))
            self.ready.set()
            await self.goes_on.wait()
            await install(group, message, folder)

        await leader.write({b"t-old": b"old"})
        await cluster.until(lambda: follower.store.get(b"t-old"))
        cluster.net.isolate(follower.name)
        await leader.write({b"t-old": None})
        for number in range(20):
            await leader.write({b"t%d" % number: b"x"})
        group = leader.member.group
        assert group is not None
        group.log.cut(group.node, group.written)
        follower.member.install = held  # type: ignore[method-assign]
        cluster.net.heal()
        async with asyncio.timeout(20):
            await self.ready.wait()
        return leader, follower

    def files(self) -> list[Path]:
        """Returns copies of the snapshot's files, which may be moved away."""
        folder = self.messages[0][1]
        copies = Path(tempfile.mkdtemp(dir=folder.parent))
        return [Path(shutil.copy(file, copies)) for file in sorted(folder.glob("*.sst"))]

    def group(self, follower: MemberNode) -> Group:
        assert follower.member.group is not None
        return follower.member.group

    async def caught_up(self, leader: MemberNode, follower: MemberNode) -> None:
        """Waits until the follower has all rows and accepts more."""
        self.goes_on.set()
        await leader.write({b"t20": b"y"})
        await self.cluster.until(lambda: follower.store.get(b"t20") == b"y")
        assert follower.store.get(b"t-old") is None
        assert all(follower.store.get(b"t%d" % number) == b"x" for number in range(20))


async def test_snapshot_received_twice_is_installed_once(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        behind = Behind(cluster)
        leader, follower = await behind.get()
        group, message, files = behind.group(follower), behind.messages[0][0], behind.files()
        results = await asyncio.gather(
            group.install(message, files), group.install(message, files), return_exceptions=True
        )
        assert [type(result) for result in results] == [type(None), SnapshotNotWanted]
        await group.install(message, files)  # already installed: it is reported as installed, and nothing is done
        await behind.caught_up(leader, follower)


async def test_interrupted_snapshot_installation_leaves_the_member_unchanged(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        behind = Behind(cluster)
        leader, follower = await behind.get()
        group, files = behind.group(follower), behind.files()
        importing, goes_on, take = threading.Event(), threading.Event(), follower.store.import_rows

        def import_late(files: Iterable[Path]) -> str:
            importing.set()
            assert goes_on.wait(20)
            return take(files)

        follower.store.import_rows = import_late  # type: ignore[method-assign]
        installing = asyncio.ensure_future(group.install(behind.messages[0][0], behind.files()))
        assert await asyncio.to_thread(importing.wait, 10)
        installing.cancel()
        await asyncio.wait([installing])
        goes_on.set()
        assert follower.store.get(b"t-old") == b"old"
        await group.install(behind.messages[0][0], files)
        await behind.caught_up(leader, follower)


async def test_member_stopped_during_a_snapshot_installation_can_restart(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        behind = Behind(cluster)
        leader, follower = await behind.get()
        installing = asyncio.ensure_future(behind.group(follower).install(behind.messages[0][0], behind.files()))
        await asyncio.sleep(0)
        await follower.stop()
        await asyncio.wait([installing], timeout=10)
        assert installing.done()
        installing.exception()
        behind.goes_on.set()
        follower.start()
        await leader.write({b"t20": b"y"})
        await cluster.until(lambda: follower.store.get(b"t20") == b"y")
        assert follower.store.get(b"t-old") is None


async def test_snapshot_that_cannot_be_imported_leaves_the_member_unchanged(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        behind = Behind(cluster)
        leader, follower = await behind.get()
        group, files = behind.group(follower), behind.files()
        bad = tmp_path / "bad.sst"
        bad.write_bytes(b"no rows")
        with pytest.raises(Exception, match="import rows"):
            await group.install(behind.messages[0][0], [bad])
        assert follower.problems == []
        await group.install(behind.messages[0][0], files)
        await behind.caught_up(leader, follower)
