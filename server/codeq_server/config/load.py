"""Completes the given settings: checks combinations, and fills in values that follow from others or from --dev."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from codeq_server.config import cluster, foreign, notes, raft, tls, tokens
from codeq_server.config.addresses import PORT_MAX, Address, is_loopback
from codeq_server.config.declaration import settings_of, shown, variable
from codeq_server.config.forms import NOT_SUPPORTED
from codeq_server.config.providers import AuthConfig
from codeq_server.config.raft_settings import FOUNDERS_MIN, RaftSettings
from codeq_server.config.settings import GatewaySettings, PersistenceSettings, ProcessSettings, Settings
from codeq_server.config.sources import GivenSettings, read

DEV_SERVER: Final = "127.0.0.1:9092"
"""Default server of a gateway with --dev."""

LOOPBACK: Final = "127.0.0.1"
_NOT_IN_MEMORY: Final = (
    "persistence_config.path",
    "persistence_config.fsync_on_commit",
    "local_artifacts_dir",
    "backup_dir",
)
"""Settings that are rejected when the persistence provider is `memory`."""

_SECRET_SALT: Final = b"codeq gateway secret\n"


def load(path: str | None, env: Mapping[str, str], flags: Mapping[str, object], dev: bool) -> Settings:  # noqa: FBT001
    """Returns the settings of a server.

    Args:
        path: Configuration file; None: the one named by CODEQ_CONFIG_PATH, if any.
        env: Environment.
        flags: Flags by setting, such as `worker_stream_addr`; None: not given.
        dev: Whether to fill in missing tokens and to serve loopback only.

    Raises:
        ConfigError: A setting is unknown, a value malformed, or a combination impossible.
    """
    given = read(path, env, flags)
    settings = Settings(**_values(given, Settings), dev=dev)
    wanted = settings.raft
    _refuse_foreign(given, wanted)
    _refuse_contradictions(given, settings)
    tls.check(given, settings)
    settings = _bound(given, tokens.completed(given, settings))
    _refuse_unasked(given, settings)
    _refuse_certificates_with_groups(given, settings)
    # Gateways vouch for the certificates of their clients, so a producer must not be able to derive their secret.
    secret = "" if settings.auth.takes_certificates else settings.auth.producer.sole_secret
    completed, ring = raft.completed(given, settings, secret), cluster.completed(given, settings.cluster, secret)
    if not secret and completed is not None:
        secret = completed.cluster_secret  # servers of a cluster need a common one
    settings = replace(
        settings,
        gateway_secret=_gateway_secret(settings.gateway_secret or secret),
        persistence_config=_persistence(settings),
        raft=completed,
        cluster=ring,
    )
    return replace(settings, notes=tuple(notes.of_server(given, wanted, settings, env)))


def load_gateway(path: str | None, env: Mapping[str, str], flags: Mapping[str, object], dev: bool) -> GatewaySettings:  # noqa: FBT001
    """Returns the settings of a standalone gateway; settings that only servers use are checked but ignored.

    Args:
        path: Configuration file; None: the one named by CODEQ_CONFIG_PATH, if any.
        env: Environment.
        flags: Flags by setting, such as `server_addrs`; None: not given.
        dev: Whether to serve loopback only, for the server of `codeq server --dev`.

    Raises:
        ConfigError: The same as for `load`.
    """
    given = read(path, env, flags)
    settings = GatewaySettings(**_values(given, GatewaySettings), dev=dev)
    servers = Settings(**_values(given, Settings), dev=dev)
    _refuse_foreign(given, servers.raft)
    tls.check(given, settings)
    addresses = settings.server_addrs or ((DEV_SERVER,) if dev else ())
    if not addresses:
        raise given.error("server_addrs", f"no server is configured: set {variable('server_addrs')}=HOST:PORT")
    secret = settings.gateway_secret or tokens.producer_secret(given, servers)
    if not secret:
        raise given.error(
            "gateway_secret",
            f"is required: set the servers' secret, or their {variable('producer_auth_config')} if it is one token and "
            "no provider is mtls: then it is derived from that",
        )
    settings = replace(
        settings,
        http_host=_loopback(given, "http_host", settings.http_host) if dev else settings.http_host,
        server_addrs=addresses,
        gateway_secret=_gateway_secret(secret),
    )
    return replace(settings, notes=tuple(notes.of_gateway(env)))


def check(path: str | None, env: Mapping[str, str], flags: Mapping[str, object], dev: bool) -> dict[str, object]:  # noqa: FBT001
    """Returns the effective settings with secrets masked, by the file's keys. Starts nothing.

    Raises:
        ConfigError: The same as for `load`.
    """
    return describe(load(path, env, flags, dev))


def describe(settings: ProcessSettings) -> dict[str, object]:
    """Returns the settings by the file's keys, with secrets masked."""
    found = shown(settings)
    if isinstance(settings, Settings):
        folder, path = settings.artifacts_path, settings.persistence.path
        if path is not None and settings.persistence.num_shards > 1:  # beside the stores, which are below the path
            folder = settings.local_artifacts_dir or path / "artifacts"
        found |= {"localArtifactsDir": folder and str(folder)}
        found |= {mode: found[mode] or {"enabled": False} for mode in ("raft", "cluster")}
    return found


