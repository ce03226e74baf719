"""Builds the Raft settings from the keys of `raft`, and rejects combinations that make no sense."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from codeq_server.config import keys
from codeq_server.config.settings import Address, ConfigError, RaftSettings, RaftTls
from codeq_server.config.sources import FOREIGN, RAFT, Raw

PEERS_MAX: Final = 9
"""Maximum number of configured members: five tolerate two failures, and every further one slows down all writes."""

PAIR: Final = 2
"""A cluster of two members, which tolerates no failure: worse than a single node."""

HEARTBEATS_PER_ELECTION_MIN: Final = 5
"""Minimum number of heartbeats per election timeout."""

HEARTBEATS_PER_ELECTION: Final = 10
"""Heartbeats per election timeout if the configured interval is too long."""

EXCLUDED: Final = ("cluster", "sharding")
"""Features of other versions that cannot be combined with Raft."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PEER: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")
_EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared, not bound
_SECRET_SALT: Final = b"codeq raft cluster secret\n"


def is_raft(name: str) -> bool:
    """Returns whether a field belongs to `raft`."""
    return name.startswith(RAFT)


def refuse_foreign(raw: Mapping[str, Raw], given: keys.RaftKeys, message: str) -> None:
    """Rejects features that this version lacks.

    Args:
        raw: All given values, by field.
        given: The keys of `raft`.
        message: Error message for such a feature.

    Raises:
        ConfigError: Such a feature is configured; if it also conflicts with an enabled Raft, the message says so.
    """
    for name, value in raw.items():
        if name.startswith(FOREIGN):
            part = name.removeprefix(FOREIGN)
            both = given.enabled and part in EXCLUDED
            raise ConfigError(value.key, f"{part} and raft are mutually exclusive" if both else message)


def refuse_pair(raft: RaftSettings) -> None:
    """Rejects founding a cluster of two. A member of a cluster that has shrunk to two is not affected.

    Raises:
        ConfigError: This node would found a cluster of two.
    """
    if raft.bootstrap and len(raft.peers) == PAIR:
        raise ConfigError(
            keys.variable(RAFT + "bootstrap"),
            "two members tolerate no failure: the cluster would stop with either; use 3 or 5",
        )


