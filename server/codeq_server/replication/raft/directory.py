"""The nodes that a node has met, and where clients reach them."""

from __future__ import annotations

from collections.abc import Mapping

from .network import Hello


class Directory:
    """Nodes by name.

    Args:
        http: Configured base URLs for clients over HTTP, by name.
        grpc: Configured addresses for clients over gRPC, by name.

    Attributes:
        met: Latest identity reported by each node that this node has met.
        asking: Latest identity of each empty node that asks to become a member. Its name is not verified.
        callers: Members of a cluster that have called this node while it was empty. Their names are not verified.
    """

    def __init__(self, http: Mapping[str, str], grpc: Mapping[str, str]) -> None:
        self.met: dict[str, Hello] = {}
        self.asking: dict[str, Hello] = {}
        self.callers: dict[str, Hello] = {}
        self._http, self._grpc = http, grpc

    def http_of(self, name: str) -> str:
        """Returns the URL under which clients reach a node over HTTP; empty: unknown."""
        peer = self.met.get(name)
        return self._http.get(name, "") or (peer.http if peer is not None else "")

    def grpc_of(self, name: str) -> str:
        """Returns the address under which clients reach a node over gRPC; empty: unknown."""
        peer = self.met.get(name)
        return self._grpc.get(name, "") or (peer.grpc if peer is not None else "")

    def keep(self, cluster_id: bytes) -> None:
        """Forgets the nodes of all clusters except the given one."""
        self.met = {name: peer for name, peer in self.met.items() if peer.cluster_id in (b"", cluster_id)}
