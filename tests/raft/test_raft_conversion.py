"""The store of a single node becomes that of a cluster's first member, and the other way round."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys
from codeq_server.replication.raft.conversion import found_from_store, leave
from codeq_server.replication.raft.disk_identity import prepare
from codeq_server.replication.raft.log_rows import load_node
from codeq_server.storage.errors import StoreFormat
from codeq_server.storage.identity import next_identity, save
from codeq_server.storage.rocks import RocksStore
from members_net import Cluster


def single_node(path: Path, batches: int = 5) -> None:
    """Makes the store of a single node with some batches."""
    store = RocksStore(path, fsync=True)
    save(store, next_identity(store, 1, 0, bytes(range(16))))
    for lsn in range(1, batches + 1):
        store.write({b"t%d" % lsn: b"x", keys.TICK: rows_pb2.TickRow(lsn=lsn).SerializeToString()})
        store.sync()
        store.note_durable(lsn)
    store.close()


async def test_single_node_store_founds_a_cluster_that_others_join(tmp_path: Path) -> None:
    single_node(tmp_path / "a")
    found_from_store(tmp_path / "a", "a", "a:7000", os.urandom)
    cluster = Cluster(tmp_path)
    first = cluster.nodes["a"].start()
    await cluster.leader()
    assert first.lsn == 5
    tick = rows_pb2.TickRow(lsn=6).SerializeToString()
    await first.write({b"t6": b"y", keys.TICK: tick})
    other = cluster.nodes["b"].start()
    await cluster.invite(first, other)
    await cluster.until(lambda: other.store.get(b"t6") == b"y")
    assert [other.store.get(b"t%d" % lsn) for lsn in range(1, 6)] == [b"x"] * 5
    await other.stop()
    await first.stop()


def test_single_node_store_cannot_start_as_a_member(tmp_path: Path) -> None:
    single_node(tmp_path / "a")
    store = RocksStore(tmp_path / "a", fsync=True, log=True)
    with pytest.raises(StoreFormat, match="single node"):
        prepare(store, 7, "a")
    store.close()


async def test_last_voter_leaves_the_cluster_with_its_whole_log_applied(tmp_path: Path) -> None:
    single_node(tmp_path / "a")
    found_from_store(tmp_path / "a", "a", "a:7000", os.urandom)
    cluster = Cluster(tmp_path)
    node = cluster.nodes["a"].start()
    await cluster.leader()
    for lsn in range(6, 30):
        await node.write({b"t%d" % lsn: b"y", keys.TICK: rows_pb2.TickRow(lsn=lsn).SerializeToString()})
    await node.stop()
    await node.loop.run_in_executor(None, lambda: leave(tmp_path / "a", force=False))
    store = RocksStore(tmp_path / "a", fsync=True)
    store.check_recovered(29)
    assert store.get(b"t29") == b"y"
    store.close()
    found_from_store(tmp_path / "a", "a", "a:7000", os.urandom)  # and back again


async def test_member_leaves_a_cluster_with_other_voters_only_if_forced(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        await leader.write({b"t1": b"x", keys.TICK: rows_pb2.TickRow(lsn=leader.lsn + 1).SerializeToString()})
    with pytest.raises(StoreFormat, match="3 voters"):
        await leader.loop.run_in_executor(None, lambda: leave(leader.folder, force=False))
    await leader.loop.run_in_executor(None, lambda: leave(leader.folder, force=True))
    store = RocksStore(leader.folder, fsync=True)
    assert store.get(b"t1") == b"x"
    store.close()


def test_store_that_never_joined_a_cluster_can_leave(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "a", fsync=True, log=True)
    prepare(store, 7, "a")
    store.close()
    leave(tmp_path / "a", force=False)
    store = RocksStore(tmp_path / "a", fsync=True)
    assert load_node(store) is None
    save(store, next_identity(store, 1, 0, bytes(range(16))))
    store.check_recovered(0)
    store.close()
    with pytest.raises(StoreFormat, match="not a member"):
        leave(tmp_path / "a", force=False)


async def test_error_for_the_store_of_another_member_names_both(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        cluster_id = cluster.nodes["a"].member.row.cluster_id
    store = RocksStore(tmp_path / "a", fsync=True, log=True)
    with pytest.raises(StoreFormat, match=f"member a of the cluster {cluster_id.hex()}, and this node is b"):
        prepare(store, 7, "b")
    assert prepare(store, 7, "a").raft_id == cluster.nodes["a"].member.row.raft_id
    store.close()
