"""Completes the Raft settings, and rejects combinations that make no sense."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from codeq_server.config.addresses import NAME, PEERS_MAX
from codeq_server.config.declaration import variable
from codeq_server.config.given import ConfigError
from codeq_server.config.numbered_names import NumberedNames
from codeq_server.config.raft_settings import FOUNDERS_MIN, RaftSettings
from codeq_server.config.settings import Settings
from codeq_server.config.sources import GivenSettings

PAIR: Final = 2
"""A cluster of two members, which tolerates no failure: worse than a single node."""

HEARTBEATS_PER_ELECTION_MIN: Final = 5
"""Minimum number of heartbeats per election timeout."""

HEARTBEATS_PER_ELECTION: Final = 10
"""Heartbeats per election timeout if the configured interval is too long."""

_EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared, not bound
_SECRET_SALT: Final = b"codeq raft cluster secret\n"


def refuse_pair(raft: RaftSettings) -> None:
    """Rejects founding a cluster of two. A member of a cluster that has shrunk to two is not affected.

    Raises:
        ConfigError: This node would found a cluster of two.
    """
    if raft.bootstrap and len(raft.peers) == PAIR:
        raise ConfigError(
            variable("raft.bootstrap"),
            "two members tolerate no failure: the cluster would stop if either fails; use 3 or 5",
        )


def completed(given: GivenSettings, settings: Settings, producer_secret: str) -> RaftSettings | None:
    """Returns the Raft settings; None: Raft is not enabled.

    Args:
        given: All given values.
        settings: The settings, with their Raft settings as given.
        producer_secret: The only producer token, from which the cluster secret is derived if none is configured;
            empty: it is not known, or there may be several.

    Raises:
        ConfigError: Settings contradict each other.
    """
    raft = settings.raft
    if raft is None:
        return None
    if not raft.enabled:
        if raft.enabled is None:
            _refuse_unswitched(given)
        return None
    raft = replace(raft, self_id=raft.self_id or _host_name(given))
    if raft.bind_addr.port == 0:
        raise given.error("raft.bind_addr", "must have a port other than 0")
    raft = _found_by_dns(given, settings, raft) if raft.peers_dns else replace(raft, peers=_members(given, raft))
    peers = raft.peers
    for name in ("peer_http_addrs", "peer_grpc_addrs"):
        for member in getattr(raft, name):
            if member not in peers:
                raise given.error(f"raft.{name}", f"{member} is not among the names of {given.key('raft.peers')}")
    _check_tls(given, raft)
    text = raft.cluster_secret or producer_secret
    if not text:
        raise given.error(
            "raft.cluster_secret",
            f"is required: it is derived only from a {given.key('producer_auth_config')} that is one token, and not if "
            "a provider is mtls",
        )
    return replace(
        raft,
        peer_grpc_addrs=_client_addresses(settings, raft),
        cluster_secret=hashlib.sha256(_SECRET_SALT + text.encode()).hexdigest(),
        heartbeat_ms=_heartbeat_ms(raft),
    )


def _refuse_unswitched(given: GivenSettings) -> None:
    """Rejects Raft settings if `enabled` is not set: otherwise three nodes could run alone unnoticed."""
    for name, value in given.values.items():
        if name.startswith("raft."):
            raise value.error(f"has no effect without {variable('raft.enabled')}=true")


def _host_name(given: GivenSettings) -> str:
    """Returns the first part of the host name, which is the name of this node unless one is given."""
    name = socket.gethostname().partition(".")[0]
    if re.fullmatch(NAME, name) is None:
        raise given.error("raft.self_id", f"is required: the host name {name!r} cannot be the name of a member")
    return name


def _found_by_dns(given: GivenSettings, settings: Settings, raft: RaftSettings) -> RaftSettings:
    """Returns the settings of a node that finds the others by their numbered names."""
    names = NumberedNames.of(raft.self_id, raft.peers_dns)
    if names is None:
        raise given.error(
            "raft.self_id",
            f"{raft.self_id} must end in a number from 0 to {PEERS_MAX - 1}, as in codeq-0, with "
            f"{variable('raft.peers_dns')}",
        )
    peers = names.first(max(raft.expected_nodes or FOUNDERS_MIN, names.number + 1))
    scheme = "http" if settings.http_tls is None else "https"
    host = peers[raft.self_id].rpartition(":")[0]
    urls = {raft.self_id: f"{scheme}://{host}:{settings.port}"} if settings.port else {}
    found = {"peers": peers, "bootstrap": names.number == 0 and raft.expected_nodes is not None}
    for name, value in found.items():
        if given.has(f"raft.{name}") and getattr(raft, name) != value:
            raise given.error(
                f"raft.{name}", f"is not needed with {variable('raft.peers_dns')}, from which another value follows"
            )
    return replace(
        raft,
        peers=MappingProxyType(peers),
        bootstrap=bool(found["bootstrap"]),
        peer_http_addrs=MappingProxyType(urls | dict(raft.peer_http_addrs)),
    )


def _members(given: GivenSettings, raft: RaftSettings) -> Mapping[str, str]:
    key = given.key("raft.peers")
    if raft.expected_nodes is not None:
        raise given.error("raft.expected_nodes", f"has no effect without {variable('raft.peers_dns')}")
    if not raft.peers:
        if raft.bind_addr.host in _EVERYWHERE:
            raise given.error(
                "raft.peers", f"is required if the transport listens on all interfaces: {raft.self_id}=host:port"
            )
        return MappingProxyType({raft.self_id: str(raft.bind_addr)})
    if raft.self_id not in raft.peers:
        raise given.error("raft.self_id", f"{raft.self_id} is not among the names of {key}")
    return raft.peers


def _client_addresses(settings: Settings, raft: RaftSettings) -> Mapping[str, str]:
    """Returns the client address of each member: as configured, or its host with this node's own port."""
    clients = settings.producer_stream_addr or settings.worker_stream_addr
    if clients is None or clients.port == 0:
        return raft.peer_grpc_addrs
    guessed = {name: f"{address.rpartition(':')[0]}:{clients.port}" for name, address in raft.peers.items()}
    found = guessed | dict(raft.peer_grpc_addrs)
    if len(set(found.values())) < len(found):
        # Members share a host, so each has a port of its own: guessing the same address for two is wrong.
        return raft.peer_grpc_addrs
    return MappingProxyType(found)


def _check_tls(given: GivenSettings, raft: RaftSettings) -> None:
    files = {name: getattr(raft, name) for name in ("tls_cert", "tls_key", "tls_ca")}
    if not any(files.values()):
        return
    for name, path in files.items():
        if path is None:
            raise given.error(f"raft.{name}", "certificate, key and CA belong together: set all three or none")
        given.check_file(f"raft.{name}", path)


def _heartbeat_ms(raft: RaftSettings) -> int:
    """Returns the configured interval, or a shorter one if it is too long for the election timeout."""
    if raft.heartbeat_ms * HEARTBEATS_PER_ELECTION_MIN <= raft.election_ms:
        return raft.heartbeat_ms
    return raft.election_ms // HEARTBEATS_PER_ELECTION
