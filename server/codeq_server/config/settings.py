"""The settings of a server as the rest of it reads them: checked, complete and unchangeable."""

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
    """The configuration cannot be used.

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
    """Something that an operator should know of a setting, though nothing is refused for it.

    Attributes:
        key: The setting as the operator wrote it, or several.
        message: What there is to know, in one line and without secrets.
    """

    key: str
    message: str


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener binds.

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
    """Where tasks are kept.

    Attributes:
        provider: "rocksdb", or "memory", which keeps nothing beyond the process.
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
    """How long a task rests after a nack that names no delay: policy, base and longest rest in seconds."""

    policy: BackoffPolicy
    base_seconds: int
    max_seconds: int


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """Tokens that are accepted.

    Attributes:
        producer: Token of producers and administrators.
        worker: Token of workers.
        allow_producer_as_worker: Whether the producer's token may do all that a worker may.
    """

    producer: StaticToken
    worker: StaticToken
    allow_producer_as_worker: bool


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is logged, and in which format; None: text on a terminal, else json."""

    level: LogLevel
    format: LogFormat | None


@dataclass(frozen=True, slots=True)
class RaftTls:
    """Files for TLS between members, PEM: certificate and key of this node, and what signed those of all members."""

    cert: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True)
class RaftSettings:
    """How this node replicates what it stores.

    Attributes:
        self_id: Name of this node.
        bind: Where the transport between members listens.
        bootstrap: Whether this node may found a cluster when it is empty and meets none.
        peers: Address (host:port) of each member's transport by name, this node included; addresses for dialling.
        peer_http: Base URLs of members' REST by name, without a slash at the end; only those that are known.
        peer_grpc: Addresses that clients are sent to, by name; only those that are known.
        secret: What members show each other: 64 hexadecimal digits, the same at all members.
        tls: Files for TLS between members; None: plain TCP.
        heartbeat_ms: How often a leader says that it is there; at most a fifth of `election_ms`.
        election_ms: Silence of the leader after which another is sought; at random up to twice that.
        apply_timeout_seconds: How long a call waits for a majority before its outcome counts as unknown.
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
    """Everything that can be set of a gateway in a process of its own.

    Attributes:
        http: Address of REST.
        servers: gRPC listeners of the servers, as host:port each; at least one.
        http_connections_max: Connections that may be open at a time.
        gateway_secret: What it shows the servers.
        allowed_hosts: Names that the HTTP Host header may carry; empty: any.
        cors_origins: Origins whose web pages may call REST, as browsers write them.
        log: What is logged and how.
        shutdown_grace_seconds: Longest time between the signal to stop and the end of the process.
        ready_file: File written when requests are served; None: none.
        dev: Whether it was started for development: loopback only.
        notes: What to tell of the settings.
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
    """Everything that can be set.

    Attributes:
        http: Address of the REST gateway.
        worker_stream: Address for workers' gRPC; None: no such listener.
        producer_stream: Address for producers' gRPC; None: no such listener.
        http_connections_max: Connections over HTTP that may be open at a time.
        grpc_connections_max: Connections to each gRPC port that may be open at a time.
        allowed_hosts: Names that the HTTP Host header may carry; empty: any.
        cors_origins: Origins whose web pages may call REST, as browsers write them.
        persistence: Where tasks are kept.
        auth: Tokens that are accepted.
        gateway_secret: What gateways in processes of their own, and other servers that forward calls, have to show.
        default_lease_seconds: Length of a lease that names none.
        max_attempts_default: Deliveries of a task that names none.
        backoff: Rest of a task after a nack that names no delay.
        retention_seconds: How long COMPLETED, FAILED and CANCELLED tasks are kept after their end.
        dlq_retention_seconds: How long tasks in the dead-letter queue are kept after their end.
        queues_per_tenant_max: Queues that a tenant may have.
        queue_idle_seconds: How long a queue stays when no task of it is left, ended ones included.
        log: What is logged and how.
        disk_reserve_bytes: Free space of the store's disk below which new tasks are refused; 0: no such bound.
        shutdown_grace_seconds: Longest time between the signal to stop and the end of the process.
        ready_file: File written when the server is ready; None: none.
        local_artifacts_dir: Where contents of artifacts are kept; None: in `artifacts` beside the store.
        backup_dir: Where backups are made on request; None: such requests are refused.
        artifact_bytes_max: Bytes that the content of one artifact may have.
        raft: How this node replicates; None: it serves alone.
        dev: Whether the server was started for development: loopback only, well-known tokens.
        notes: What to tell of the settings.
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
        """Folder for contents of artifacts; None: the store keeps nothing, and so they are not taken."""
        if self.persistence.path is None:
            return None
        return self.local_artifacts_dir or self.persistence.path.parent / "artifacts"
