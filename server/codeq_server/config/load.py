"""Merges the sources, converts every value strictly, checks combinations and fills in the defaults of --dev."""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from codeq_server.auth.claims import TENANT, WILDCARD, WORKER_SCOPES, InvalidTenantError, tenant_of
from codeq_server.auth.static import DEFAULT_SUBJECT, StaticToken
from codeq_server.config import keys, notes, origins, raft, sources
from codeq_server.config.settings import (
    Address,
    AuthSettings,
    BackoffSettings,
    ConfigError,
    GatewaySettings,
    LogSettings,
    Note,
    PersistenceSettings,
    RaftSettings,
    Settings,
)
from codeq_server.config.sources import Raw

DEV_TOKEN: Final = "dev-token"  # noqa: S105 - well known, and served on loopback only
DEV_SERVER: Final = "127.0.0.1:9092"
"""Default server of a gateway with --dev."""

DEV_TENANT: Final = "dev-tenant"
LOOPBACK: Final = "127.0.0.1"
LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Allowed host names in the HTTP Host header with --dev, so that pages of other sites cannot reach the server."""

MASK: Final = "***"
"""Shown in place of a secret."""

_ADDRESS: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*):(?P<port>[0-9]{1,5})")
_HOST: Final = re.compile(r"\[[0-9A-Fa-f:.]+\]|[0-9A-Fa-f:.]+|[A-Za-z0-9._-]*")
_SECRET_SALT: Final = b"codeq gateway secret\n"
_T = TypeVar("_T")


def load(path: str | None, env: Mapping[str, str], flags: Mapping[str, object], dev: bool) -> Settings:  # noqa: FBT001
    """Returns the settings of a server.

    Args:
        path: Configuration file; None: the one named by CODEQ_CONFIG_PATH, if any.
        env: Environment.
        flags: Flags by field name, such as `worker_stream_addr`; None: not given.
        dev: Whether to fill in missing tokens and to serve loopback only.

    Raises:
        ConfigError: A key is unknown, a value malformed, or a combination impossible.
    """
    build = _Build(_raw(path, env, flags), dev=dev)
    settings = build.settings()
    return dataclasses.replace(settings, notes=tuple(build.notes(settings, env)))


def load_gateway(path: str | None, env: Mapping[str, str], flags: Mapping[str, object], dev: bool) -> GatewaySettings:  # noqa: FBT001
    """Returns the settings of a standalone gateway; settings that only servers use are checked but ignored.

    Args:
        path: Configuration file; None: the one named by CODEQ_CONFIG_PATH, if any.
        env: Environment.
        flags: Flags by field name, such as `server_addrs`; None: not given.
        dev: Whether to serve loopback only, for the server of `codeq server --dev`.

    Raises:
        ConfigError: As `load`.
    """
    settings = _Build(_raw(path, env, flags), dev=dev).gateway()
    return dataclasses.replace(settings, notes=tuple(notes.of_gateway(env)))


def _raw(path: str | None, env: Mapping[str, str], flags: Mapping[str, object]) -> dict[str, Raw]:
    raw: dict[str, Raw] = {}
    named_by, file = ("--config", path) if path else (sources.PATH_VARIABLE, env.get(sources.PATH_VARIABLE, ""))
    if file:
        raw |= sources.read_file(file, named_by)
    raw |= sources.read_environment(env)
    return raw | sources.read_flags(flags)


def check(path: str | None, env: Mapping[str, str], flags: Mapping[str, object], dev: bool) -> dict[str, object]:  # noqa: FBT001
    """Returns the effective settings with secrets masked, by the file's keys. Starts nothing.

    Raises:
        ConfigError: As `load`.
    """
    return describe(load(path, env, flags, dev))


def describe(settings: Settings) -> dict[str, object]:
    """Returns the settings by the file's keys, with secrets masked."""
    persistence = settings.persistence
    stored: dict[str, object] = {"numShards": persistence.num_shards}
    if persistence.path is not None:
        stored |= {"path": str(persistence.path), "fsyncOnCommit": persistence.fsync_on_commit}
    return {
        "port": settings.http.port,
        "httpHost": settings.http.host,
        "corsOrigins": list(settings.cors_origins),
        "workerStreamAddr": str(settings.worker_stream or ""),
        "producerStreamAddr": str(settings.producer_stream or ""),
        "httpConnectionsMax": settings.http_connections_max,
        "grpcConnectionsMax": settings.grpc_connections_max,
        "persistenceProvider": persistence.provider,
        "persistenceConfig": stored,
        "producerAuthProvider": "static",
        "producerAuthConfig": _masked(settings.auth.producer),
        "workerAuthProvider": "static",
        "workerAuthConfig": _masked(settings.auth.worker),
        "gatewaySecret": MASK,
        "allowProducerAsWorker": settings.auth.allow_producer_as_worker,
        "defaultLeaseSeconds": settings.default_lease_seconds,
        "maxAttemptsDefault": settings.max_attempts_default,
        "backoffPolicy": settings.backoff.policy,
        "backoffBaseSeconds": settings.backoff.base_seconds,
        "backoffMaxSeconds": settings.backoff.max_seconds,
        "retentionSeconds": settings.retention_seconds,
        "dlqRetentionSeconds": settings.dlq_retention_seconds,
        "queuesPerTenantMax": settings.queues_per_tenant_max,
        "queueIdleSeconds": settings.queue_idle_seconds,
        "localArtifactsDir": None if settings.artifacts_path is None else str(settings.artifacts_path),
        "backupDir": None if settings.backup_dir is None else str(settings.backup_dir),
        "artifactBytesMax": settings.artifact_bytes_max,
        "logLevel": settings.log.level,
        "logFormat": settings.log.format,
        "diskReserveBytes": settings.disk_reserve_bytes,
        "shutdownGraceSeconds": settings.shutdown_grace_seconds,
        "readyFile": None if settings.ready_file is None else str(settings.ready_file),
        "raft": {"enabled": False} if settings.raft is None else _described(settings.raft),
    }


