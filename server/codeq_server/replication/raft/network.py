"""The ports between a node's groups and the network: `Network` carries messages, `Handler` is notified of events."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Hello:
    """Identity of a node, and the addresses at which clients reach it.

    Attributes:
        name: Name of the node, unique in a cluster.
        raft_id: Id of the node's disk, not 0; a node whose disk was emptied has another id.
        cluster_id: Id of the cluster that the node belongs to; empty: no cluster yet.
        http: Base URL for clients over HTTP; empty: unknown.
        grpc: Address for clients over gRPC, as host:port; empty: unknown.
        founds: Whether the node may found a cluster.
        unsettled: Whether the node may join another cluster, because nothing that could be lost was ever decided in its
            own.
        last_index: Last entry of the node's log at the time of this hello; None: not given.
        joins: Whether the node has an empty disk and asks the leader to make it a member.
    """

    name: str
    raft_id: int
    cluster_id: bytes = b""
    http: str = ""
    grpc: str = ""
    founds: bool = False
    unsettled: bool = False
    last_index: int | None = field(default=None, compare=False)
    joins: bool = False


class Unwelcome(Exception):  # noqa: N818 - who it is
    """This node rejects another node; the text gives the reason and tells that node's operator what to do."""


class Unanswered(Exception):  # noqa: N818 - what it was
    """No node answers at an address, or a node other than expected; the text says why."""


class Network(Protocol):
    """Carries messages to other nodes. Methods are called on the event loop and never block."""

    def send(self, to: int, group: int, message: bytes) -> None:
        """Sends a message to the node with a Raft id. It may be lost; messages that arrive keep their order."""
        ...

    def send_snapshot(self, to: int, group: int, message: bytes, folder: Path) -> None:
        """Sends a snapshot: its message, and the files listed in manifest.json in the folder.

        The folder must stay unchanged until `Handler.snapshot_sent` is called. Another snapshot of the group for the
        same node replaces a snapshot that has not arrived yet. Then only the later snapshot is reported.
        """
        ...


class Handler(Protocol):
    """Called by the network, on the event loop and never from within `send` or `send_snapshot`."""

    def hello(self) -> Hello:
        """Returns the current identity of this node."""
        ...

    def met(self, peer: Hello, address: str) -> None:
        """Reports that a node has identified itself.

        Args:
            peer: The node; its messages are delivered after this call.
            address: Address at which the peer answered; empty: the peer called, so its name is not verified.

        Raises:
            Unwelcome: This node rejects the peer.
        """
        ...

    def parted(self, name: str) -> None:
        """Reports that the stream to a node has ended, which answered at its address before."""
        ...

    def receive(self, group: int, message: bytes, sender: Hello) -> None:
        """Delivers a message for this node, from a node that was met."""
        ...

    def unreachable(self, raft_id: int) -> None:
        """Reports that messages for a node were lost; called at most a few times a second for each."""
        ...

    def snapshot_sent(self, group: int, to: int, ok: bool) -> None:  # noqa: FBT001
        """Reports whether a node has installed the snapshot that was sent to it."""
        ...

    async def install(self, group: int, message: bytes, folder: Path) -> None:
        """Installs a received snapshot: all files listed in the folder's manifest.json are there, complete and durable.

        The folder is removed afterwards; its files may be moved away.

        Raises:
            Exception: The snapshot is not wanted; the text is sent to the sender.
        """
        ...
