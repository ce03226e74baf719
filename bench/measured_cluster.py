"""Three fresh nodes of a Raft cluster, each in its own process, and their readings under load."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from measured_server import LOOPBACK, POLL_SECONDS, START_SECONDS_MAX, BenchError, MeasuredServer

NAMES: Final = ("node-a", "node-b", "node-c")


class MeasuredCluster:
    """Three nodes with empty stores on this machine's loopback interface, sharing a disk; fsync on by default.

    Attributes:
        nodes: The nodes by name.
    """

    def __init__(self, directory: Path, *, fsync: bool = True, retention_seconds: int | None = None) -> None:
        """Prepares the nodes; `with` starts and stops them.

        Args:
            directory: Folder of stores, logs and ready files.
            fsync: Whether every acknowledgement waits for fsync on a majority.
            retention_seconds: How long ended tasks are kept; None: the server's default.
        """
        self._stack = ExitStack()
        addresses = [self._free_addresses(NAMES) for _ in range(3)]
        raft, http, grpc = addresses
        self.nodes: dict[str, MeasuredServer] = {}
        for name in NAMES:
            (directory / name).mkdir()
            self.nodes[name] = MeasuredServer(
                directory / name,
                fsync=fsync,
                retention_seconds=retention_seconds,
                more={
                    "PORT": http[name].rpartition(":")[2],
                    "WORKER_STREAM_ADDR": grpc[name],
                    "PRODUCER_STREAM_ADDR": grpc[name],
                    "RAFT_ENABLED": "true",
                    "RAFT_SELF_ID": name,
                    "RAFT_BIND_ADDR": raft[name],
                    "RAFT_BOOTSTRAP": str(name == NAMES[0]).lower(),
                    "RAFT_PEERS": _listed(raft),
                    "RAFT_PEER_HTTP_ADDRS": _listed({peer: f"http://{address}" for peer, address in http.items()}),
                    "RAFT_PEER_GRPC_ADDRS": _listed(grpc),
                },
            )

    def __enter__(self) -> Self:
        with ExitStack() as started:
            started.push(self._stack)
            for node in self.nodes.values():
                started.enter_context(node)
            self._wait_for_voters()
            self._stack = started.pop_all()
        return self

    def __exit__(self, *problem: object) -> None:
        self._stack.close()

    def leader(self) -> str:
        """Returns the name of the node that considers itself the leader; empty: no node does."""
        return next((name for name in self.nodes if self._group(name).get("isLeader")), "")

    def _group(self, name: str) -> dict[str, object]:
        try:
            groups = self.nodes[name].get_json("/v1/codeq/raft/status")["groups"]
        except OSError as error:
            raise BenchError(f"{name} does not answer: {error}\n{self.nodes[name].log}") from None
        assert isinstance(groups, list)
        return groups[0] if groups else {}

    def _wait_for_voters(self) -> None:
        """Waits until one node leads and all have a vote, so that every figure describes a full cluster."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            leader = self.leader()
            members = self._group(leader)["members"] if leader else []
            assert isinstance(members, list)
            if len([member for member in members if member["voter"]]) == len(NAMES):
                return
            if time.monotonic() > deadline:
                logs = "\n".join(node.log for node in self.nodes.values())
                raise BenchError(f"the nodes formed no cluster within {START_SECONDS_MAX:g} s:\n{logs}")
            time.sleep(POLL_SECONDS)

    def _free_addresses(self, names: tuple[str, ...]) -> dict[str, str]:
        """Returns an address for each node, reserved until the cluster stops."""
        addresses = {}
        for name in names:
            held = self._stack.enter_context(socket.socket())
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((LOOPBACK, 0))
            addresses[name] = f"{LOOPBACK}:{held.getsockname()[1]}"
        return addresses


def _listed(addresses: dict[str, str]) -> str:
    return ",".join(f"{name}={address}" for name, address in addresses.items())
