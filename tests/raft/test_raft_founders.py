"""Which node founds a cluster, which cluster a node joins, and which node gives up its own cluster for another."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from codeq_server.core.errors import Reason, Rejection
from codeq_server.replication.raft import membership
from codeq_server.replication.raft.network import Hello
from members_net import Cluster, MemberNode
from test_raft_operator import operated

TICKS = 200
"""Number of ticks within which a forbidden event would have happened."""


def clusters(*nodes: MemberNode) -> set[bytes]:
    """Returns the ids of the clusters that nodes belong to."""
    return {node.member.row.cluster_id for node in nodes}


def lone(cluster: Cluster, name: str) -> MemberNode:
    """Returns a node, not yet started, that founds a cluster by itself."""
    node = cluster.nodes[name] = cluster.node(name, bootstrap=True)
    node.peers = {name: f"{name}:7000"}
    return node


async def test_founder_with_the_first_name_founds_the_cluster(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    for node in cluster.nodes.values():
        node.bootstrap = True
    a, b, c = cluster.nodes.values()
    b.start()
    c.start()
    await cluster.until(lambda: "c" in b.member.directory.met and "b" in c.member.directory.met)
    for _ in range(TICKS):
        b.member.tick()
        c.member.tick()
    assert clusters(b, c) == {b""}
    async with cluster_of_started(cluster):
        await cluster.voters(3)
        assert len(clusters(a, b, c)) == 1
        await (await cluster.leader()).write({b"t1": b"one"})


class cluster_of_started:  # noqa: N801 - reads as a function
    """Starts the nodes that are not running, and stops all of them at the end."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def __aenter__(self) -> None:
        running = list(self._cluster.net.nodes.values())
        for node in self._cluster.nodes.values():
            if node not in running:
                node.start()

    async def __aexit__(self, *exit_: object) -> None:
        await self._cluster.__aexit__(*exit_)


async def test_only_the_permitted_founder_founds_even_if_other_names_come_first(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.nodes["a"].bootstrap, cluster.nodes["c"].bootstrap = False, True
    async with cluster:
        await cluster.voters(3)


async def test_founder_called_by_another_cluster_still_founds_its_own(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    a = cluster.nodes["a"].start()
    for name in "abz":
        a.member.met(Hello(name, 99, b"another cluster."), "")
    async with cluster_of_started(cluster):
        await cluster.voters(3)
        assert clusters(*cluster.nodes.values()) != {b"another cluster."}


async def test_founder_founds_no_cluster_if_another_founder_has_a_cluster(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    a = cluster.nodes["a"].start()
    a.member.met(Hello("b", 99, b"another cluster."), "b:7000")
    a.member.met(Hello("c", 98), "c:7000")
    for _ in range(TICKS):
        a.member.tick()
    assert clusters(a) == {b""}
    await a.stop()


async def test_node_joins_only_the_cluster_that_made_it_a_member(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        newcomer = cluster.nodes["d"] = cluster.node("d").start()
        for name in "abcxyz":
            newcomer.member.met(Hello(name, 99, b"another cluster."), f"{name}:7000")
        await operated(leader).add("d", "d:7000", replace=False)
        await cluster.voters(4)
        assert len(clusters(leader, newcomer)) == 1
        assert "x" not in newcomer.member.directory.met


async def test_impostor_with_the_name_of_an_invited_node_is_not_added(tmp_path: Path) -> None:
    async with Cluster(tmp_path, "ab") as cluster:
        await cluster.voters(2)
        leader = await cluster.leader()
        operator, stranger = operated(leader), Hello("d", 99)
        adding = asyncio.create_task(operator.add("d", "d:7000", replace=False))
        for _ in range(TICKS):
            leader.member.met(stranger, "")
            await asyncio.sleep(0)
        newcomer = cluster.nodes["d"] = cluster.node("d").start()
        await adding
        await cluster.voters(3)
        assert leader.member.group is not None
        assert 99 not in [member.raft_id for member in leader.member.group.members.members]
        assert newcomer.member.group is not None


async def test_lone_founder_gives_up_its_cluster_for_the_cluster_that_adds_it(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "ac")
    b = lone(cluster, "b").start()
    await cluster.until(lambda: b.member.group is not None)
    own = clusters(b)
    async with cluster_of_started(cluster):
        a, c = cluster.nodes["a"], cluster.nodes["c"]
        await cluster.until(lambda: a.term or c.term)
        await (await cluster.leader(beside=b)).write({b"t1": b"one"})
        await operated(await cluster.leader(beside=b)).add("b", "b:7000", replace=False)
        await cluster.voters(3)
        assert clusters(b) == clusters(a) != own
        await b.stop()
        b.start()
        await cluster.until(lambda: b.store.get(b"t1") == b"one")
        assert clusters(b) == clusters(a)


async def test_lone_founder_with_the_first_name_keeps_its_cluster(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "")
    a, b = lone(cluster, "a").start(), lone(cluster, "b").start()
    async with cluster_of_started(cluster):
        await cluster.until(lambda: a.term and b.term)
        with pytest.raises(Rejection, match=f"a belongs to the cluster {a.member.row.cluster_id.hex()}") as refused:
            await operated(b).add("a", "a:7000", replace=False)
        assert b.member.row.cluster_id.hex() in str(refused.value)
        await operated(a).add("b", "b:7000", replace=False)
        await cluster.voters(2)
        assert len(clusters(a, b)) == 1


async def test_founder_with_committed_work_keeps_its_cluster(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "")
    a, b = lone(cluster, "a").start(), lone(cluster, "b").start()
    async with cluster_of_started(cluster):
        await cluster.until(lambda: a.term and b.term)
        await b.write({b"t1": b"one"})
        with pytest.raises(Rejection, match=b.member.row.cluster_id.hex()) as refused:
            await operated(a).add("b", "b:7000", replace=False)
        assert refused.value.reason is Reason.MEMBER_NOT_READY
        b.member.receive(0, b"", a.member.hello())
        assert clusters(a) != clusters(b)
        assert b.store.get(b"t1") == b"one"


async def test_learner_follows_its_founder_into_the_other_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(tmp_path, "bc")
    with monkeypatch.context() as patch:
        # No learner becomes a voter: had c become a voter, something would have been decided in b's cluster.
        patch.setattr(membership, "CAUGHT_UP_ENTRIES", -1000)
        b, c = cluster.nodes["b"].start(), cluster.nodes["c"].start()
        await cluster.until(lambda: b.member.hello().unsettled and c.member.hello().unsettled)
        a = lone(cluster, "a").start()
        cluster.net.cut = {frozenset("bc")}
        await cluster.until(lambda: a.term)
        await a.write({b"t1": b"one"})
        for name in "bc":
            await operated(a).add(name, f"{name}:7000", replace=False)
        assert len(clusters(a, b)) == 1
    async with cluster_of_started(cluster):
        cluster.net.heal()
        await cluster.voters(3)
        assert len(clusters(a, b, c)) == 1
        await cluster.until(lambda: c.store.get(b"t1") == b"one")


async def test_founder_that_gave_up_its_cluster_ignores_messages_from_it(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "")
    a, b = lone(cluster, "a").start(), lone(cluster, "b").start()
    async with cluster_of_started(cluster):
        await cluster.until(lambda: a.term and b.term)
        before = b.member.hello()
        await operated(a).add("b", "b:7000", replace=False)
        await cluster.voters(2)
        b.member.receive(0, b"", before)
        b.member.receive(0, b"", replace(before, unsettled=False))
        assert len(clusters(a, b)) == 1
