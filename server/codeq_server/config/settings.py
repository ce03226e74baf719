"""All settings. Each is declared once, here (see declaration.py); the rest of the server reads its value from here.

A class holds the settings of one kind of process, or of one mapping in the file. `load` completes them: it checks
combinations, and fills in values that follow from others, such as secrets.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from codeq_gateway.connections import CONNECTIONS_MAX

from codeq_server.auth.claims import claims_of
from codeq_server.config.addresses import (
    ORIGINS,
    PORT_MAX,
    SERVERS,
    Address,
    Host,
    OptionalListener,
)
from codeq_server.config.cluster_settings import ClusterSettings
from codeq_server.config.declaration import Group, setting
from codeq_server.config.forms import Boolean, Choice, FilePath, Text, Whole
from codeq_server.config.given import Given, Note
from codeq_server.config.providers import AuthConfig, AuthConfigForm, ProviderName
from codeq_server.config.raft_settings import SECRET, RaftSettings
from codeq_server.config.telemetry_settings import TelemetrySettings
from codeq_server.config.tls import ClientTls, ListenerTls, client_tls_of, tls_of
from codeq_server.config.webhook_settings import WebhookSettings
from codeq_server.core.ids import SHARDS_MAX
from codeq_server.core.limits import Rate

BackoffPolicy = Literal["fixed", "linear", "exponential", "exp_equal_jitter", "exp_full_jitter"]
LogLevel = Literal["debug", "info", "warn", "error"]
LogFormat = Literal["text", "json"]
ClientAuth = Literal["request", "require"]

LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Allowed host names in the HTTP Host header with --dev, so that pages of other sites cannot reach the server."""