def _values(given: GivenSettings, process: type[ProcessSettings]) -> dict[str, Any]:
    """Returns the given values of one kind of process's settings, by field; other settings are checked, too."""
    declared = settings_of(process)
    return {name: value for name, value in given.checked().items() if name in declared}


def _refuse_foreign(given: GivenSettings, wanted: RaftSettings | None) -> None:
    """Rejects features that this version lacks."""
    for feature, value in given.foreign.items():
        if wanted is not None and wanted.enabled and feature in foreign.EXCLUDED_BY_RAFT:
            raise value.error(f"{feature} and raft are mutually exclusive")
        raise value.error(f"is {NOT_SUPPORTED}")


def _refuse_contradictions(given: GivenSettings, settings: Settings) -> None:
    for name in ("worker_stream_addr", "producer_stream_addr"):
        address = getattr(settings, name)
        if address is not None and address.port == settings.port != 0:
            raise given.error(name, f"port {settings.port} is already the HTTP port")
    if settings.backoff_max_seconds < settings.backoff_base_seconds:
        least = f"{settings.backoff_base_seconds}, the value of {given.key('backoff_base_seconds')}"
        raise given.error("backoff_max_seconds", f"must be at least {least}")
    if settings.persistence_provider == "memory":
        for name in _NOT_IN_MEMORY:
            if given.has(name):
                raise given.error(name, "has no effect with the provider memory")
        if settings.persistence.num_shards > 1:
            raise given.error("persistence_config.num_shards", "must be 1 with the provider memory")
    if settings.codeq_pprof and (last := settings.pprof_addrs[-1].port) > PORT_MAX:
        shards = f"the ports of the {settings.persistence.num_shards} shards follow each other, and {last} is none"
        raise given.error("codeq_pprof_addr", shards)
    _refuse_contradictions_of_modes(given, settings)


def _refuse_contradictions_of_modes(given: GivenSettings, settings: Settings) -> None:
    if settings.raft is not None and settings.raft.enabled:
        _refuse_contradictions_with_raft(given, settings)
    if settings.cluster is not None and settings.cluster.enabled:
        _refuse_contradictions_with_cluster(given, settings)


def _refuse_contradictions_with_raft(given: GivenSettings, settings: Settings) -> None:
    if settings.persistence_provider == "memory":
        raise given.error("raft.enabled", "needs a store on disk: persistenceProvider rocksdb or pebble")
    if settings.persistence.num_shards > 1:
        _refuse_contradictions_with_groups(given, settings)
    if settings.grpc_tls is not None and settings.server_tls is None:
        raise given.error(
            "server_tls_ca_file", "is required with Raft and TLS: members forward calls to the leader over TLS"
        )
    if settings.local_artifacts_dir is not None:
        raise given.error(
            "local_artifacts_dir",
            "has no effect with Raft: a cluster keeps artifact contents in its stores",
        )


