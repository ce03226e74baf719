"""Settings of a node of a static cluster: several nodes, each with one shard, without replication."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from codeq_server.config.addresses import MEMBER, NODES, Address, Listener
from codeq_server.config.declaration import setting
from codeq_server.config.forms import Boolean
from codeq_server.config.raft_settings import SECRET


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """How this node shares the work with others. In complete settings, `secret` is 64 hexadecimal digits."""

    enabled: bool | None = setting(
        Boolean(),
        None,
        "whether this node belongs to a [static cluster](scaling.md#a-static-cluster). If unset, the other keys are "
        "rejected; if false, they have no effect",
        unset="false",
    )
    self_id: str = setting(MEMBER, "", "name of this node among `nodes`")
    grpc_addr: Address = setting(Listener(), Address("", 9090), "listen address for calls of the other nodes")
    nodes: Mapping[str, str] = setting(
        NODES,
        MappingProxyType({}),
        "address of each node for the others, including this node; the same on every node, and never changed",
    )
    secret: str = setting(
        SECRET,
        "",
        "secret that nodes authenticate with, the same on every node. Whoever knows it can act as a node",
        unset="derived from the producers' token, if there is only one and no provider is `mtls`",
        secret=True,
    )

    @property
    def names(self) -> list[str]:
        """Names of the nodes in the order of their shards."""
        return sorted(self.nodes)

    @property
    def shard(self) -> int:
        """Index of the shard of this node."""
        return self.names.index(self.self_id)