def _described(replication: RaftSettings) -> dict[str, object]:
    shown: dict[str, object] = {
        "enabled": True,
        "selfId": replication.self_id,
        "bindAddr": str(replication.bind),
        "bootstrap": replication.bootstrap,
        "peers": dict(replication.peers),
        "peerHTTPAddrs": dict(replication.peer_http),
        "peerGRPCAddrs": dict(replication.peer_grpc),
        "clusterSecret": MASK,
        "heartbeatMS": replication.heartbeat_ms,
        "electionMS": replication.election_ms,
        "applyTimeoutSeconds": replication.apply_timeout_seconds,
    }
    if replication.tls is not None:
        files = replication.tls
        shown |= {"tlsCert": str(files.cert), "tlsKey": str(files.key), "tlsCA": str(files.ca)}
    return shown


def describe_gateway(settings: GatewaySettings) -> dict[str, object]:
    """Returns the settings of a gateway by the file's keys, with secrets masked."""
    return {
        "port": settings.http.port,
        "httpHost": settings.http.host,
        "corsOrigins": list(settings.cors_origins),
        "serverAddrs": list(settings.servers),
        "httpConnectionsMax": settings.http_connections_max,
        "gatewaySecret": MASK,
        "logLevel": settings.log.level,
        "logFormat": settings.log.format,
        "shutdownGraceSeconds": settings.shutdown_grace_seconds,
        "readyFile": None if settings.ready_file is None else str(settings.ready_file),
    }


def _masked(token: StaticToken) -> dict[str, object]:
    return {
        "token": MASK,
        "subject": token.subject,
        "email": token.email,
        "scopes": sorted(token.scopes),
        "eventTypes": sorted(token.event_types),
        "raw": dict(token.raw),
    }