def _refuse_contradictions_with_groups(given: GivenSettings, settings: Settings) -> None:
    """Rejects what a cluster with a group per shard lacks."""
    assert settings.raft is not None
    shards = f"with {given.key('persistence_config.num_shards')} above 1"
    if settings.raft.peers_dns:
        raise given.error("raft.peers_dns", f"is not available {shards}; list all members in raft.peers")
    if len(settings.raft.peers) < FOUNDERS_MIN:
        raise given.error("raft.peers", f"must name at least {FOUNDERS_MIN} members {shards}")


def _refuse_contradictions_with_cluster(given: GivenSettings, settings: Settings) -> None:
    if settings.raft is not None and settings.raft.enabled:
        raise given.error("cluster.enabled", f"and {given.key('raft.enabled')} are mutually exclusive")
    if settings.persistence_provider == "memory":
        raise given.error("cluster.enabled", "needs a store on disk: persistenceProvider rocksdb or pebble")
    if settings.persistence.num_shards > 1:
        raise given.error("persistence_config.num_shards", f"must be 1 with {given.key('cluster.enabled')}")
    if settings.grpc_tls is not None and settings.server_tls is None:
        raise given.error("server_tls_ca_file", "is required with a static cluster and TLS: nodes call each other")


def _refuse_unasked(given: GivenSettings, settings: Settings) -> None:
    """Rejects certificates as identities if no client is asked for one."""
    over_http, over_grpc = settings.http_tls, settings.grpc_tls
    if over_http is not None and over_http.asks_clients(over_grpc=False):
        return
    if over_grpc is not None and over_grpc.asks_clients(over_grpc=True):
        return
    for role in tokens.ROLES:
        auth: AuthConfig = getattr(settings, f"{role}_auth_config")
        if auth.takes_certificates:
            files = f"{given.key('tls_cert_file')}, {given.key('tls_key_file')} and {given.key('tls_client_ca_file')}"
            raise given.error(
                f"{role}_auth_provider",
                f"mtls needs a listener that asks clients for certificates: set {files}, and for gRPC also "
                f"{given.key('tls_client_auth')} to require",
            )


def _refuse_certificates_with_groups(given: GivenSettings, settings: Settings) -> None:
    """Rejects certificates as identities if nodes pass streams on to each other, without the certificate."""
    if settings.raft is None or not settings.raft.enabled or settings.persistence.num_shards == 1:
        return
    for role in tokens.ROLES:
        auth: AuthConfig = getattr(settings, f"{role}_auth_config")
        if auth.takes_certificates:
            shards = f"{given.key('persistence_config.num_shards')} above 1 and {given.key('raft.enabled')}"
            raise given.error(f"{role}_auth_provider", f"mtls is not available with {shards}")


def _persistence(settings: Settings) -> PersistenceSettings:
    if settings.persistence_provider == "memory":
        return replace(settings.persistence, path=None, fsync_on_commit=False)
    return settings.persistence


def _gateway_secret(text: str) -> str:
    """Returns the gateways' secret, derived from the configured one, or from the only producer token; empty: none."""
    return text and hashlib.sha256(_SECRET_SALT + text.encode()).hexdigest()


def _bound(given: GivenSettings, settings: Settings) -> Settings:
    """Returns the settings with the addresses to listen on; with --dev they are loopback addresses."""
    if not settings.dev:
        return settings
    bound: dict[str, Any] = {"http_host": _loopback(given, "http_host", settings.http_host)}
    for name in ("worker_stream_addr", "producer_stream_addr"):
        address = getattr(settings, name)
        bound[name] = address and Address(_loopback(given, name, address.host), address.port)
    if settings.cluster is not None and settings.cluster.enabled:
        address = settings.cluster.grpc_addr
        host = _loopback(given, "cluster.grpc_addr", address.host)
        bound["cluster"] = replace(settings.cluster, grpc_addr=Address(host, address.port))
    if settings.raft is not None and settings.raft.enabled:
        address = settings.raft.bind_addr
        host = _loopback(given, "raft.bind_addr", address.host)
        bound["raft"] = replace(settings.raft, bind_addr=Address(host, address.port))
    return replace(settings, **bound)


def _loopback(given: GivenSettings, name: str, host: str) -> str:
    """Returns a host that --dev may listen on."""
    if host and not is_loopback(host):
        raise given.error(name, "with --dev only loopback addresses are allowed")
    return host or LOOPBACK