_CONNECTIONS: Final = Whole(16, 30_000)
_DURATION: Final = Whole(1, 10 * 365 * 86400, "seconds")
_LEASE: Final = Whole(1, 43200, "seconds")
_QUOTA: Final = Whole(0, 1 << 50)
_RATE: Final = Whole(0, 1_000_000_000)
_CLIENT_AUTH: Final = Choice(get_args(ClientAuth))
_PROVIDER: Final = ProviderName()
_AUTH: Final = AuthConfigForm()


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistenceSettings:
    """Where tasks are stored. With the provider memory, the complete settings have no `path` and no fsync."""

    path: Path | None = setting(
        FilePath(),
        Path("data"),
        "folder of the store, created if missing; used by one process at a time",
        unset="`./data`",
        flag="--store",
    )
    fsync_on_commit: bool = setting(
        Boolean(),
        True,
        "reply only after fsync. With false, a crash of the machine can lose acknowledged changes",
        flag="--no-fsync",
    )
    num_shards: int = setting(
        Whole(1, SHARDS_MAX),
        1,
        "number of [shards](scaling.md), each with a process and a store of its own; not with `memory`. With Raft, "
        "each is replicated by a group of its own. It is kept in the store: another number stops the start; "
        "`codeq store reshard` [changes it](scaling.md#change-the-number-of-shards), without Raft",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSettings:
    """A token bucket; it limits nothing unless both numbers are positive."""

    requests_per_minute: int = setting(_RATE, 0, "cost that flows back per minute, evenly")
    burst_size: int = setting(_RATE, 0, "cost that can be spent at once")

    @property
    def rate(self) -> Rate:
        """The rate for the core."""
        return Rate(self.requests_per_minute, self.burst_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitSettings:
    """Rates of each token; see docs/limits.md for what the calls cost."""

    producer: RateSettings = setting(Group(RateSettings), RateSettings(), "creates and cancels")
    worker: RateSettings = setting(Group(RateSettings), RateSettings(), "claims and deliveries")
    admin: RateSettings = setting(Group(RateSettings), RateSettings(), "calls of administrators, viewers and operators")
    webhook: RateSettings = setting(
        Group(RateSettings),
        RateSettings(),
        "requests to each URL: callbacks wait for it, signals beyond it are dropped",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaSettings:
    """Quotas of each tenant for which none is set at run time; 0: not limited."""

    waiting_tasks_max: int = setting(_QUOTA, 0, "tasks that wait, PENDING or SCHEDULED")
    stored_bytes_max: int = setting(_QUOTA, 0, "bytes of payloads and results of stored tasks, checked when creating")
    leases_max: int = setting(_QUOTA, 0, "tasks that are leased")
    streams_max: int = setting(_QUOTA, 0, "open streams")
    new_queues_per_minute: int = setting(_QUOTA, 0, "queues created per minute")


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """Accepted tokens.

    Attributes:
        producer: Provider of the tokens of producers and administrators.
        worker: Provider of the tokens of workers.
        allow_producer_as_worker: Whether the producer's token may do everything a worker may, for its commands.
        viewer_sees_payloads: Whether viewers see the content of tasks.
    """

    producer: AuthConfig
    worker: AuthConfig
    allow_producer_as_worker: bool
    viewer_sees_payloads: bool

    @property
    def takes_certificates(self) -> bool:
        """Whether certificates of clients may be identities."""
        return self.producer.takes_certificates or self.worker.takes_certificates

    @property
    def admins_operate(self) -> bool:
        """Whether administrators may operate the server, too.

        So it was before there were operators; kept for one release while each role has one configured token, both have
        the same tenant, and neither is an operator's.
        """
        if not (self.producer.is_one_token and self.worker.is_one_token):
            return False
        tokens = [claims_of(token.content) for each in (self.producer, self.worker) for _, token in each.tokens]
        return not any(claims.is_operator for claims in tokens) and len({claims.tenant_id for claims in tokens}) == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSettings:
    """Settings of every process: `codeq serve`, `codeq server` and `codeq gateway`.

    Attributes:
        gateway_secret: In complete settings, 64 hexadecimal digits.
        dev: Whether the process was started for development: loopback only, well-known tokens.
        notes: Warnings about the settings.
    """

    gateway_secret: str = setting(
        SECRET,
        "",
        "secret of gateways and servers that forward calls to a server; the same on all of them",
        unset="derived from the producers' token, if there is only one and no provider is `mtls`, or from "
        "`raft.clusterSecret`; without either, servers admit no gateways",
        secret=True,
    )
    log_level: LogLevel = setting(Choice(get_args(LogLevel)), "info", "lowest level logged")
    log_format: LogFormat | None = setting(
        Choice(get_args(LogFormat)), None, "format of log lines", unset="`text` on a terminal, else `json`"
    )
    shutdown_grace_seconds: int = setting(Whole(0, 600, "seconds"), 10, "longest time from the stop signal to exit")
    ready_file: Path | None = setting(FilePath(), None, "file to write once the process has started")
    tls_cert_file: Path | None = setting(
        FilePath(),
        None,
        "PEM file with the certificate of all listeners, and those between it and its CA; turns [TLS](tls.md) on. It "
        "and the other files of TLS are reloaded when they change",
    )
    tls_key_file: Path | None = setting(FilePath(), None, "PEM file with its private key, without a password")
    tls_client_ca_file: Path | None = setting(
        FilePath(), None, "PEM file with the CAs of clients' certificates; without it none are asked for"
    )
    tls_client_auth: ClientAuth = setting(
        _CLIENT_AUTH, "request", "whether a client must present a certificate; gRPC asks for one only with `require`"
    )
    server_tls_ca_file: Path | None = setting(
        FilePath(),
        None,
        "PEM file with the CAs of servers' certificates: gateways, and servers that forward calls to their leader, "
        "then connect over TLS",
    )
    server_tls_cert_file: Path | None = setting(
        FilePath(), None, "PEM file with the certificate that they present to servers"
    )
    server_tls_key_file: Path | None = setting(FilePath(), None, "PEM file with its private key")
    dev: bool = False
    notes: tuple[Note, ...] = ()

    @property
    def server_tls(self) -> ClientTls | None:
        """TLS of connections to servers; None: plaintext."""
        return client_tls_of(self)

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """Allowed host names in the HTTP Host header; empty: any."""
        return LOOPBACK_HOSTS if self.dev else frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class RestSettings(ProcessSettings):
    """Settings of processes that serve REST: `codeq serve` and `codeq gateway`."""

    port: int = setting(Whole(0, PORT_MAX), 8080, "HTTP port; 0: any free port")
    http_host: str = setting(Host(), "", "host or address that HTTP binds", unset="all interfaces")
    http_connections_max: int = setting(
        _CONNECTIONS,
        CONNECTIONS_MAX,
        "concurrent HTTP connections; [fewer if the open file limit is low](operations.md#connections)",
    )
    cors_origins: tuple[str, ...] = setting(
        ORIGINS,
        (),
        "origins whose web pages may call REST: `https://console.example,http://localhost:3000`. Write each as "
        "browsers do; `*` is rejected",
    )
    http_tls_cert_file: Path | None = setting(FilePath(), None, "as `tlsCertFile`, for HTTP only")
    http_tls_key_file: Path | None = setting(FilePath(), None, "as `tlsKeyFile`, for HTTP only")
    http_tls_client_ca_file: Path | None = setting(FilePath(), None, "as `tlsClientCAFile`, for HTTP only")
    http_tls_client_auth: ClientAuth | None = setting(_CLIENT_AUTH, None, "as `tlsClientAuth`, for HTTP only")

    @property
    def http_tls(self) -> ListenerTls | None:
        """TLS of the REST API; None: plaintext."""
        return tls_of(self, "http_")

    @property
    def http(self) -> Address:
        """Address of the REST API."""
        return Address(self.http_host, self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings(RestSettings):
    """Settings of a standalone gateway."""

    server_addrs: tuple[str, ...] = setting(
        SERVERS,
        (),
        "gRPC addresses of the gateway's servers: `host:port,host:port`",
        unset="required; with `--dev` `127.0.0.1:9092`",
        flag="--server",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(RestSettings, WebhookSettings, TelemetrySettings):
    """Settings of a server, with REST or without.

    Complete settings have both providers; `raft` is None on a node that replicates nothing, `cluster` on one that is
    alone or replicates.
    """

    worker_stream_addr: Address | None = setting(
        OptionalListener(), Address("", 9091), "gRPC listener for workers; empty: none"
    )
    producer_stream_addr: Address | None = setting(
        OptionalListener(), Address("", 9092), "gRPC listener for producers; empty: none"
    )
    grpc_connections_max: int = setting(
        _CONNECTIONS,
        2_048,
        "concurrent connections to each gRPC port; [fewer if the open file limit is low](operations.md#connections)",
    )
    grpc_tls_cert_file: Path | None = setting(FilePath(), None, "as `tlsCertFile`, for gRPC only")
    grpc_tls_key_file: Path | None = setting(FilePath(), None, "as `tlsKeyFile`, for gRPC only")
    grpc_tls_client_ca_file: Path | None = setting(FilePath(), None, "as `tlsClientCAFile`, for gRPC only")
    grpc_tls_client_auth: ClientAuth | None = setting(_CLIENT_AUTH, None, "as `tlsClientAuth`, for gRPC only")
    persistence_provider: Literal["rocksdb", "memory"] = setting(
        Choice(["rocksdb", "memory"], {"pebble": "rocksdb"}, others=["redis"]),
        "rocksdb",
        "`pebble` means the same as `rocksdb`; `memory` loses everything when the process ends",
    )
    persistence_config: PersistenceSettings = setting(
        Group(PersistenceSettings), PersistenceSettings(), "where and how the store is kept; JSON in the environment"
    )
    producer_auth_provider: str | None = setting(_PROVIDER, None, "how tokens of producers are checked")
    producer_auth_config: AuthConfig | Given | None = setting(
        _AUTH, None, "the producers' tokens; JSON in the environment"
    )
    worker_auth_provider: str | None = setting(_PROVIDER, None, "how tokens of workers are checked")
    worker_auth_config: AuthConfig | Given | None = setting(_AUTH, None, "the workers' tokens; JSON in the environment")
    allow_producer_as_worker: bool = setting(
        Boolean(), False, "the producer token may do everything a worker may, for its `eventTypes`"
    )
    viewer_sees_payloads: bool = setting(
        Boolean(), False, "[viewers](security.md#roles) see payloads, results, errors, progress and artifacts"
    )
    identity_service_url: str = setting(
        Text(),
        "",
        "issuer of producers' tokens, whose keys are at `/v1/.well-known/jwks.json` below it. This and the next seven "
        "[configure `jwks`](#identity-providers-by-other-names)",
    )
    identity_jwks_url: str = setting(Text(), "", "`jwksUrl` for producers")
    identity_issuer: str = setting(Text(), "", "`issuer` for producers", unset="`identityServiceUrl`")
    identity_audience: str = setting(Text(), "", "`audience` for producers")
    worker_jwks_url: str = setting(Text(), "", "`jwksUrl` for workers")
    worker_issuer: str = setting(Text(), "", "`issuer` for workers")
    worker_audience: str = setting(Text(), "", "`audience` for workers", unset="`codeq-worker`")
    allowed_clock_skew_seconds: int = setting(Whole(0, 600, "seconds"), 60, "`allowedClockSkewSeconds` for both")
    identity_service_api_key: str = setting(Text(), "", "accepted without effect", secret=True, ignored=True)
    default_lease_seconds: int = setting(_LEASE, 60, "lease length when the claim gives none")
    max_attempts_default: int = setting(Whole(1, 1000), 5, "deliveries of a task that gives no `maxAttempts`")
    backoff_policy: BackoffPolicy = setting(
        Choice(get_args(BackoffPolicy)), "exp_full_jitter", "[backoff](#backoff) after a nack without a delay"
    )
    backoff_base_seconds: int = setting(_LEASE, 5, "first step of the backoff")
    backoff_max_seconds: int = setting(_LEASE, 900, "longest backoff, at least `backoffBaseSeconds`")
    retention_seconds: int = setting(
        _DURATION, 86400, "how long completed, failed and cancelled tasks are kept after their end"
    )
    dlq_retention_seconds: int = setting(_DURATION, 1209600, "how long dead-lettered tasks are kept")
    queues_per_tenant_max: int = setting(
        Whole(1, 100_000),
        10_000,
        "queues per tenant; a task that would need one more is rejected with `TOO_MANY_QUEUES`",
    )
    quotas: QuotaSettings = setting(
        Group(QuotaSettings, has_variables=True),
        QuotaSettings(),
        "what a tenant may store and use, unless [set at run time](operations.md#tenants); each key has a variable of "
        "its own",
    )
    queue_idle_seconds: int = setting(
        _DURATION, 3600, "how long a queue without tasks, ended ones included, is kept; paused queues are always kept"
    )
    audit_retention_seconds: int = setting(
        _DURATION, 7776000, "how long [audit](security.md#audit) records are kept, up to 100,000 of them"
    )
    local_artifacts_dir: Path | None = setting(
        FilePath(),
        None,
        "folder for artifact contents, created if missing: at startup if configured, else with the first artifact; not "
        "with `memory`, nor with Raft, which keeps them in the store",
        unset="`artifacts` beside the store",
    )
    artifact_bytes_max: int = setting(Whole(1, 6 << 20, "bytes"), 4 << 20, "maximum size of one artifact's content")
    backup_dir: Path | None = setting(
        FilePath(),
        None,
        "folder for backups made on request; without it requests for backups are rejected; not with `memory`",
    )
    disk_reserve_bytes: int = setting(
        Whole(0, 1 << 50, "bytes"),
        256 << 20,
        "free space on the store's disk below which new tasks are rejected, so that running work can finish; 0: never",
    )
    rate_limit: RateLimitSettings = setting(
        Group(RateLimitSettings),
        RateLimitSettings(),
        "[rate limits](limits.md) of each token, unless its tenant has its own; JSON in the environment",
        unset="no limits",
    )
    raft: RaftSettings | None = setting(
        Group(RaftSettings, has_variables=True),
        None,
        "replication over several nodes; each key has a variable of its own",
    )
    cluster: ClusterSettings | None = setting(
        Group(ClusterSettings, has_variables=True),
        None,
        "several nodes without replication; each key has a variable of its own",
    )

    @property
    def grpc_tls(self) -> ListenerTls | None:
        """TLS of both gRPC listeners; None: plaintext."""
        return tls_of(self, "grpc_")

    @property
    def num_shards(self) -> int:
        """Number of shards of the installation."""
        return self.persistence.num_shards if self.cluster is None else len(self.cluster.nodes)

    @property
    def persistence(self) -> PersistenceSettings:
        """Where tasks are stored."""
        return self.persistence_config

    @property
    def auth(self) -> AuthSettings:
        """The providers of complete settings."""
        assert isinstance(self.producer_auth_config, AuthConfig)
        assert isinstance(self.worker_auth_config, AuthConfig)
        return AuthSettings(
            self.producer_auth_config,
            self.worker_auth_config,
            self.allow_producer_as_worker,
            self.viewer_sees_payloads,
        )

    @property
    def pprof_addrs(self) -> tuple[Address, ...]:
        """Addresses of the ports for profiles, by shard: each shard's process has its own, one port after the other."""
        host, port = self.codeq_pprof_addr.host, self.codeq_pprof_addr.port
        return tuple(Address(host, port and port + shard) for shard in range(self.persistence.num_shards))

    @property
    def artifacts_path(self) -> Path | None:
        """Folder for artifact contents of one store; None: it is in memory, so contents are not accepted."""
        if self.persistence.path is None:
            return None
        return self.local_artifacts_dir or self.persistence.path.parent / "artifacts"