class _Build:
    """Builds settings from raw values; errors name each key as the operator wrote it."""

    def __init__(self, raw: Mapping[str, Raw], *, dev: bool) -> None:
        self._raw = raw
        self._dev = dev
        self._raft = _convert(
            keys.RaftKeys, {name.removeprefix(sources.RAFT): value for name, value in raw.items() if raft.is_raft(name)}
        )
        raft.refuse_foreign(raw, self._raft, sources.NOT_SUPPORTED)
        self._keys = _convert(keys.Keys, {name: value for name, value in raw.items() if not raft.is_raft(name)})

    def notes(self, settings: Settings, env: Mapping[str, str]) -> list[Note]:
        return notes.of_server(self._raw, self._raft, settings, env)

    def settings(self) -> Settings:
        given = self._keys
        http = Address(self._host(), given.port)
        worker_stream = self._address("worker_stream_addr", given.worker_stream_addr)
        producer_stream = self._address("producer_stream_addr", given.producer_stream_addr)
        for name, address in (("worker_stream_addr", worker_stream), ("producer_stream_addr", producer_stream)):
            if address is not None and address.port == http.port != 0:
                raise ConfigError(self._key(name), f"port {http.port} is already the HTTP port")
        if given.backoff_max_seconds < given.backoff_base_seconds:
            raise ConfigError(self._key("backoff_max_seconds"), "is less than the backoff's base")
        auth = self._auth()
        return Settings(
            http=http,
            worker_stream=worker_stream,
            producer_stream=producer_stream,
            http_connections_max=given.http_connections_max,
            grpc_connections_max=given.grpc_connections_max,
            allowed_hosts=LOOPBACK_HOSTS if self._dev else frozenset(),
            cors_origins=origins.parse(self._key("cors_origins"), given.cors_origins),
            persistence=self._persistence(),
            auth=auth,
            gateway_secret=self._gateway_secret(auth.producer.token),
            default_lease_seconds=given.default_lease_seconds,
            max_attempts_default=given.max_attempts_default,
            backoff=BackoffSettings(given.backoff_policy, given.backoff_base_seconds, given.backoff_max_seconds),
            retention_seconds=given.retention_seconds,
            dlq_retention_seconds=given.dlq_retention_seconds,
            queues_per_tenant_max=given.queues_per_tenant_max,
            queue_idle_seconds=given.queue_idle_seconds,
            log=LogSettings(given.log_level, given.log_format),
            disk_reserve_bytes=given.disk_reserve_bytes,
            shutdown_grace_seconds=given.shutdown_grace_seconds,
            ready_file=_path(self._key("ready_file"), given.ready_file),
            local_artifacts_dir=self._artifacts_dir(),
            backup_dir=self._folder("backup_dir", given.backup_dir),
            artifact_bytes_max=given.artifact_bytes_max,
            raft=self._replication(producer_stream or worker_stream, auth.producer.token),
            dev=self._dev,
        )

    def gateway(self) -> GatewaySettings:
        given = self._keys
        return GatewaySettings(
            http=Address(self._host(), given.port),
            servers=self._servers(),
            http_connections_max=given.http_connections_max,
            gateway_secret=self._gateway_secret(self._producer_token()),
            allowed_hosts=LOOPBACK_HOSTS if self._dev else frozenset(),
            cors_origins=origins.parse(self._key("cors_origins"), given.cors_origins),
            log=LogSettings(given.log_level, given.log_format),
            shutdown_grace_seconds=given.shutdown_grace_seconds,
            ready_file=_path(self._key("ready_file"), given.ready_file),
            dev=self._dev,
        )

    def _producer_token(self) -> str:
        """Returns the servers' producer token if the gateway has it, otherwise ""."""
        producer = self._token("producer")
        if producer is not None:
            return producer.token
        return DEV_TOKEN if self._dev else ""

    def _gateway_secret(self, producer_token: str) -> str:
        """Returns the gateways' secret, derived from the configured one, or from the producer token."""
        text = self._keys.gateway_secret or producer_token
        if not text:
            config = keys.variable("producer_auth_config")
            raise ConfigError(
                self._key("gateway_secret"),
                f"is required: the servers' secret, or their {config}, from which it is derived by default",
            )
        return hashlib.sha256(_SECRET_SALT + text.encode()).hexdigest()

    def _servers(self) -> tuple[str, ...]:
        """Returns the servers' addresses without duplicates."""
        given = self._keys.server_addrs
        texts = given.split(",") if isinstance(given, str) else given
        servers = tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
        key = self._key("server_addrs")
        for text in servers:
            match = _ADDRESS.fullmatch(text)
            if match is None or not match["host"] or not 0 < int(match["port"]) <= 65535:
                raise ConfigError(key, f"expected host:port of a server, or several separated by commas; got {text!r}")
        if len(servers) > keys.SERVERS_MAX:
            raise ConfigError(key, f"more than {keys.SERVERS_MAX} servers")
        if servers:
            return servers
        if self._dev:
            return (DEV_SERVER,)
        raise ConfigError(key, f"no server is configured: set {keys.variable('server_addrs')}=HOST:PORT")

    def _key(self, name: str) -> str:
        raw = self._raw.get(name)
        return keys.variable(name) if raw is None else raw.key

    def _host(self) -> str:
        text = self._keys.http_host.strip()
        if _HOST.fullmatch(text) is None:
            raise ConfigError(self._key("http_host"), "expected a host name or an IP address")
        return self._bound("http_host", text)

    def _address(self, name: str, text: str) -> Address | None:
        """Returns the address, or None if the text is empty: no listener."""
        if not text.strip():
            return None
        match = _ADDRESS.fullmatch(text.strip())
        if match is None or int(match["port"]) > 65535:
            raise ConfigError(self._key(name), "expected host:port or :port")
        return Address(self._bound(name, match["host"]), int(match["port"]))

    def _bound(self, name: str, text: str) -> str:
        """Returns the host to bind, without brackets; with --dev a loopback address."""
        host = text.removeprefix("[").removesuffix("]")
        if ":" in host:
            try:
                ipaddress.IPv6Address(host)
            except ValueError:
                raise ConfigError(self._key(name), "expected a host name or an IP address") from None
        if not self._dev:
            return host
        if host and not _is_loopback(host):
            raise ConfigError(self._key(name), "with --dev only loopback addresses are allowed")
        return host or LOOPBACK

    def _persistence(self) -> PersistenceSettings:
        provider = self._keys.persistence_provider
        config = _nested("persistence_config", self._key("persistence_config"), self._keys.persistence_config)
        stored = _convert(keys.PersistenceKeys, config)
        if stored.num_shards != 1:
            key = config["num_shards"].key
            raise ConfigError(key, f"{stored.num_shards} shards are {sources.NOT_SUPPORTED}: only 1 is allowed")
        if provider != "memory":
            path = _path(config["path"].key if "path" in config else "path", stored.path)
            return PersistenceSettings("rocksdb", path, stored.num_shards, stored.fsync_on_commit)
        for name in ("path", "fsync_on_commit"):
            if name in config:
                raise ConfigError(config[name].key, "has no effect with the provider memory")
        return PersistenceSettings("memory", None, stored.num_shards, fsync_on_commit=False)

    def _replication(self, clients: Address | None, producer_token: str) -> RaftSettings | None:
        if self._raft.enabled and self._keys.persistence_provider == "memory":
            raise ConfigError(self._key("raft.enabled"), "needs a store on disk: persistenceProvider rocksdb or pebble")
        bind = self._address("raft.bind_addr", self._raft.bind_addr) if self._raft.enabled else None
        return raft.RaftBuild(self._raw, self._raft, clients, producer_token).settings(bind)

    def _artifacts_dir(self) -> Path | None:
        text = self._keys.local_artifacts_dir
        if text is not None and self._raft.enabled:
            raise ConfigError(
                self._key("local_artifacts_dir"), "has no effect with Raft: artifact contents are not stored there"
            )
        return self._folder("local_artifacts_dir", text)

    def _folder(self, name: str, text: str | None) -> Path | None:
        """Returns the path of a folder; a store in memory does not support any."""
        if self._keys.persistence_provider == "memory" and text is not None:
            raise ConfigError(self._key(name), "has no effect with the provider memory")
        return _path(self._key(name), text)

    def _auth(self) -> AuthSettings:
        producer = self._token("producer")
        worker = self._token("worker")
        if self._dev:
            tenant = {"tenantId": DEV_TENANT}
            producer = producer or StaticToken(DEV_TOKEN, "producer-dev", raw={"role": "ADMIN", **tenant})
            worker = worker or StaticToken(
                DEV_TOKEN, "worker-dev", scopes=WORKER_SCOPES, event_types=frozenset({WILDCARD}), raw=tenant
            )
        for role, token in (("producer", producer), ("worker", worker)):
            if token is None:
                variable = keys.variable(f"{role}_auth_provider")
                config = keys.variable(f"{role}_auth_config")
                raise ConfigError(
                    variable,
                    f"no {role} token is configured: set {variable}=static and "
                    f'{config}=\'{{"token":"...",...}}\', or start with --dev',
                )
        assert producer is not None
        assert worker is not None
        return AuthSettings(producer, worker, self._keys.allow_producer_as_worker)

    def _token(self, role: Literal["producer", "worker"]) -> StaticToken | None:
        name = f"{role}_auth_config"
        provider = getattr(self._keys, f"{role}_auth_provider")
        config = getattr(self._keys, name)
        if provider is None and config is None:
            return None
        if provider is None:
            raise ConfigError(self._key(name), f"needs {keys.variable(f'{role}_auth_provider')}=static")
        if config is None:
            raise ConfigError(self._key(f"{role}_auth_provider"), f"needs {keys.variable(name)}")
        key = self._key(name)
        if isinstance(config, str) and config.lstrip().startswith("{"):
            raise ConfigError(key, "expected a mapping or a token, not a mapping written as text")
        values = {"token": config} if isinstance(config, str) else config
        given = _convert(keys.StaticAuthKeys, _nested(name, key, values))
        if not given.token.strip():
            raise ConfigError(f"{key}.token", "the static token is missing or blank")
        if role == "worker" and not (given.scopes and given.event_types):
            raise ConfigError(key, "a worker's token needs scopes and eventTypes: without them it may do nothing")
        subject = given.subject.strip() or DEFAULT_SUBJECT
        try:
            tenant_of(subject, given.raw)
        except InvalidTenantError:
            raise ConfigError(
                key, f"has no valid tenant, or several: set raw.tenantId to a name that matches {TENANT.pattern}"
            ) from None
        return StaticToken(
            token=given.token.strip(),
            subject=subject,
            email=given.email,
            scopes=frozenset(given.scopes),
            event_types=frozenset(given.event_types),
            raw=given.raw,
        )


