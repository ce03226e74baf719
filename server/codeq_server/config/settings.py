"""The settings of a server as the rest of it reads them: checked, complete and unchangeable."""

from __future__ import annotations

from dataclasses import dataclass
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
class Settings:
    """Everything that can be set.

    Attributes:
        http: Address of the REST gateway.
        worker_stream: Address for workers' gRPC; None: no such listener.
        producer_stream: Address for producers' gRPC; None: no such listener.
        allowed_hosts: Names that the HTTP Host header may carry; empty: any.
        persistence: Where tasks are kept.
        auth: Tokens that are accepted.
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
        dev: Whether the server was started for development: loopback only, well-known tokens.
    """

    http: Address
    worker_stream: Address | None
    producer_stream: Address | None
    allowed_hosts: frozenset[str]
    persistence: PersistenceSettings
    auth: AuthSettings
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
    dev: bool

    @property
    def artifacts_path(self) -> Path | None:
        """Folder for contents of artifacts; None: the store keeps nothing, and so they are not taken."""
        if self.persistence.path is None:
            return None
        return self.local_artifacts_dir or self.persistence.path.parent / "artifacts"
