"""The two ports between the groups of a node and the network: what they ask of it, and what it tells them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Hello:
    """Who a node is and where clients reach it.

    Attributes:
        name: What people call it; unique in a cluster.
        raft_id: Id of its disk, not 0; a node with an emptied disk has another one.
        cluster_id: Id of the cluster it belongs to; empty: none yet.
        http: Base URL for clients over HTTP; empty: not known.
        grpc: Address for clients over gRPC, as host:port; empty: not known.
        founds: Whether it may found a cluster.
        unsettled: Whether nothing was ever decided in its cluster that could be lost: it may join another one.
        last_index: Last entry of its log when it said so; None: it does not tell.
    """

    name: str
    raft_id: int
    cluster_id: bytes = b""
    http: str = ""
    grpc: str = ""
    founds: bool = False
    unsettled: bool = False
    last_index: int | None = field(default=None, compare=False)


class Unwelcome(Exception):  # noqa: N818 - who it is
    """A node is not talked with; the text tells its operator why, and what to do."""


class Unanswered(Exception):  # noqa: N818 - what it was
    """Nobody answers at an address, or not the one who should be there; the text says why."""


class Network(Protocol):
    """Carries messages to other nodes. Methods are called on the event loop and never block."""

    def send(self, to: int, group: int, message: bytes) -> None:
        """Sends a message to the node with a Raft id. It may be lost; those that arrive keep their order."""
        ...

    def send_snapshot(self, to: int, group: int, message: bytes, folder: Path) -> None:
        """Sends a snapshot: its message, and the files that manifest.json in the folder names.

        The folder stays as it is until `Handler.snapshot_sent` is called. Another snapshot of the group for the same
        node takes the place of one that is not there yet; then only the later one is reported.
        """
        ...


class Handler(Protocol):
    """What the network calls, on the event loop and never from within `send` or `send_snapshot`."""

    def hello(self) -> Hello:
        """Returns who this node is now."""
        ...

    def met(self, peer: Hello, address: str) -> None:
        """A node said who it is.

        Args:
            peer: The node; its messages come after this.
            address: Where it answered; empty when it called: then its name is no more than what it says.

        Raises:
            Unwelcome: It is not to be talked with.
        """
        ...

    def receive(self, group: int, message: bytes, sender: Hello) -> None:
        """A message for this node came, from a node that was met."""
        ...

    def unreachable(self, raft_id: int) -> None:
        """Messages for a node were lost; called a few times a second at most for each."""
        ...

    def snapshot_sent(self, group: int, to: int, ok: bool) -> None:  # noqa: FBT001
        """A snapshot was installed by the node it was sent to, or was not."""
        ...

    async def install(self, group: int, message: bytes, folder: Path) -> None:
        """Installs a snapshot that came: all files that manifest.json in the folder names are there, whole and durable.

        The folder is removed afterwards; its files may be moved away.

        Raises:
            Exception: It is not wanted; the sender is told the text.
        """
        ...
