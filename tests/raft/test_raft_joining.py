"""Empty nodes of a cluster that admits nodes by itself: founding with everyone, joining, and lost disks."""

from __future__ import annotations

import asyncio
import random
import shutil
from pathlib import Path

import pytest
from codeq_internal.v1 import raft_rows_pb2
from codeq_raft_core import read_conf_state
from codeq_server.replication.raft.network import Hello
from members_net import TICK_SECONDS, WAIT_SECONDS, Cluster, MemberNode
from test_raft_founders import TICKS, cluster_of_started, clusters
from test_raft_operator import operated

NAMES = "abcde"


def address_of(name: str) -> str:
    return f"{name}:7000" if name in NAMES else ""


class Joined(Cluster):
    """Nodes of one template: the first of three founds the cluster, all others join by themselves."""

    def node(self, name: str, *, bootstrap: bool = False) -> MemberNode:
        """Returns a new node, not yet started."""
        node = super().node(name, bootstrap=bootstrap)
        node.admits = address_of
        return node

    async def begin(self, name: str) -> MemberNode:
        """Starts one more node."""
        self.nodes[name] = self.node(name)
        return self.nodes[name].start()

    async def lose_disk(self, node: MemberNode) -> None:
        """Kills a node and starts it again with an empty disk."""
        await node.stop()
        node.term = 0
        shutil.rmtree(node.folder)
        node.start()


def table(node: MemberNode) -> raft_rows_pb2.MembersRow:
    assert node.member.group is not None
    return node.member.group.members


def voters(node: MemberNode) -> list[int]:
    assert node.member.group is not None
    return sorted(read_conf_state(node.member.group.conf_state).voters)


def is_vital(node: MemberNode) -> bool:
    """Returns whether a node knows of two voters, or of a change that may end in two: no disk may be lost."""
    group = node.member.group
    return group is not None and (len(voters(node)) == 2 or group.applied.index != group.log.last)


async def wait_ticks(count: int = TICKS) -> None:
    await asyncio.sleep(count * TICK_SECONDS)


async def test_founder_waits_for_everyone_and_the_others_found_nothing(tmp_path: Path) -> None:
    cluster = Joined(tmp_path)
    a, b, c = cluster.nodes.values()
    a.start()
    b.start()
    await wait_ticks()
    assert clusters(a, b) == {b""}
    async with cluster_of_started(cluster):
        await cluster.voters(3)
        assert len(clusters(a, b, c)) == 1
        await (await cluster.leader()).write({b"t": b"1"})


async def test_founder_founds_nothing_while_a_node_that_answered_is_gone(tmp_path: Path) -> None:
    cluster = Joined(tmp_path)
    a = cluster.nodes["a"].start()
    a.member.met(Hello("b", 98, joins=True), "b:7000")
    a.member.parted("b")
    a.member.met(Hello("c", 99, joins=True), "c:7000")
    await wait_ticks()
    assert clusters(a) == {b""}
    await a.stop()


async def test_founder_founds_nothing_after_a_call_from_a_member_of_a_cluster(tmp_path: Path) -> None:
    cluster = Joined(tmp_path)
    cluster.nodes["a"].start().member.met(Hello("d", 99, b"another cluster."), "")
    for name in "bc":
        cluster.nodes[name].start()
    await wait_ticks()
    assert clusters(*cluster.nodes.values()) == {b""}
    for node in cluster.nodes.values():
        await node.stop()


