"""The topology of a cluster: its members, their client addresses, and which of them leads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from codeq.v1 import cluster_service_pb2 as pb

TOPOLOGY: Final = "/codeq.v1.ClusterService/GetTopology"
"""Full name of the method that returns the topology."""

QUESTION: Final = pb.GetTopologyRequest().SerializeToString()
"""The request of that method, encoded."""

TOPOLOGY_SECONDS_MAX: Final = 2.0
"""Timeout of a client's background refresh of the topology."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a cluster: its name, its client addresses (empty: unknown), and whether it leads."""

    id: str
    grpc_address: str
    http_address: str
    is_leader: bool


@dataclass(frozen=True, slots=True)
class Topology:
    """The members of a cluster as known to the server that answered.

    Attributes:
        raft_enabled: Whether the server is a member of a cluster.
        leader_id: Name of the leader; empty: no known leader.
        members: Members ordered by name; empty without a cluster.
    """

    raft_enabled: bool
    leader_id: str
    members: tuple[Member, ...]

    @classmethod
    def from_message(cls, message: pb.Topology) -> Self:
        """Returns the topology in a message."""
        members = (Member(each.id, each.grpc_addr, each.http_addr, each.is_leader) for each in message.members)
        return cls(message.raft_enabled, message.leader_id, tuple(members))


def addresses(message: pb.GetTopologyResponse) -> Iterator[str]:
    """Yields the gRPC addresses of all members, the leader's first."""
    topology = message.topology
    if topology.leader_grpc_addr:
        yield topology.leader_grpc_addr
    for member in topology.members:
        if member.grpc_addr:
            yield member.grpc_addr
