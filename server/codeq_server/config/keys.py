"""The table of all settings: every key with its type, limits and default.

A field `worker_stream_addr` is the key `workerStreamAddr` of the file, the variable `WORKER_STREAM_ADDR` and the flag
`--worker-stream-addr`. A field `self_id` of `raft` is the key `raft.selfId` and the variable `RAFT_SELF_ID`.
Keys of other versions that this one lacks are listed as well, so that they can be rejected by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from codeq_gateway.connections import CONNECTIONS_MAX
from msgspec import Meta

from codeq_server.config.settings import BackoffPolicy, LogFormat, LogLevel

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[int, Meta(ge=1, le=10 * 365 * 86400)]
"""Duration in seconds, from one second to ten years."""

Connections = Annotated[int, Meta(ge=16, le=30_000)]

Text = Annotated[str, Meta(min_length=1)]
EventType = Annotated[str, Meta(pattern=r"^(\*|[A-Za-z0-9][A-Za-z0-9._-]{0,127})$")]


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of the top level, as described in `settings.Settings`."""

    port: Port = 8080
    http_host: str = ""
    cors_origins: list[str] | str = ""
    worker_stream_addr: str = ":9091"
    producer_stream_addr: str = ":9092"
    http_connections_max: Connections = CONNECTIONS_MAX
    grpc_connections_max: Connections = 2_048
    server_addrs: list[str] | str = ""
    gateway_secret: Annotated[str, Meta(min_length=16, max_length=1024)] | None = None
    persistence_provider: Literal["rocksdb", "pebble", "memory"] = "rocksdb"
    persistence_config: dict[str, object] = field(default_factory=dict)
    producer_auth_provider: Literal["static"] | None = None
    producer_auth_config: dict[str, object] | str | None = None
    worker_auth_provider: Literal["static"] | None = None
    worker_auth_config: dict[str, object] | str | None = None
    allow_producer_as_worker: bool = False
    default_lease_seconds: Annotated[int, Meta(ge=1, le=43200)] = 60
    max_attempts_default: Annotated[int, Meta(ge=1, le=1000)] = 5
    backoff_policy: BackoffPolicy = "exp_full_jitter"
    backoff_base_seconds: Annotated[int, Meta(ge=1, le=43200)] = 5
    backoff_max_seconds: Annotated[int, Meta(ge=1, le=43200)] = 900
    retention_seconds: Seconds = 86400
    dlq_retention_seconds: Seconds = 1209600
    queues_per_tenant_max: Annotated[int, Meta(ge=1, le=100_000)] = 10000
    queue_idle_seconds: Seconds = 3600
    local_artifacts_dir: Text | None = None
    backup_dir: Text | None = None
    artifact_bytes_max: Annotated[int, Meta(ge=1, le=6291456)] = 4194304
    log_level: LogLevel = "info"
    log_format: LogFormat | None = None
    disk_reserve_bytes: Annotated[int, Meta(ge=0, le=1 << 50)] = 268435456
    shutdown_grace_seconds: Annotated[int, Meta(ge=0, le=600)] = 10
    ready_file: Text | None = None


@dataclass(frozen=True, slots=True)
class PersistenceKeys:
    """Keys of `persistenceConfig`."""

    path: Text = "./data"
    num_shards: int = 1
    fsync_on_commit: bool = True


@dataclass(frozen=True, slots=True)
class StaticAuthKeys:
    """Keys of `producerAuthConfig` and `workerAuthConfig` with the provider `static`."""

    token: str = ""
    subject: str = ""
    email: str = ""
    scopes: list[Text] = field(default_factory=list)
    event_types: list[EventType] = field(default_factory=list)
    raw: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RaftKeys:
    """Keys of `raft`, as described in `settings.RaftSettings`; each has a variable, such as `RAFT_SELF_ID`."""

    enabled: bool | None = None
    self_id: str = ""
    bind_addr: Text = ":7000"
    bootstrap: bool = False
    peers: dict[str, object] | str = ""
    peer_http_addrs: dict[str, object] | str = ""
    peer_grpc_addrs: dict[str, object] | str = ""
    cluster_secret: Annotated[str, Meta(min_length=16, max_length=1024)] | None = None
    tls_cert: Text | None = None
    tls_key: Text | None = None
    tls_ca: Text | None = None
    election_ms: Annotated[int, Meta(ge=200, le=60000)] = 1000
    heartbeat_ms: Annotated[int, Meta(ge=10, le=60000)] = 100
    apply_timeout_seconds: Annotated[int, Meta(ge=1, le=600)] = 10
    mux_enabled: bool = True
    leader_lease_ms: Annotated[int, Meta(ge=0, le=60000)] = 0
    commit_ms: Annotated[int, Meta(ge=0, le=60000)] = 0
    topic_catalog_protocol: Literal["", "v1"] = ""


