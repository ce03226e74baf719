"""Completes the Raft settings, and rejects combinations that make no sense."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from codeq_server.config.declaration import variable
from codeq_server.config.given import ConfigError
from codeq_server.config.settings import RaftSettings, Settings
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
    if not raft.self_id:
        raise given.error("raft.self_id", "is required: the name of this node")
    if raft.bind_addr.port == 0:
        raise given.error("raft.bind_addr", "must have a port other than 0")
    peers = _members(given, raft)
    raft = replace(raft, peers=peers)
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


def _members(given: GivenSettings, raft: RaftSettings) -> Mapping[str, str]:
    key = given.key("raft.peers")
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
        if not path.is_file():
            raise given.error(f"raft.{name}", f"{path} is not a file")


def _heartbeat_ms(raft: RaftSettings) -> int:
    """Returns the configured interval, or a shorter one if it is too long for the election timeout."""
    if raft.heartbeat_ms * HEARTBEATS_PER_ELECTION_MIN <= raft.election_ms:
        return raft.heartbeat_ms
    return raft.election_ms // HEARTBEATS_PER_ELECTION
