"""Settings of a member of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from codeq_server.config.addresses import (
    MEMBER,
    PEER_SERVERS,
    PEER_URLS,
    PEERS,
    PEERS_MAX,
    Address,
    Domain,
    Listener,
)
from codeq_server.config.declaration import setting
from codeq_server.config.forms import Boolean, Choice, FilePath, Text, Whole
from codeq_server.config.numbered_names import NumberedNames

SECRET: Final = Text(16, 1024)
"""Form of a secret that processes share."""

FOUNDERS_MIN: Final = 3
"""Minimum of expected nodes: fewer tolerate no failure, and a founder alone could not tell that its disk was lost."""

_MILLISECONDS: Final = Whole(0, 60_000, "milliseconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftSettings:
    """How this node replicates its data.

    In complete settings `cluster_secret` is 64 hexadecimal digits, `heartbeat_ms` is at most a fifth of `election_ms`,
    and a member without an entry in `peer_http_addrs` or `peer_grpc_addrs` has no known address. With `peers_dns`,
    `peers` are the members at which this node looks for a cluster, and `bootstrap` says whether it is the founder.
    """

    enabled: bool | None = setting(
        Boolean(),
        None,
        "whether this node is a member of a cluster. If unset, the other keys are rejected; if false, they have no "
        "effect",
        unset="false",
    )
    self_id: str = setting(MEMBER, "", "name of this node", unset="the first part of the host name")
    bind_addr: Address = setting(Listener(), Address("", 7000), "listen address of the transport between members")
    bootstrap: bool = setting(
        Boolean(),
        False,
        "whether this node may found the cluster when it is empty and meets none: true on one node, or on all; of "
        "several, the one whose name comes first founds it. Has no effect on a member. Not with two `peers`, since "
        "such a cluster stops when either member does: an empty node then refuses to start, a member warns at startup",
    )
    peers: Mapping[str, str] = setting(
        PEERS,
        MappingProxyType({}),
        "transport address of each member, including this node; all addresses different. Without it "
        "`bindAddr` needs a host",
        unset="this node at its `bindAddr`",
    )
    peers_dns: str = setting(
        Domain(),
        "",
        "instead of `peers` and `bootstrap`, for members whose names differ in a number, as the pods of a StatefulSet: "
        "domain and port under which `NAME-0`, `NAME-1` and so on are found. An empty node then "
        "[joins by itself](operations.md#members-of-a-statefulset)",
        unset="`peers`",
    )
    expected_nodes: int | None = setting(
        Whole(FOUNDERS_MIN, PEERS_MAX),
        None,
        "with `peersDNS`: number of nodes that found the cluster. `NAME-0` founds it once all of them answer and are "
        "empty; not used afterwards",
        unset="this node founds no cluster",
    )
    peer_http_addrs: Mapping[str, str] = setting(
        PEER_URLS,
        MappingProxyType({}),
        "base URL of each member's REST, for redirects. Use the names of `peers`",
    )
    peer_grpc_addrs: Mapping[str, str] = setting(
        PEER_SERVERS,
        MappingProxyType({}),
        "gRPC address of each member for clients. Members that share a host must be listed: they have no default",
        unset="each member's host in `peers` with this node's producer port",
    )
    cluster_secret: str = setting(
        SECRET,
        "",
        "secret that members authenticate with, the same on every node; peers without it are rejected",
        unset="derived from the producers' token, if there is only one and no provider is `mtls`",
        secret=True,
    )
    tls_cert: Path | None = setting(FilePath(), None, "PEM file with this node's certificate for TLS between members")
    tls_key: Path | None = setting(FilePath(), None, "PEM file with the certificate's private key")
    tls_ca: Path | None = setting(
        FilePath(),
        None,
        "PEM file of the CA that signed all members' certificates. Set all three or none; without them members speak "
        "plain TCP, and the secret can be read on the wire",
    )
    election_ms: int = setting(
        Whole(200, 60_000, "milliseconds"),
        1000,
        "time without hearing from the leader before an election; randomized up to twice that",
    )
    heartbeat_ms: int = setting(
        Whole(10, 60_000, "milliseconds"),
        100,
        "interval of the leader's heartbeats. A value above a fifth of `electionMS` is replaced by a tenth of it, so "
        "that one lost heartbeat does not cause an election",
    )
    apply_timeout_seconds: int = setting(
        Whole(1, 600, "seconds"), 10, "how long a call waits for a majority before it fails with an unknown outcome"
    )
    mux_enabled: bool = setting(
        Boolean(), True, "accepted without effect: all groups always share one port", ignored=True
    )
    leader_lease_ms: int = setting(
        _MILLISECONDS,
        0,
        "accepted without effect: a leader asks a majority before it answers a read, and trusts no clock",
        ignored=True,
    )
    commit_ms: int = setting(
        _MILLISECONDS, 0, "accepted without effect: followers learn of commits at once", ignored=True
    )
    topic_catalog_protocol: str = setting(Choice(["", "v1"]), "", "accepted without effect", ignored=True)

    @property
    def numbered(self) -> NumberedNames | None:
        """The names of members of which this node's is one; None: the members are listed in `peers`."""
        return NumberedNames.of(self.self_id, self.peers_dns) if self.peers_dns else None
