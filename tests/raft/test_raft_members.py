"""Clusters of real stores: founding, batches, failover, snapshots, and nodes that must not become members."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path

import pytest
from codeq_raft_core import read_conf_state
from codeq_server.core.errors import Reason, Rejection
from codeq_server.replication.raft import entry, group, member, outgoing, wire
from codeq_server.replication.raft.disk_identity import GROUP
from members_net import Cluster
from raft_wire import Snapshot, message


async def test_cluster_founded_by_one_of_three_nodes_has_three_voters(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        await leader.write({b"t1": b"one"})
        await cluster.until(lambda: all(node.store.get(b"t1") == b"one" for node in cluster.nodes.values()))


async def test_founder_without_other_members_never_serves(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    node = cluster.nodes["a"].start()
    for _ in range(200):
        node.member.tick()
    assert node.member.group is None
    await node.stop()


async def test_batches_survive_the_loss_of_the_leader(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        for number in range(50):
            await leader.write({b"t%d" % number: b"x"})
        await leader.stop()
        other = await cluster.leader()
        assert other is not leader
        assert [number for number in range(50) if other.store.get(b"t%d" % number) is None] == []
        await other.write({b"t50": b"y"})
        leader.start()
        await cluster.until(lambda: leader.store.get(b"t50") == b"y")


async def test_isolated_leader_acknowledges_nothing_and_loses_its_batch(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        await leader.write({b"t1": b"one"})
        cluster.net.isolate(leader.name)
        assert leader.log is not None
        confirmed, lost = leader.log.confirm(), leader.log.append(leader.batch(leader.lsn + 1, {b"t2": b"two"}))
        other = await cluster.leader(beside=leader)
        await other.write({b"t1": b"three"})
        for future in (confirmed, lost):
            assert future is not None
            with pytest.raises(Rejection) as refused:
                await future
            assert refused.value.reason is Reason.NOT_LEADER
        cluster.net.heal()
        await cluster.until(lambda: leader.store.get(b"t1") == b"three")
        assert leader.store.get(b"t2") is None


async def test_batch_that_does_not_follow_its_predecessor_changes_nothing(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        await leader.write({b"t1": b"one"})
        assert leader.log is not None
        with pytest.raises(Rejection):
            await leader.log.append(leader.batch(leader.lsn + 2, {b"t2": b"two"}))
        await leader.write({b"t3": b"three"})
        await cluster.until(lambda: all(node.store.get(b"t3") for node in cluster.nodes.values()))
        assert [node.store.get(b"t2") for node in cluster.nodes.values()] == [None] * 3


async def test_learner_without_its_snapshot_does_not_become_a_voter(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        node = cluster.nodes["d"] = cluster.node("d").start()
        install, may = node.member.install, asyncio.Event()

        async def later(group: int, message: bytes, folder: Path) -> None:
            await may.wait()
            await install(group, message, folder)

        node.member.install = later  # type: ignore[method-assign]
        joining = asyncio.create_task(cluster.invite(leader, node))
        group, raft_id = leader.member.group, node.member.row.raft_id
        assert group is not None
        await cluster.until(lambda: raft_id in read_conf_state(group.conf_state).learners)
        for number in range(30):
            await leader.write({b"t%d" % number: b"x"})
        assert raft_id in read_conf_state(group.conf_state).learners
        may.set()
        await joining


async def test_node_with_an_emptied_disk_is_not_a_voter(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        victim = next(node for node in cluster.nodes.values() if node is not leader)
        old = victim.member.row.raft_id
        await victim.stop()
        shutil.rmtree(victim.folder)
        victim.bootstrap = True
        victim.start()
        await leader.write({b"t1": b"one"})
        for _ in range(200):
            victim.member.tick()
        assert victim.member.group is None
        assert leader.member.group is not None
        voters = read_conf_state(leader.member.group.conf_state).voters
        assert old in voters
        assert victim.member.row.raft_id not in voters


async def test_follower_that_lags_behind_the_log_gets_a_snapshot(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        follower = next(node for node in cluster.nodes.values() if node is not leader)
        await leader.write({b"t-old": b"old"})
        await follower.stop()
        await leader.write({b"t-old": None})
        for number in range(20):
            await leader.write({b"t%d" % number: b"x"})
        group = leader.member.group
        assert group is not None
        group.log.cut(group.node, group.written)
        follower.start()
        await cluster.until(lambda: follower.store.get(b"t19") == b"x")
        assert follower.store.get(b"t-old") is None
        await leader.write({b"t20": b"y"})
        await cluster.until(lambda: follower.store.get(b"t20") == b"y")
        await follower.stop()
        follower.start()
        await leader.write({b"t21": b"z"})
        await cluster.until(lambda: follower.store.get(b"t21") == b"z")


async def test_handover_of_leadership_needs_no_election_timeout(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        await leader.write({b"t1": b"one"})
        await cluster.hand_over(lambda: not leader.term)
        other = await cluster.leader(beside=leader)
        await other.write({b"t2": b"two"})


async def test_leader_with_a_hanging_disk_hands_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "HANG_SECONDS", 0.2)
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        sync, may = leader.store.sync, threading.Event()

        def hang() -> None:
            assert may.wait(60)
            sync()

        monkeypatch.setattr(leader.store, "sync", hang)
        assert leader.log is not None
        try:
            lost = leader.log.append(leader.batch(leader.lsn + 1, {b"t1": b"one"}))
            other = await cluster.leader(beside=leader)
            await other.write({b"t2": b"two"})
        finally:
            may.set()
        await asyncio.gather(lost, return_exceptions=True)
        await cluster.until(lambda: leader.store.get(b"t2") == b"two")


async def test_rejected_proposal_restarts_the_leadership(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        group = leader.member.group
        assert group is not None
        assert leader.log is not None
        # A transfer to an isolated member fails, and blocks proposals while it lasts.
        other = next(node for node in cluster.nodes.values() if node is not leader)
        cluster.net.cut.add(frozenset((leader.name, other.name)))
        group.leadership.transfer(other.member.row.raft_id)
        first, log = leader.batch(leader.lsn + 1, {b"t1": b"one"}), leader.log
        with pytest.raises(Rejection):
            await log.append(first)
        cluster.net.heal()
        await cluster.until(lambda: any(node.term and node.log is not log for node in cluster.net.nodes.values()))
        with pytest.raises(Rejection):
            await log.append(leader.batch(first.lsn + 1, {b"t2": b"two"}))
        serving = await cluster.leader()
        await serving.write({b"t3": b"three"})
        assert serving.store.get(b"t1") is None
        assert serving.store.get(b"t2") is None


async def test_snapshot_files_are_removed_once_nobody_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "KEPT_TICKS", 20)
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)  # both nodes that joined received a snapshot
        leader = await cluster.leader()
        folder = tmp_path / f"{leader.name}-snapshots"
        await cluster.until(lambda: not list(folder.iterdir()))
        other = cluster.node("d").start()
        await cluster.invite(leader, other)
        await leader.write({b"t1": b"one"})
        await cluster.until(lambda: other.store.get(b"t1") == b"one")
        await other.stop()


async def test_leader_that_stepped_down_no_longer_leads(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        await leader.write({b"t1": b"one"})
        await cluster.hand_over(lambda: not leader.term)
        other = await cluster.leader(beside=leader)
        await other.write({b"t2": b"two"})
        await cluster.until(lambda: leader.store.get(b"t2") == b"two")
        assert leader.leaderships == [term for term in leader.leaderships if term]
        assert leader.term == 0


async def test_complete_snapshot_on_disk_is_offered_for_installation(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        await leader.write({b"t1": b"one"})
        follower = next(node for node in cluster.nodes.values() if node is not leader)
        await cluster.until(lambda: follower.store.get(b"t1") == b"one")
        made = await leader.make_snapshot()
        snapshot = Snapshot(data=made.data)
        snapshot.metadata.index, snapshot.metadata.term = made.index, made.term
        snapshot.metadata.conf_state.ParseFromString(made.conf_state)
        ids = {"to": follower.member.row.raft_id, "from_": leader.member.row.raft_id}
        # The report was lost, so the leader sends the snapshot again.
        await follower.member.install(
            GROUP, message("MsgSnapshot", term=made.term, snapshot=snapshot, **ids), made.folder
        )
        await leader.write({b"t2": b"two"})
        await cluster.until(lambda: follower.store.get(b"t2") == b"two")


async def test_entry_too_large_for_the_network_is_rejected_and_the_next_leader_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert entry.ENTRY_BYTES_MAX + group.MESSAGE_BYTES_MAX < wire.MESSAGE_BYTES_MAX
    monkeypatch.setattr(entry, "ENTRY_BYTES_MAX", 10_000)
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        log, term = leader.log, leader.term
        with pytest.raises(Rejection):
            await leader.write({b"t1": bytes(10_000)})
        await cluster.until(lambda: leader.term and leader.log is not log)
        assert leader.term == term
        await leader.write({b"t2": bytes(1000)})
        assert leader.store.get(b"t1") is None