_NESTED: Final[Mapping[str, type]] = {
    "persistence_config": keys.PersistenceKeys,
    "producer_auth_config": keys.StaticAuthKeys,
    "worker_auth_config": keys.StaticAuthKeys,
}


def _nested(name: str, key: str, mapping: Mapping[str, object]) -> dict[str, Raw]:
    """Returns the values of a nested mapping by field, each with the path of its key."""
    fields = {keys.file_key(field.name): field.name for field in dataclasses.fields(_NESTED[name])}
    found = {}
    for inner, value in mapping.items():
        if inner not in fields:
            raise ConfigError(f"{key}.{inner}", "unknown key")
        found[fields[inner]] = Raw(value, f"{key}.{inner}")
    return found


def _convert(table: type[_T], raw: Mapping[str, Raw]) -> _T:
    """Returns the table with the given values, each strictly checked against its type and limits."""
    types = get_type_hints(table, include_extras=True)
    return table(**{name: _value(name, types[name], given) for name, given in raw.items()})


def _value(name: str, type_: Any, given: Raw) -> object:
    value = given.value
    if isinstance(value, str):
        if value in keys.UNSUPPORTED_VALUES.get(name, ()):
            raise ConfigError(given.key, f"{value} is {sources.NOT_SUPPORTED}")
        if given.is_text and type_ in (bool, bool | None):
            value = sources.boolean(value)
            if value is None:
                raise ConfigError(given.key, "expected true or false")
    try:
        return msgspec.convert(value, type_, strict=not given.is_text)
    except msgspec.ValidationError as error:
        choices = _choices(type_)
        message = f"expected one of {', '.join(choices)}" if choices else str(error)
        raise ConfigError(given.key, message) from None


def _choices(type_: Any) -> tuple[str, ...]:
    if get_origin(type_) is Literal:
        return get_args(type_)
    return next((get_args(part) for part in get_args(type_) if get_origin(part) is Literal), ())


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _path(key: str, text: str | None) -> Path | None:
    """Returns a valid path.

    Raises:
        ConfigError: The text cannot be a file name.
    """
    if text is None:
        return None
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        raise ConfigError(key, "contains characters that are not allowed in a file name") from None
    if b"\0" in encoded:
        raise ConfigError(key, "contains a NUL, which is not allowed in a file name")
    return Path(text)
