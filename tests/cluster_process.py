"""A cluster of real server processes that tests can start, kill, pause and restart."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from cluster_client import Follower
from codeq.v1.cluster_service_pb2 import GetRaftStatusRequest, RaftGroup, RaftMember
from codeq_server.storage.layout import shard_path
from server_process import LOG_TAIL_CHARS, LOOPBACK, START_SECONDS_MAX, ServerProcess, reserved_port

TENANT: Final = "acme"
TOKEN: Final = "cluster-producer"
"""Token of TENANT: producer, worker, administrator and operator."""
STRANGER_TENANT: Final = "umbrella"
STRANGER_TOKEN: Final = "cluster-stranger"
"""Token of a worker of STRANGER_TENANT, which must never see a task."""
SCOPES: Final = ["codeq:claim", "codeq:heartbeat", "codeq:abandon", "codeq:nack", "codeq:result"]
POLL_SECONDS: Final = 0.02
VOTE_SECONDS_MAX: Final = 60.0
LAG_MAX: Final = 1000
"""Entries that a member may lack and still count as caught up."""


def _token(token: str, tenant: str, *scopes: str) -> str:
    raw = {"tenantId": tenant, "role": "ADMIN"}
    all_scopes = [*SCOPES, *scopes]
    return json.dumps(
        {"token": token, "subject": f"of-{tenant}", "scopes": all_scopes, "eventTypes": ["*"], "raw": raw}
    )


AUTHENTICATION: Final = {
    "PRODUCER_AUTH_PROVIDER": "static",
    "PRODUCER_AUTH_CONFIG": _token(TOKEN, TENANT, "codeq:operator"),
    "WORKER_AUTH_PROVIDER": "static",
    "WORKER_AUTH_CONFIG": _token(STRANGER_TOKEN, STRANGER_TENANT),
    "ALLOW_PRODUCER_AS_WORKER": "true",
}


class NodeProcess(ServerProcess):
    """One node of a cluster.

    Attributes:
        name: Its name in the cluster.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        env: Mapping[str, str],
        flags: Sequence[str] = (),
        store: Path | None = None,
        host: str = LOOPBACK,
        prefix: Sequence[str] = (),
    ) -> None:
        super().__init__(directory, env=env, flags=flags, dev=False, store=store, apart=False, host=host, prefix=prefix)
        self.name = name
        self._raft = reserved_port()

    @property
    def raft_addr(self) -> str:
        """Address of the node's Raft transport."""
        return f"{self._host}:{self._raft.getsockname()[1]}"

    @property
    def grpc_addr(self) -> str:
        """Address where clients reach the node over gRPC."""
        return self.producer_addr

    @property
    def is_ready(self) -> bool:
        """Whether the process is listening."""
        return self.is_running and self.ready_path.exists()

    def configure(self, **env: str) -> None:
        """Sets variables for the node's next start."""
        self.env |= env

    def move(self, store: Path) -> None:
        """Uses another directory from the node's next start on."""
        self.store = store

    def pause(self) -> None:
        """Suspends the process."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resumes a suspended process."""
        self.signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends the process if it is running, and releases the ports."""
        super().close()
        self._raft.close()


Place = Callable[[str], Mapping[str, object]]
"""Returns the further arguments of NodeProcess for a node, given its name."""


class ClusterProcess:
    """Nodes of one cluster, founded by the first of them.

    Attributes:
        nodes: The nodes by name.
        shards: Number of shards, each replicated by a group.
    """

    def __init__(
        self,
        directory: Path,
        size: int = 3,
        *,
        env: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
        place: Place | None = None,
        shards: int = 1,
    ) -> None:
        """Prepares a cluster; `start` or `with` starts it.

        Args:
            directory: Where files are kept.
            size: Number of nodes.
            env: Variables of every node.
            flags: Flags of every node.
            place: Returns the special settings of a node.
            shards: Number of shards.
        """
        self._directory, self._place, self.shards = directory, place, shards
        self._env = AUTHENTICATION | {"RAFT_ENABLED": "true", "LOG_LEVEL": "warn"} | dict(env or {})
        if shards > 1:
            persistence = json.dumps({"numShards": shards})
            self._env |= {"PERSISTENCE_CONFIG": persistence, "RAFT_CLUSTER_SECRET": "secret of the nodes"}
        self._flags = flags
        self.nodes: dict[str, NodeProcess] = {}
        for number in range(1, size + 1):
            self._make(f"node-{number}")
        peers = self.addresses("raft_addr")
        for name, node in self.nodes.items():
            node.configure(RAFT_PEERS=json.dumps(peers), **self._books())
            if name == next(iter(self.nodes)):
                node.configure(RAFT_BOOTSTRAP="true")

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def stores(self, shard: int) -> dict[str, Path]:
        """Returns the store of a shard at each node."""
        if self.shards == 1:
            return {name: node.store for name, node in self.nodes.items()}
        return {name: shard_path(node.store, shard) for name, node in self.nodes.items()}

    def addresses(self, kind: str) -> dict[str, str]:
        """Returns one kind of address of every node: raft_addr, grpc_addr or http_url."""
        return {name: getattr(node, kind) for name, node in self.nodes.items()}

    def add(self, name: str, *, peers: Mapping[str, str] | None = None) -> NodeProcess:
        """Prepares one more node with an empty disk; the cluster must still add it as a member.

        Args:
            name: Its name.
            peers: Addresses of the members; None: those of all nodes.
        """
        node = self._make(name)
        node.configure(RAFT_PEERS=json.dumps(peers or self.addresses("raft_addr")), **self._books())
        return node

    def start(self) -> Self:
        """Starts every node that is not running, and returns when all are listening."""
        for node in self.nodes.values():
            if not node.is_running:
                node.spawn()
        for node in self.nodes.values():
            wait_ready(node)
        return self

    async def start_all(self) -> None:
        """Like `start`, without blocking the event loop."""
        await asyncio.to_thread(self.start)

    async def all_vote(self, client: Follower, names: set[str] | None = None) -> None:
        """Waits until each leader reports exactly these members, all of them voting and nearly up to date.

        Then the client knows the leader, or that of the first group.

        Args:
            client: Knows the nodes.
            names: Names of the members; None: all nodes.

        Raises:
            AssertionError: A leader did not report them in time.
        """
        wanted = set(self.nodes) if names is None else names
        deadline = time.monotonic() + VOTE_SECONDS_MAX
        while True:
            groups = await self.leading(client)
            if len(groups) == self.shards and all(
                {member.id for member in group.members} == wanted and all(map(_votes, group.members))
                for group in groups.values()
            ):
                client.leader = self.nodes[groups[0].leader_id].grpc_addr
                return
            assert time.monotonic() < deadline, f"not all of {wanted} vote\n{groups}\n{self.logs}"
            await asyncio.sleep(POLL_SECONDS)

    async def leading(self, client: Follower) -> dict[int, RaftGroup]:
        """Returns each group by its shard as its leader sees it, without those that have none."""
        answers = await client.each("cluster", "GetRaftStatus", GetRaftStatusRequest())
        groups = [group for answer in answers for group in answer.status.groups if group.is_leader]
        return {group.shard_idx: group for group in sorted(groups, key=lambda each: each.term)}

    def kill(self) -> None:
        """Kills every node at once, like a power cut, except that the disks keep unsynced writes."""
        running = [node for node in self.nodes.values() if node.is_running]
        for node in running:
            node.pause()  # so that no node continues without the others
        for node in running:
            node.kill()

    def close(self) -> None:
        """Ends every node and releases the ports."""
        for node in self.nodes.values():
            node.close()

    @property
    def logs(self) -> str:
        """The last output of each node."""
        return "\n".join(f"--- {name}\n{node.log[-LOG_TAIL_CHARS:]}" for name, node in self.nodes.items())

    def _make(self, name: str) -> NodeProcess:
        special = dict(self._place(name)) if self._place is not None else {}
        own = special.pop("env", {})
        assert isinstance(own, Mapping)
        node = NodeProcess(self._directory / name, name, env=self._env | own, flags=self._flags, **special)  # type: ignore[arg-type]
        node.configure(RAFT_SELF_ID=name, RAFT_BIND_ADDR=node.raft_addr)
        self.nodes[name] = node
        return node

    def _books(self) -> dict[str, str]:
        return {
            "RAFT_PEER_HTTP_ADDRS": json.dumps(self.addresses("http_url")),
            "RAFT_PEER_GRPC_ADDRS": json.dumps(self.addresses("grpc_addr")),
        }


def _votes(member: RaftMember) -> bool:
    """Returns whether a member votes and is nearly up to date, as its leader sees it."""
    keeps_up = bool(member.active and member.match_index and member.lag <= LAG_MAX)
    return bool(member.voter and (member.is_self or keeps_up))


def wait_ready(node: NodeProcess) -> None:
    """Waits until a spawned node is listening.

    Raises:
        RuntimeError: The node ended, or was not listening in time.
    """
    deadline = time.monotonic() + START_SECONDS_MAX
    while not node.is_ready:
        if not node.is_running:
            raise RuntimeError(f"{node.name} ended with code {node.wait()}\n{node.log[-LOG_TAIL_CHARS:]}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{node.name} was not ready in time\n{node.log[-LOG_TAIL_CHARS:]}")
        time.sleep(POLL_SECONDS)
