"""The settings of a server: validated, complete and immutable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from codeq_server.auth.static import StaticToken

BackoffPolicy = Literal["fixed", "linear", "exponential", "exp_equal_jitter", "exp_full_jitter"]
LogLevel = Literal["debug", "info", "warn", "error"]
LogFormat = Literal["text", "json"]


class ConfigError(Exception):
    """The configuration is invalid.

    Attributes:
        key: The setting as the operator wrote it: a variable, a flag or the path of a key in the file.
        message: What is wrong, in one line and without secrets.
    """

    def __init__(self, key: str, message: str) -> None:
        self.key = key
        self.message = " ".join(message.split())
        super().__init__(f"{key}: {self.message}")


@dataclass(frozen=True, slots=True)
class Note:
    """A warning about a setting that does not prevent startup.

    Attributes:
        key: The setting, or several, as the operator wrote it.
        message: The warning, in one line and without secrets.
    """

    key: str
    message: str


@dataclass(frozen=True, slots=True)
class Address:
    """Address that a listener binds to.

    Attributes:
        host: Name or IP address without brackets; empty: all interfaces.
        port: Port; 0: any free one.
    """

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class PersistenceSettings:
    """Where tasks are stored.

    Attributes:
        provider: "rocksdb", or "memory", which loses everything when the process ends.
        path: Directory of the store; None with "memory".
        num_shards: Number of shards.
        fsync_on_commit: Whether every acknowledgement waits for fsync; false with "memory".
    """

    provider: Literal["rocksdb", "memory"]
    path: Path | None
    num_shards: int
    fsync_on_commit: bool


@dataclass(frozen=True, slots=True)
class BackoffSettings:
    """Delay of a task after a nack without one: policy, base and maximum, in seconds."""

    policy: BackoffPolicy
    base_seconds: int
    max_seconds: int


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """Accepted tokens.

    Attributes:
        producer: Token of producers and administrators.
        worker: Token of workers.
        allow_producer_as_worker: Whether the producer's token may do everything a worker may.
    """

    producer: StaticToken
    worker: StaticToken
    allow_producer_as_worker: bool


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Log level and format; format None: text on a terminal, otherwise json."""

    level: LogLevel
    format: LogFormat | None


@dataclass(frozen=True, slots=True)
class RaftTls:
    """PEM files for TLS between members: certificate and key of this node, and the CA that signed all members'."""

    cert: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True)
class RaftSettings:
    """How this node replicates its data.

    Attributes:
        self_id: Name of this node.
        bind: Address the Raft transport listens on.
        bootstrap: Whether this node may found a cluster if its store is empty and it finds no existing cluster.
        peers: Raft address (host:port) to dial for each member by name, including this node.
        peer_http: Base URLs of the members' REST APIs by name, without a trailing slash; only known ones.
        peer_grpc: gRPC addresses of the members for clients, by name; only known ones.
        secret: Shared secret of the members: 64 hexadecimal digits, the same on all of them.
        tls: Files for TLS between members; None: plain TCP.
        heartbeat_ms: Interval of the leader's heartbeats; at most a fifth of `election_ms`.
        election_ms: Election timeout; randomized up to twice that.
        apply_timeout_seconds: How long a call waits for a majority before its outcome is reported as unknown.
    """

    self_id: str
    bind: Address
    bootstrap: bool
    peers: Mapping[str, str]
    peer_http: Mapping[str, str]
    peer_grpc: Mapping[str, str]
    secret: str = field(repr=False)
    tls: RaftTls | None
    heartbeat_ms: int
    election_ms: int
    apply_timeout_seconds: int


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Settings of a standalone gateway.

    Attributes:
        http: Address of the REST API.
        servers: gRPC listeners of the servers, as host:port each; at least one.
        http_connections_max: Maximum number of open connections.
        gateway_secret: Shared secret that the gateway presents to the servers.
        allowed_hosts: Allowed host names in the HTTP Host header; empty: any.
        cors_origins: Origins whose web pages may call the REST API, as browsers write them.
        log: Logging.
        shutdown_grace_seconds: Maximum time from the stop signal to the end of the process.
        ready_file: File written once requests are served; None: none.
        dev: Whether it was started for development: loopback only.
        notes: Warnings about the settings.
    """

    http: Address
    servers: tuple[str, ...]
    http_connections_max: int
    gateway_secret: str = field(repr=False)
    allowed_hosts: frozenset[str]
    cors_origins: tuple[str, ...]
    log: LogSettings
    shutdown_grace_seconds: int
    ready_file: Path | None
    dev: bool
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a server.

    Attributes:
        http: Address of the REST gateway.
        worker_stream: gRPC address for workers; None: no such listener.
        producer_stream: gRPC address for producers; None: no such listener.
        http_connections_max: Maximum number of open HTTP connections.
        grpc_connections_max: Maximum number of open connections to each gRPC port.
        allowed_hosts: Allowed host names in the HTTP Host header; empty: any.
        cors_origins: Origins whose web pages may call the REST API, as browsers write them.
        persistence: Where tasks are stored.
        auth: Accepted tokens.
        gateway_secret: Shared secret required of standalone gateways and of other servers that forward calls.
        default_lease_seconds: Default length of a lease.
        max_attempts_default: Default maximum deliveries of a task.
        backoff: Delay of a task after a nack without one.
        retention_seconds: How long COMPLETED, FAILED and CANCELLED tasks are kept after their end.
        dlq_retention_seconds: How long tasks in the dead-letter queue are kept after their end.
        queues_per_tenant_max: Maximum number of queues of a tenant.
        queue_idle_seconds: How long a queue is kept after its last task, including ended ones, is gone.
        log: Logging.
        disk_reserve_bytes: Free space on the store's disk below which new tasks are rejected; 0: no limit.
        shutdown_grace_seconds: Maximum time from the stop signal to the end of the process.
        ready_file: File written once the server is ready; None: none.
        local_artifacts_dir: Folder for artifact contents; None: `artifacts` next to the store.
        backup_dir: Folder for backups made on request; None: such requests are rejected.
        artifact_bytes_max: Maximum bytes of one artifact's content.
        raft: Replication of this node; None: a single node.
        dev: Whether the server was started for development: loopback only, well-known tokens.
        notes: Warnings about the settings.
    """

    http: Address
    worker_stream: Address | None
    producer_stream: Address | None
    http_connections_max: int
    grpc_connections_max: int
    allowed_hosts: frozenset[str]
    cors_origins: tuple[str, ...]
    persistence: PersistenceSettings
    auth: AuthSettings
    gateway_secret: str = field(repr=False)
    default_lease_seconds: int
    max_attempts_default: int
    backoff: BackoffSettings
    retention_seconds: int
    dlq_retention_seconds: int
    queues_per_tenant_max: int
    queue_idle_seconds: int
    log: LogSettings
    disk_reserve_bytes: int
    shutdown_grace_seconds: int
    ready_file: Path | None
    local_artifacts_dir: Path | None
    backup_dir: Path | None
    artifact_bytes_max: int
    raft: RaftSettings | None
    dev: bool
    notes: tuple[Note, ...] = ()

    @property
    def artifacts_path(self) -> Path | None:
        """Folder for artifact contents; None: the store is in memory, so contents are not accepted."""
        if self.persistence.path is None:
            return None
        return self.local_artifacts_dir or self.persistence.path.parent / "artifacts"