class RaftBuild:
    """Builds the Raft settings.

    Args:
        raw: All given values, by field.
        given: The keys of `raft`, converted to their types.
        clients: gRPC listener for clients of this node; None: none.
        producer_token: Token from which the cluster secret is derived if none is configured.
    """

    def __init__(
        self, raw: Mapping[str, Raw], given: keys.RaftKeys, clients: Address | None, producer_token: str
    ) -> None:
        self._raw = raw
        self._given = given
        self._clients = clients
        self._producer_token = producer_token

    def settings(self, bind: Address | None) -> RaftSettings | None:
        """Returns the settings, or None if Raft is not enabled.

        Args:
            bind: Address the Raft transport listens on.

        Raises:
            ConfigError: A value is malformed, or the values contradict each other.
        """
        given = self._given
        if not given.enabled:
            self._refuse_unswitched()
            return None
        if _NAME.fullmatch(given.self_id) is None:
            raise ConfigError(self._key("self_id"), "expected this node's name: letters, digits, . _ - (at most 64)")
        if bind is None or bind.port == 0:
            raise ConfigError(self._key("bind_addr"), "expected host:port or :port with a port that is not 0")
        peers = self._members(bind)
        return RaftSettings(
            self_id=given.self_id,
            bind=bind,
            bootstrap=given.bootstrap,
            peers=peers,
            peer_http=self._addresses("peer_http_addrs", given.peer_http_addrs, _base_url, peers),
            peer_grpc=self._client_addresses(peers),
            secret=self._secret(),
            tls=self._tls(),
            heartbeat_ms=self._heartbeat_ms(),
            election_ms=given.election_ms,
            apply_timeout_seconds=given.apply_timeout_seconds,
        )

    def _key(self, name: str) -> str:
        raw = self._raw.get(RAFT + name)
        return keys.variable(RAFT + name) if raw is None else raw.key

    def _refuse_unswitched(self) -> None:
        """Rejects Raft settings if `enabled` is not set: otherwise three nodes could run alone unnoticed."""
        if self._given.enabled is None:
            for name, value in self._raw.items():
                if is_raft(name):
                    raise ConfigError(value.key, f"has no effect without {keys.variable(RAFT + 'enabled')}=true")

    def _members(self, bind: Address) -> Mapping[str, str]:
        given = self._given
        key = self._key("peers")
        peers = self._addresses("peers", given.peers, _peer, None)
        if not peers:
            if bind.host in _EVERYWHERE:
                raise ConfigError(
                    key, f"is required if the transport listens on all interfaces: {given.self_id}=host:port"
                )
            peers = {given.self_id: str(bind)}
        if given.self_id not in peers:
            raise ConfigError(self._key("self_id"), f"{given.self_id} is not among the names of {key}")
        if len(peers) > PEERS_MAX:
            raise ConfigError(key, f"has {len(peers)} members, the limit is {PEERS_MAX}")
        return peers

    def _client_addresses(self, peers: Mapping[str, str]) -> Mapping[str, str]:
        """Returns the client address of each member: as configured, or its host with this node's own port."""
        configured = self._addresses("peer_grpc_addrs", self._given.peer_grpc_addrs, _peer, peers)
        if self._clients is None or self._clients.port == 0:
            return configured
        port = self._clients.port
        found = {name: f"{address.rpartition(':')[0]}:{port}" for name, address in peers.items()} | dict(configured)
        if len(set(found.values())) < len(found):
            # Members share a host, so each has a port of its own: guessing the same address for two is wrong.
            return configured
        return MappingProxyType(found)

    def _addresses(
        self,
        name: str,
        value: Mapping[str, object] | str,
        checked: Callable[[str], str | None],
        known: Mapping[str, str] | None,
    ) -> Mapping[str, str]:
        """Returns the addresses by name from a mapping or a text `name=address,name=address`.

        Args:
            name: Field.
            value: The given value.
            checked: Returns the normalized address; None: it is malformed.
            known: Allowed names; None: any.
        """
        key = self._key(name)
        found: dict[str, str] = {}
        for member, text in _pairs(key, value):
            address = checked(text.strip()) if isinstance(text, str) else None
            if _NAME.fullmatch(member) is None:
                raise ConfigError(key, f"{member[:80]!r} is not a valid member name")
            if address is None:
                wanted = "a base URL such as http://host:8080" if checked is _base_url else "host:port"
                raise ConfigError(key, f"{member}: expected {wanted}")
            if member in found:
                raise ConfigError(key, f"{member} is given twice")
            if address in found.values():
                raise ConfigError(key, f"{member}: {address} is given twice")
            if known is not None and member not in known:
                raise ConfigError(key, f"{member} is not among the names of {self._key('peers')}")
            found[member] = address
        return MappingProxyType(found)

    def _secret(self) -> str:
        text = self._given.cluster_secret or self._producer_token
        return hashlib.sha256(_SECRET_SALT + text.encode()).hexdigest()

    def _tls(self) -> RaftTls | None:
        files = {name: getattr(self._given, name) for name in ("tls_cert", "tls_key", "tls_ca")}
        if not any(files.values()):
            return None
        for name, path in files.items():
            if path is None:
                raise ConfigError(self._key(name), "certificate, key and CA belong together: set all three or none")
            if not Path(path).is_file():
                raise ConfigError(self._key(name), f"{path} is not a file")
        return RaftTls(*(Path(path) for path in files.values() if path is not None))

    def _heartbeat_ms(self) -> int:
        """Returns the configured interval, or a shorter one if it is too long for the election timeout."""
        election = self._given.election_ms
        if self._given.heartbeat_ms * HEARTBEATS_PER_ELECTION_MIN <= election:
            return self._given.heartbeat_ms
        return election // HEARTBEATS_PER_ELECTION


def _pairs(key: str, value: Mapping[str, object] | str) -> list[tuple[str, object]]:
    if not isinstance(value, str):
        return list(value.items())
    text = value.strip()
    if text.startswith("{"):
        try:
            pairs = json.loads(text, object_pairs_hook=list)
        except (ValueError, RecursionError) as error:
            raise ConfigError(key, f"is not JSON: {error}") from None
        return list(pairs)
    found: list[tuple[str, object]] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, address = part.partition("=")
        if not equals:
            raise ConfigError(key, "expected name=address,name=address or a JSON object")
        found.append((name.strip(), address))
    return found


def _peer(text: str) -> str | None:
    match = _PEER.fullmatch(text)
    if match is None or not 0 < int(match["port"]) < 65536:
        return None
    return f"{match['host']}:{int(match['port'])}"


def _base_url(text: str) -> str | None:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    plain = parts.scheme in {"http", "https"} and parts.hostname and port != 0 and not parts.query + parts.fragment
    return text.rstrip("/") if plain and "@" not in parts.netloc and not re.search(r"\s", text) else None
