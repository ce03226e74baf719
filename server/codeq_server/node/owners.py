"""Who owns the shards of an installation: the processes of one server, the nodes of a static cluster, or leaders."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from codeq_server.config import Address, ClusterSettings, RaftSettings
from codeq_server.node.place import LOOPBACK, Place
from codeq_server.services.internal_callers import Owner
from codeq_server.services.shard_links import Moved
from codeq_server.storage.moved import moved_in

_SECRET_SALT: Final = b"codeq secret of shards\n"


@dataclass(frozen=True, slots=True)
class Groups:
    """The nodes, of which the leader of a shard's group owns the shard.

    Attributes:
        mine: Name of this node.
        nodes: Raft address of each node by name, including this one.
        listen: Where this process takes the calls of other nodes, which its parent passes on.
    """

    mine: str
    nodes: Mapping[str, str]
    listen: Address


@dataclass(frozen=True, slots=True)
class Owners:
    """The owners of the shards, as one of them sees them.

    Attributes:
        mine: This process as an owner.
        names: Each owner by shard, in words for messages.
        addresses: Address of each owner for calls of the others, as host:port.
        listen: Where this process takes these calls.
        are_one_server: Whether they are the processes of one server: they share the ports for clients and the page of
            metrics, and one that ends is started again at once.
        groups: Other nodes, which have a process for each shard, too; None: there are none.
    """

    mine: Owner
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    listen: Address
    are_one_server: bool
    groups: Groups | None = None

    @property
    def processes(self) -> int:
        """Number of processes that share the ports for clients."""
        return len(self.addresses) if self.are_one_server else 1

    def moved(self, store: Path | None) -> Moved | None:
        """Returns the shards of tasks that do not live in that of their ids, given this process's store; None: all do.

        Raises:
            StoreError: They cannot be read.
        """
        if store is None or not self.are_one_server:  # the number of nodes never changes
            return None
        found = moved_in(store.parent)
        return None if found is None else found.shard_of


def owners_of(cluster: ClusterSettings | None, place: Place | None, raft: RaftSettings | None = None) -> Owners | None:
    """Returns the owners of the shards; None: this process serves all tasks."""
    if place is not None:
        names = tuple(f"the process of shard {shard}" for shard in range(place.count))
        addresses = tuple(f"{LOOPBACK}:{port}" for port in place.ports)
        listen = Address(LOOPBACK, place.port)
        owner, groups = Owner(place.shard, place.count, place.secret), None
        if raft is not None:
            secret = hashlib.sha256(_SECRET_SALT + raft.cluster_secret.encode()).hexdigest()
            owner = Owner(place.shard, place.count, secret, is_member=True)
            groups = Groups(raft.self_id, raft.peers, Address(LOOPBACK, place.peers[place.shard]))
        return Owners(owner, names, addresses, listen, are_one_server=True, groups=groups)
    if cluster is not None:
        names = tuple(f"the node {name}" for name in cluster.names)
        addresses = tuple(cluster.nodes[name] for name in cluster.names)
        owner = Owner(cluster.shard, len(names), cluster.secret)
        return Owners(owner, names, addresses, cluster.grpc_addr, are_one_server=False)
    return None
