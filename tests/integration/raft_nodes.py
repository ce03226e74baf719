"""Nodes that talk over real connections and note what they are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from codeq_server.replication.raft.channels import TransportSettings
from codeq_server.replication.raft.network import Hello
from codeq_server.replication.raft.transport import Transport


async def eventually(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


class Node:
    """A node whose groups only take notes.

    Attributes:
        me: Who it is.
        received: Groups and messages in the order they came.
        met: Who said who they are, and the address.
        lost: Raft ids that were reported unreachable, with the time.
        sent: Groups, Raft ids and outcomes of snapshots that were sent.
        installed: Groups, messages and the files of snapshots that came, by name.
    """

    def __init__(self, name: str, raft_id: int, cluster_id: bytes = b"cluster") -> None:
        self.me = Hello(name, raft_id, cluster_id, f"http://{name}:8080", f"{name}:9092")
        self.received: list[tuple[int, bytes]] = []
        self.met_peers: list[tuple[Hello, str]] = []
        self.lost: list[tuple[int, float]] = []
        self.sent: list[tuple[int, int, bool]] = []
        self.installed: list[tuple[int, bytes, dict[str, bytes]]] = []
        self.refusal: Exception | None = None
        self.may_install = asyncio.Event()
        self.may_install.set()
        self.installing = asyncio.Event()

    def hello(self) -> Hello:
        return self.me

    def met(self, peer: Hello, address: str) -> None:
        self.met_peers.append((peer, address))
        if not self.me.cluster_id:
            self.me = replace(self.me, cluster_id=peer.cluster_id)

    def receive(self, group: int, message: bytes) -> None:
        self.received.append((group, message))

    def unreachable(self, raft_id: int) -> None:
        self.lost.append((raft_id, time.monotonic()))

    def snapshot_sent(self, group: int, to: int, ok: bool) -> None:
        self.sent.append((group, to, ok))

    async def install(self, group: int, message: bytes, folder: Path) -> None:
        self.installing.set()
        await self.may_install.wait()
        if self.refusal is not None:
            raise self.refusal
        self.installed.append((group, message, contents(folder)))


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the files of a folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def settings(folder: Path, port: int = 0, **further: object) -> TransportSettings:
    """Returns the settings of a node on the loopback."""
    return replace(TransportSettings("127.0.0.1", port, folder), secret="sesame", **further)  # type: ignore[arg-type]


@asynccontextmanager
async def started(
    node: Node, how: TransportSettings, peers: Mapping[str, str] | None = None
) -> AsyncIterator[Transport]:
    """Runs the transport of a node."""
    transport = Transport(how, peers or {}, node)
    await transport.start()
    try:
        yield transport
    finally:
        await transport.stop()


def reaches(transport: Transport, *raft_ids: int) -> bool:
    """Returns whether a transport has streams to these nodes."""
    return set(raft_ids) <= {peer.raft_id for peer in transport.peers()}


@asynccontextmanager
async def connected(folder: Path, *nodes: Node) -> AsyncIterator[list[Transport]]:
    """Runs the transports of nodes that all have streams to each other."""
    async with AsyncExitStack() as stack:
        transports = []
        for node in nodes:
            transports.append(await stack.enter_async_context(started(node, settings(folder / node.me.name))))
        book = {node.me.name: f"127.0.0.1:{transport.port}" for node, transport in zip(nodes, transports, strict=True)}
        for transport in transports:
            for name, address in book.items():
                transport.add(name, address)
        await eventually(lambda: all(peer.raft_id for transport in transports for peer in transport.peers()))
        yield transports