async def test_cluster_grows_from_three_to_five_without_an_operator(tmp_path: Path) -> None:
    async with Joined(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        await leader.write({b"t": b"1"})
        await asyncio.gather(cluster.begin("d"), cluster.begin("e"))
        await cluster.voters(5)
        assert len(clusters(*cluster.nodes.values())) == 1
        assert [(member.name, member.address) for member in table(leader).members] == [
            (name, f"{name}:7000") for name in NAMES
        ]
        assert not table(leader).invitations
        assert not leader.member.directory.asking


async def test_node_that_asked_before_the_founding_is_admitted_after_it(tmp_path: Path) -> None:
    cluster = Joined(tmp_path)
    for name in "ab":
        cluster.nodes[name].start()
    d = await cluster.begin("d")
    cluster.net.isolate("d")  # it asks once, before anyone can admit it
    for name in "ab":
        cluster.nodes[name].member.met(d.member.hello(), "")
    async with cluster_of_started(cluster):
        leader = await cluster.leader()
        await cluster.until(lambda: [i.name for i in table(leader).invitations] == ["d"])
        cluster.net.heal()
        await cluster.voters(4)


@pytest.mark.parametrize("which", ["leader", "follower"])
async def test_member_with_an_emptied_disk_replaces_itself_and_votes_once(tmp_path: Path, which: str) -> None:
    async with Joined(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        follower = next(node for node in cluster.nodes.values() if node is not leader)
        victim = leader if which == "leader" else follower
        await leader.write({b"t": b"1"})
        before, [cluster_id] = voters(leader), clusters(*cluster.nodes.values())
        await cluster.lose_disk(victim)
        await cluster.until(lambda: victim.member.row.raft_id in voters(follower if which == "leader" else leader))
        await cluster.voters(3)
        leader = await cluster.leader()
        assert clusters(*cluster.nodes.values()) == {cluster_id}
        assert len(set(voters(leader)) & set(before)) == 2
        assert [member.name for member in table(leader).members] == ["a", "b", "c"]
        await leader.write({b"t": b"2"})
        await cluster.until(lambda: victim.store.get(b"t") == b"2")


async def test_every_disk_may_be_lost_one_after_the_other(tmp_path: Path) -> None:
    async with Joined(tmp_path) as cluster:
        await cluster.voters(3)
        [cluster_id] = clusters(*cluster.nodes.values())
        for number, victim in enumerate(cluster.nodes.values()):
            leader = await cluster.leader()
            await leader.write({b"t": b"%d" % number})
            await cluster.lose_disk(victim)
            await cluster.until(lambda victim=victim: not victim.member.why_behind())
            await cluster.voters(3)
        leader = await cluster.leader()
        assert leader.store.get(b"t") == b"2"
        assert clusters(*cluster.nodes.values()) == {cluster_id}


async def test_disk_lost_again_while_it_is_replaced_leaves_one_vote(tmp_path: Path) -> None:
    async with Joined(tmp_path) as cluster:
        await cluster.voters(3)
        chance = random.Random(7)
        victim = next(node for node in cluster.nodes.values() if not node.term)
        for _ in range(6):
            await cluster.lose_disk(victim)
            await wait_ticks(chance.randrange(20))
        await cluster.until(lambda: not victim.member.why_behind())
        await cluster.voters(3)
        leader = await cluster.leader()
        assert [member.name for member in table(leader).members] == ["a", "b", "c"]


async def test_majority_of_lost_disks_founds_no_second_cluster_while_one_member_remains(tmp_path: Path) -> None:
    async with Joined(tmp_path) as cluster:
        await cluster.voters(3)
        a, b, c = cluster.nodes.values()
        before = voters(c)
        await c.stop()
        await cluster.lose_disk(a)
        await cluster.lose_disk(b)
        await wait_ticks()
        assert clusters(a, b) == {b""}
        c.term = 0
        c.start()
        await wait_ticks()
        assert clusters(a, b) == {b""}
        assert voters(c) == before
        assert not c.term


async def test_name_of_a_living_member_is_not_given_to_a_caller(tmp_path: Path) -> None:
    async with Joined(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        assert leader.member.group is not None
        await cluster.until(lambda: not table(leader).invitations)
        before, last = voters(leader), leader.member.group.log.last
        name = next(name for name, node in cluster.nodes.items() if node is not leader)
        for _ in range(TICKS):
            leader.member.met(Hello(name, 99, joins=True), "")
            leader.member.tick()
            await asyncio.sleep(0)
        assert voters(leader) == before
        assert leader.member.group.log.last == last  # it was not even invited


async def test_name_outside_the_cluster_and_a_node_that_does_not_ask_are_not_admitted(tmp_path: Path) -> None:
    async with Joined(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        leader.member.met(Hello("stranger", 98, joins=True), "")
        leader.member.met(Hello("d", 99), "")
        leader.member.met(Hello("e", 97, b"another cluster.", joins=True), "")
        await wait_ticks()
        assert not table(leader).invitations
        assert not leader.member.directory.asking


async def test_member_whose_disk_comes_back_keeps_its_vote_and_leaves_no_learner(tmp_path: Path) -> None:
    async with Joined(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        before = voters(leader)
        victim = next(node for node in cluster.nodes.values() if node is not leader)
        await victim.stop()
        other = Hello(victim.name, 99, joins=True)
        leader.member.met(other, victim.address)  # a node with an empty disk, which is gone again
        await cluster.until(lambda: 99 in [member.raft_id for member in table(leader).members])
        leader.member.parted(victim.name)
        victim.start()
        await cluster.until(lambda: not table(leader).invitations)
        assert voters(leader) == before
        assert [member.name for member in table(leader).members] == ["a", "b", "c"]
        assert 99 not in [member.raft_id for member in table(leader).members]


async def test_removed_member_stays_out(tmp_path: Path) -> None:
    async with Joined(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        d = await cluster.begin("d")
        await cluster.voters(4)
        await operated(leader).remove("d")
        await wait_ticks()
        assert d.member.row.raft_id not in voters(leader)
        assert [member.name for member in table(leader).members] == ["a", "b", "c"]
        assert not table(leader).invitations


async def test_node_without_the_setting_is_not_admitted_and_admits_none(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        for node in cluster.nodes.values():
            node.member.met(Hello("d", 99, joins=True), "d:7000")
        await wait_ticks()
        assert not table(leader).invitations


@pytest.mark.parametrize("seed", range(6))
async def test_crashes_and_one_lost_disk_while_founding_end_in_one_cluster(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with Joined(tmp_path, seed=seed * 100 + 1) as cluster:
        emptied = chance.choice("abc")
        for life in range(8):
            await wait_ticks(chance.randrange(12))
            name = emptied if life == 4 else chance.choice("abc".replace(emptied, ""))
            node = cluster.nodes[name]
            if life == 4:
                await cluster.until(lambda: not any(is_vital(node) for node in cluster.nodes.values()))
                await cluster.lose_disk(node)
            else:
                await node.stop()
                node.term = 0
                node.start()
        await cluster.voters(3)
        leader = await cluster.leader()
        await leader.write({b"t": b"1"})
        assert len(clusters(*cluster.nodes.values())) == 1


async def test_node_has_caught_up_once_it_has_a_vote_and_the_entries_of_the_leader(tmp_path: Path) -> None:
    async with Joined(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        await cluster.until(lambda: not any(node.member.why_behind() for node in cluster.nodes.values()))
        d = cluster.node("d").start()
        assert d.member.why_behind() == "this node is not a member of a cluster yet"
        cluster.nodes["d"] = d
        await cluster.until(lambda: d.member.group is not None)
        while d.member.row.raft_id not in voters(d):
            assert d.member.why_behind() == "this node has no vote yet"
            await asyncio.sleep(TICK_SECONDS)
        await cluster.until(lambda: not d.member.why_behind())
        cluster.net.isolate("d")
        for number in range(3):
            await leader.write({b"t": b"%d" % number})
        assert d.member.group is not None
        seen = leader.member.hello()
        d.member.met(seen, "")
        assert d.member.why_behind() == f"this node has entries up to {d.member.group.written} of {seen.last_index}"
        cluster.net.heal()
        await cluster.until(lambda: not d.member.why_behind())


async def test_node_has_not_caught_up_while_votes_of_lost_disks_count(tmp_path: Path) -> None:
    async with Joined(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        victim = next(node for node in cluster.nodes.values() if node is not leader)
        await cluster.lose_disk(victim)
        seen = set()
        async with asyncio.timeout(WAIT_SECONDS):
            while "" not in seen:
                reason = victim.member.why_behind()
                conf = None if victim.member.group is None else read_conf_state(victim.member.group.conf_state)
                assert reason or (conf is not None and not conf.voters_outgoing)
                seen.add(reason)
                await asyncio.sleep(0)
        assert "the change of votes is not finished yet" in seen
