"""Misplaced volumes, removed members and invalid membership changes: how nodes react and what they log."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cluster_client import Follower, Refused
from cluster_process import TOKEN, ClusterProcess, NodeProcess
from codeq.v1 import cluster_service_pb2 as cluster_pb
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from member_faults import wipe

pytestmark = pytest.mark.timeout(400)

LINES_MAX = 4
"""Maximum lines of one kind that a node may log during a test about a single problem with a single node."""


class Client(Follower):
    """Follows the leader of a cluster."""

    def __init__(self, cluster: ClusterProcess) -> None:
        super().__init__(list(cluster.addresses("grpc_addr").values()), TOKEN)
        self._cluster = cluster

    async def create(self) -> str:
        spec = task_pb2.TaskSpec(command="a", payload=b"{}")
        answer, _ = await self.call("tasks", "CreateTask", pb.CreateTaskRequest(spec=spec), again=True)
        return str(answer.task.id)

    async def led_by(self) -> NodeProcess:
        """Returns the node that leads."""
        await self.create()
        nodes = self._cluster.nodes.values()
        return next(node for node in nodes if node.grpc_addr == self.leader)

    async def add(self, name: str, address: str, *, replace: bool) -> None:
        request = cluster_pb.AddMemberRequest(id=name, raft_addr=address, replace=replace)
        await self.call("cluster", "AddMember", request, again=True, seconds=60, attempt_seconds=20)


@asynccontextmanager
async def served(cluster: ClusterProcess) -> AsyncIterator[Client]:
    """Yields a client of a cluster in which every node has a vote."""
    await cluster.start_all()
    async with Client(cluster) as client:
        await client.create()
        await cluster.all_vote(client)
        yield client


def command(node: NodeProcess, *args: str) -> subprocess.CompletedProcess[str]:
    """Runs `codeq cluster …` against a node, once."""
    environment = os.environ | {"CODEQ_ENDPOINT": node.http_url, "CODEQ_TOKEN": TOKEN}
    line = [sys.executable, "-m", "codeq_cli.main", "cluster", *args]
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=120)


def problems(node: NodeProcess) -> str:
    """Returns a node's view of its connections to members."""
    done = command(node, "status", "-o", "json")
    groups = json.loads(done.stdout)["groups"] if done.returncode == 0 else []
    return "\n".join(member.get("problem", "") for group in groups for member in group["members"])


async def until_said(cluster: ClusterProcess, node: NodeProcess, *words: str, event: str) -> None:
    """Waits until a line of a node's log contains an event and all words; there must be few such lines."""
    async with asyncio.timeout(60):
        while True:
            lines = [line for line in node.log.splitlines() if event in line and all(word in line for word in words)]
            if lines:
                break
            await asyncio.sleep(0.05)
    assert len(lines) <= LINES_MAX, cluster.logs


async def test_error_for_swapped_volumes_names_both_nodes(tmp_path: Path) -> None:
    with ClusterProcess(tmp_path) as cluster:
        async with served(cluster) as client:
            task = await client.create()
        cluster.kill()
        two, three = cluster.nodes["node-2"], cluster.nodes["node-3"]
        stores = two.store, three.store
        two.move(stores[1])
        three.move(stores[0])
        for node, other in ((two, three), (three, two)):
            node.spawn()
            assert await asyncio.to_thread(node.wait) == 1
            last = node.log.splitlines()[-1]
            assert f"the store belongs to the member {other.name}" in last
            assert f"this node is {node.name}: " in last
        two.move(stores[0])
        three.move(stores[1])
        async with served(cluster) as client:
            await client.call("tasks", "GetTask", pb.GetTaskRequest(task_id=task), again=True)


async def test_rejected_membership_changes_have_no_effect_and_the_leader_can_be_removed(tmp_path: Path) -> None:
    with ClusterProcess(tmp_path) as cluster:
        async with served(cluster) as client:
            extra = cluster.add("node-4")
            extra.spawn()
            client.know(extra.grpc_addr)
            await client.add("node-4", extra.raft_addr, replace=False)
            await cluster.all_vote(client)
            for address, why in (("127.0.0.1:1", "does not answer"), (cluster.nodes["node-3"].raft_addr, "node-3")):
                with pytest.raises(Refused, match=why) as refused:
                    await client.add("node-4", address, replace=True)
                assert refused.value.reason == "MEMBER_NOT_READY"
            with pytest.raises(Refused) as refused:
                await client.add("node-4", "127.0.0.1:1", replace=False)
            assert refused.value.reason == "MEMBER_EXISTS"
            await client.create()
            await cluster.all_vote(client)
            for _ in range(3):
                done = await asyncio.to_thread(command, await client.led_by(), "transfer")
                assert done.returncode == 0, done.stderr
            gone = await client.led_by()
            done = await asyncio.to_thread(command, gone, "remove", gone.name)
            assert done.returncode == 0, done.stderr
            await cluster.all_vote(client, set(cluster.nodes) - {gone.name})
            gone.kill()
            gone.spawn()
            leader = await client.led_by()
            await until_said(cluster, leader, gone.name, "removed from the cluster", event="raft_peer_refused")
            await until_said(cluster, gone, leader.name, "removed from the cluster", event="raft_peer_lost")
            assert "removed from the cluster" in await asyncio.to_thread(problems, gone)


async def test_member_restored_from_an_old_copy_is_reported_and_replaced(tmp_path: Path) -> None:
    with ClusterProcess(tmp_path) as cluster:
        async with served(cluster) as client:
            leader = await client.led_by()
            node = next(node for node in cluster.nodes.values() if node is not leader)
            assert node.stop() == 0
            await asyncio.to_thread(shutil.copytree, node.store, tmp_path / "copy")
            await cluster.start_all()
            for _ in range(20):
                await client.create()
            await cluster.all_vote(client)
            assert node.stop() == 0
            wipe(node)
            await asyncio.to_thread(shutil.copytree, tmp_path / "copy", node.store)
            node.spawn()
            await until_said(cluster, node, "its store is an old copy", event="raft_peer_lost")
            await until_said(cluster, leader, node.name, "its store is an old copy", event="raft_peer")
            assert "its store is an old copy" in await asyncio.to_thread(problems, leader)
            node.kill()
            wipe(node)
            node.spawn()
            await client.add(node.name, node.raft_addr, replace=True)
            await cluster.all_vote(client)


async def test_member_of_a_pair_starts_despite_founding_settings(tmp_path: Path) -> None:
    with ClusterProcess(tmp_path) as cluster:
        async with served(cluster) as client:
            done = await asyncio.to_thread(command, await client.led_by(), "remove", "node-3")
            assert done.returncode == 0, done.stderr
        cluster.nodes.pop("node-3").close()
        cluster.kill()
        pair = {name: node.raft_addr for name, node in cluster.nodes.items()}
        for node in cluster.nodes.values():
            node.configure(
                RAFT_PEERS=json.dumps(pair), RAFT_BOOTSTRAP="true", RAFT_PEER_HTTP_ADDRS="", RAFT_PEER_GRPC_ADDRS=""
            )
        async with served(cluster):
            assert all("two_members" in node.log for node in cluster.nodes.values())
        cluster.kill()
        node = cluster.nodes["node-1"]
        node.move(tmp_path / "empty")
        node.spawn()
        assert await asyncio.to_thread(node.wait) == 2
        assert "RAFT_BOOTSTRAP: two members tolerate no failure" in node.log.splitlines()[-1]