ORIGINS_MAX: Final = 64
"""Maximum number of configured origins of web pages."""

SERVERS_MAX: Final = 16
"""Maximum number of a gateway's configured servers."""

JSON_KEYS: Final = frozenset({"persistence_config", "producer_auth_config", "worker_auth_config"})
"""Keys whose environment variable holds JSON."""

EMPTY_IS_A_VALUE: Final = frozenset({"worker_stream_addr", "producer_stream_addr"})
"""Keys for which an empty variable is a value; any other empty variable counts as unset."""

UNSUPPORTED_VALUES: Final[Mapping[str, frozenset[str]]] = {
    "persistence_provider": frozenset({"redis"}),
    "producer_auth_provider": frozenset({"jwks", "multi"}),
    "worker_auth_provider": frozenset({"jwks", "multi"}),
}
"""Values supported by other versions only."""

UNSUPPORTED_VARIABLES: Final = frozenset(
    {
        "CLUSTER_ENABLED",
        "CLUSTER_GRPC_ADDR",
        "CLUSTER_NODES",
        "CLUSTER_SELF_ID",
        "CODEQ_PPROF",
        "CODEQ_PPROF_ADDR",
        "IDENTITY_AUDIENCE",
        "IDENTITY_ISSUER",
        "IDENTITY_JWKS_URL",
        "IDENTITY_SERVICE_API_KEY",
        "IDENTITY_SERVICE_URL",
        "KVROCKS_PASSWORD",
        "REDIS_ADDR",
        "REDIS_PASSWORD",
        "REQUEUE_INSPECT_LIMIT",
        "RESULT_WEBHOOK_BASE_BACKOFF_SECONDS",
        "RESULT_WEBHOOK_MAX_ATTEMPTS",
        "RESULT_WEBHOOK_MAX_BACKOFF_SECONDS",
        "SUBSCRIPTION_CLEANUP_INTERVAL_SECONDS",
        "SUBSCRIPTION_MIN_INTERVAL_SECONDS",
        "WEBHOOK_HMAC_SECRET",
        "WORKER_AUDIENCE",
        "WORKER_ISSUER",
        "WORKER_JWKS_URL",
        "ALLOWED_CLOCK_SKEW_SECONDS",
    }
)
"""Variables of features that this version lacks."""

UNSUPPORTED_PREFIXES: Final = ("TRACING_",)
"""Prefixes of further such variables."""

OWN_PREFIXES: Final = ("CODEQ_", "RAFT_")
"""Prefixes of codeq's own variables: unknown ones are rejected."""

UNSUPPORTED_FILE_KEYS: Final = frozenset(
    {
        "cluster",
        "env",
        "rateLimit",
        "sharding",
        "timezone",
        "tracingEnabled",
        "tracingOtlpEndpoint",
        "tracingOtlpInsecure",
        "tracingSampleRatio",
        "tracingServiceName",
    }
)
"""Keys of the file without a variable, of features that this version lacks."""

CLIENT_VARIABLES: Final = frozenset(
    {
        "CODEQ_CONFIG_PATH",
        "CODEQ_ENDPOINT",
        "CODEQ_TOKEN",
        "CODEQ_PRODUCER_ADDR",
        "CODEQ_WORKER_ADDR",
        "CODEQ_CONFIG_DIR",
    }
)
"""Known variables with codeq's prefix that are no server settings: the file's path, and those of the CLI."""


_INITIALS: Final = frozenset({"ca", "grpc", "http", "ms", "tls"})


def file_key(name: str) -> str:
    """Returns the camelCase form of a field's name."""
    head, *tail = name.split("_")
    return head + "".join(part.upper() if part in _INITIALS else part.capitalize() for part in tail)


def variable(name: str) -> str:
    """Returns the variable of a field; fields of `raft` are named like `raft.self_id`."""
    return name.upper().replace(".", "_")


def flag(name: str) -> str:
    """Returns the flag of a field."""
    return "--" + name.replace("_", "-")
