"""Real nodes with the settings of a StatefulSet's pods: one environment, host names, and addresses by name.

Each node runs in mount and UTS namespaces of its own, with its host name and a hosts file in place of the DNS.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from cluster_client import Follower
from cluster_process import AUTHENTICATION, TOKEN, NodeProcess
from codeq.v1 import cluster_service_pb2 as cluster_pb
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from host_tools import need_root

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]

DOMAIN = "codeq-members.test"
RAFT_PORT = 7093
WAIT_SECONDS = 90.0
INSIDE = 'mount --bind "$0" /etc/hosts && hostname "$1" && shift && exec "$@"'


class Pods:
    """Nodes codeq-0, codeq-1 and so on, with one environment.

    Attributes:
        nodes: The nodes by name.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._hosts = folder, folder / "hosts"
        self._numbers = itertools.count(10)
        self._addresses: dict[str, str] = {}
        self.nodes: dict[str, NodeProcess] = {}

    def add(self, name: str) -> NodeProcess:
        """Prepares a node; its disk is empty."""
        prefix = ["unshare", "--mount", "--uts", "sh", "-c", INSIDE, str(self._hosts), name]
        env = AUTHENTICATION | {
            "RAFT_ENABLED": "true",
            "RAFT_PEERS_DNS": f"{DOMAIN}:{RAFT_PORT}",
            "RAFT_EXPECTED_NODES": "3",
            "LOG_LEVEL": "info",
        }
        node = self.nodes[name] = NodeProcess(self._folder / name, name, env=env, prefix=prefix)
        self.move(name)
        # The ports for clients differ, as the nodes share the address of the loopback for them.
        node.configure(RAFT_PEER_GRPC_ADDRS=f"{name}={node.grpc_addr}", RAFT_PEER_HTTP_ADDRS=f"{name}={node.http_url}")
        return node

    def move(self, name: str) -> None:
        """Gives a node another address for the next start, as a new pod has."""
        self._addresses[name] = f"127.0.0.{next(self._numbers)}"
        lines = ["127.0.0.1 localhost", *(f"{address} {name}.{DOMAIN}" for name, address in self._addresses.items())]
        self._hosts.write_text("\n".join(lines) + "\n")
        self.nodes[name].configure(RAFT_BIND_ADDR=f"{self._addresses[name]}:{RAFT_PORT}")

    def client(self) -> Follower:
        """Returns a client that follows the leader."""
        return Follower([node.grpc_addr for node in self.nodes.values()], TOKEN)

    @property
    def logs(self) -> str:
        """The last output of each node."""
        return "\n".join(f"--- {name}\n{node.log[-4000:]}" for name, node in self.nodes.items())


@contextmanager
def pods(folder: Path, count: int = 3) -> Iterator[Pods]:
    """Yields nodes that have not been started, and ends them."""
    need_root()
    with Path(tempfile.gettempdir(), "codeq-members.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # others may not use the same addresses of the loopback
        made = Pods(folder)
        try:
            for number in range(count):
                made.add(f"codeq-{number}")
            yield made
        finally:
            for node in made.nodes.values():
                node.close()


def started(node: NodeProcess) -> bool:
    """Returns whether a node has caught up."""
    try:
        return httpx.get(f"{node.http_url}/startupz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


async def until(condition: Callable[[], bool], told: Callable[[], str]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, told()
        await asyncio.sleep(0.1)


async def all_started(made: Pods) -> None:
    await until(lambda: all(map(started, made.nodes.values())), lambda: made.logs)


async def create(client: Follower) -> str:
    spec = task_pb2.TaskSpec(command="a", payload=b"{}")
    answer, _ = await client.call("tasks", "CreateTask", pb.CreateTaskRequest(spec=spec), again=True)
    return str(answer.task.id)


async def members(client: Follower) -> dict[str, bool]:
    """Returns the members that the leader knows, and whether each has a vote."""
    await create(client)
    answer, _ = await client.call("cluster", "GetRaftStatus", cluster_pb.GetRaftStatusRequest(), again=True)
    [group] = answer.status.groups
    return {member.id: member.voter for member in group.members}


def voters(count: int) -> dict[str, bool]:
    return {f"codeq-{number}": True for number in range(count)}


async def test_pods_found_a_cluster_lose_a_disk_move_and_grow(tmp_path: Path) -> None:
    with pods(tmp_path) as made:
        for name in ("codeq-2", "codeq-0"):
            made.nodes[name].spawn()
        await until(lambda: "codeq-1 must answer" in made.nodes["codeq-0"].log, lambda: made.logs)
        assert not started(made.nodes["codeq-0"])
        made.nodes["codeq-1"].spawn()
        await all_started(made)
        async with made.client() as client:
            tasks = [await create(client)]
            assert await members(client) == voters(3)

            for name in ("codeq-0", "codeq-2"):  # disks are lost, also that of the founder
                node = made.nodes[name]
                node.kill()
                shutil.rmtree(node.store)
                node.spawn()
                await all_started(made)
                assert await members(client) == voters(3)
                tasks.append(await create(client))

            for node in made.nodes.values():  # all pods get other addresses at once
                node.kill()
            for name, node in made.nodes.items():
                made.move(name)
                node.spawn()
            await all_started(made)
            tasks.append(await create(client))

            for name in ("codeq-3", "codeq-4"):
                made.add(name).spawn()
            await all_started(made)
            assert await members(client) == voters(5)
            for task in tasks:
                await client.call("tasks", "GetTask", pb.GetTaskRequest(task_id=task), again=True)
        clusters = [
            line for node in made.nodes.values() for line in node.log.splitlines() if "different clusters" in line
        ]
        assert not clusters


async def test_two_lost_disks_found_no_second_cluster(tmp_path: Path) -> None:
    with pods(tmp_path) as made:
        for node in made.nodes.values():
            node.spawn()
        await all_started(made)
        async with made.client() as client:
            task = await create(client)
        for node in made.nodes.values():
            node.kill()
        for name in ("codeq-0", "codeq-1"):
            shutil.move(made.nodes[name].store, tmp_path / f"{name}-kept")
            made.nodes[name].spawn()
        founder = made.nodes["codeq-0"]
        await until(lambda: '"codeq-2 must answer' in founder.log, lambda: made.logs)
        made.nodes["codeq-2"].spawn()
        await until(lambda: "codeq-2 belongs to the cluster" in founder.log, lambda: made.logs)
        assert not any(map(started, made.nodes.values()))

        for name in ("codeq-0", "codeq-1"):  # the volumes are found again
            node = made.nodes[name]
            node.kill()
            shutil.rmtree(node.store)
            shutil.move(tmp_path / f"{name}-kept", node.store)
            node.spawn()
        await all_started(made)
        async with made.client() as client:
            assert await members(client) == voters(3)
            await client.call("tasks", "GetTask", pb.GetTaskRequest(task_id=task), again=True)
