from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CallbackState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CALLBACK_STATE_UNSPECIFIED: _ClassVar[CallbackState]
    CALLBACK_STATE_WAITING: _ClassVar[CallbackState]
    CALLBACK_STATE_DELIVERED: _ClassVar[CallbackState]
    CALLBACK_STATE_GAVE_UP: _ClassVar[CallbackState]

class PlaceKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PLACE_KIND_UNSPECIFIED: _ClassVar[PlaceKind]
    PLACE_KIND_QUEUED: _ClassVar[PlaceKind]
    PLACE_KIND_DUE: _ClassVar[PlaceKind]
    PLACE_KIND_RETURNED: _ClassVar[PlaceKind]
    PLACE_KIND_BLOCKED: _ClassVar[PlaceKind]

class SignalMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIGNAL_MODE_UNSPECIFIED: _ClassVar[SignalMode]
    SIGNAL_MODE_GROUP: _ClassVar[SignalMode]
    SIGNAL_MODE_HASH: _ClassVar[SignalMode]
CALLBACK_STATE_UNSPECIFIED: CallbackState
CALLBACK_STATE_WAITING: CallbackState
CALLBACK_STATE_DELIVERED: CallbackState
CALLBACK_STATE_GAVE_UP: CallbackState
PLACE_KIND_UNSPECIFIED: PlaceKind
PLACE_KIND_QUEUED: PlaceKind
PLACE_KIND_DUE: PlaceKind
PLACE_KIND_RETURNED: PlaceKind
PLACE_KIND_BLOCKED: PlaceKind
SIGNAL_MODE_UNSPECIFIED: SignalMode
SIGNAL_MODE_GROUP: SignalMode
SIGNAL_MODE_HASH: SignalMode

class IdentityRow(_message.Message):
    __slots__ = ("format", "shard", "num_shards", "cluster_id", "epoch", "resharded")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    NUM_SHARDS_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    RESHARDED_FIELD_NUMBER: _ClassVar[int]
    format: int
    shard: int
    num_shards: int
    cluster_id: bytes
    epoch: int
    resharded: bool
    def __init__(self, format: _Optional[int] = ..., shard: _Optional[int] = ..., num_shards: _Optional[int] = ..., cluster_id: _Optional[bytes] = ..., epoch: _Optional[int] = ..., resharded: _Optional[bool] = ...) -> None: ...

class TickRow(_message.Message):
    __slots__ = ("lsn", "wall_ms", "oldest_lease", "sweep_mark", "last_queue")
    LSN_FIELD_NUMBER: _ClassVar[int]
    WALL_MS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_LEASE_FIELD_NUMBER: _ClassVar[int]
    SWEEP_MARK_FIELD_NUMBER: _ClassVar[int]
    LAST_QUEUE_FIELD_NUMBER: _ClassVar[int]
    lsn: int
    wall_ms: int
    oldest_lease: int
    sweep_mark: bytes
    last_queue: int
    def __init__(self, lsn: _Optional[int] = ..., wall_ms: _Optional[int] = ..., oldest_lease: _Optional[int] = ..., sweep_mark: _Optional[bytes] = ..., last_queue: _Optional[int] = ...) -> None: ...

class QueueRow(_message.Message):
    __slots__ = ("tenant", "command", "lanes", "scheduled", "claimed", "dlq", "completed_total", "failed_total", "created_total", "paused", "named", "due_mark", "removed_total", "filed", "purge", "expiring", "expire_mark", "stored_bytes", "delivered_total", "accepted_bytes_total", "hooked", "outbox", "keyed", "blocked")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    SCHEDULED_FIELD_NUMBER: _ClassVar[int]
    CLAIMED_FIELD_NUMBER: _ClassVar[int]
    DLQ_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    FAILED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    CREATED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    NAMED_FIELD_NUMBER: _ClassVar[int]
    DUE_MARK_FIELD_NUMBER: _ClassVar[int]
    REMOVED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    FILED_FIELD_NUMBER: _ClassVar[int]
    PURGE_FIELD_NUMBER: _ClassVar[int]
    EXPIRING_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_MARK_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    HOOKED_FIELD_NUMBER: _ClassVar[int]
    OUTBOX_FIELD_NUMBER: _ClassVar[int]
    KEYED_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    command: str
    lanes: _containers.RepeatedCompositeFieldContainer[LaneState]
    scheduled: int
    claimed: int
    dlq: int
    completed_total: int
    failed_total: int
    created_total: int
    paused: bool
    named: int
    due_mark: bytes
    removed_total: int
    filed: int
    purge: PurgeState
    expiring: int
    expire_mark: bytes
    stored_bytes: int
    delivered_total: int
    accepted_bytes_total: int
    hooked: int
    outbox: OutboxState
    keyed: bool
    blocked: int
    def __init__(self, tenant: _Optional[str] = ..., command: _Optional[str] = ..., lanes: _Optional[_Iterable[_Union[LaneState, _Mapping]]] = ..., scheduled: _Optional[int] = ..., claimed: _Optional[int] = ..., dlq: _Optional[int] = ..., completed_total: _Optional[int] = ..., failed_total: _Optional[int] = ..., created_total: _Optional[int] = ..., paused: _Optional[bool] = ..., named: _Optional[int] = ..., due_mark: _Optional[bytes] = ..., removed_total: _Optional[int] = ..., filed: _Optional[int] = ..., purge: _Optional[_Union[PurgeState, _Mapping]] = ..., expiring: _Optional[int] = ..., expire_mark: _Optional[bytes] = ..., stored_bytes: _Optional[int] = ..., delivered_total: _Optional[int] = ..., accepted_bytes_total: _Optional[int] = ..., hooked: _Optional[int] = ..., outbox: _Optional[_Union[OutboxState, _Mapping]] = ..., keyed: _Optional[bool] = ..., blocked: _Optional[int] = ...) -> None: ...

class OutboxState(_message.Message):
    __slots__ = ("mark", "tail", "pending", "retries", "retry_mark", "gave_up")
    MARK_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    RETRY_MARK_FIELD_NUMBER: _ClassVar[int]
    GAVE_UP_FIELD_NUMBER: _ClassVar[int]
    mark: int
    tail: int
    pending: int
    retries: int
    retry_mark: bytes
    gave_up: int
    def __init__(self, mark: _Optional[int] = ..., tail: _Optional[int] = ..., pending: _Optional[int] = ..., retries: _Optional[int] = ..., retry_mark: _Optional[bytes] = ..., gave_up: _Optional[int] = ...) -> None: ...

class OutboxRow(_message.Message):
    __slots__ = ("home", "state", "status", "ended_ms", "ended_lsn", "epoch", "error", "due_ms", "tries", "attempts_total", "attempts")
    HOME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ENDED_MS_FIELD_NUMBER: _ClassVar[int]
    ENDED_LSN_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DUE_MS_FIELD_NUMBER: _ClassVar[int]
    TRIES_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    home: int
    state: CallbackState
    status: int
    ended_ms: int
    ended_lsn: int
    epoch: int
    error: str
    due_ms: int
    tries: int
    attempts_total: int
    attempts: _containers.RepeatedCompositeFieldContainer[CallRow]
    def __init__(self, home: _Optional[int] = ..., state: _Optional[_Union[CallbackState, str]] = ..., status: _Optional[int] = ..., ended_ms: _Optional[int] = ..., ended_lsn: _Optional[int] = ..., epoch: _Optional[int] = ..., error: _Optional[str] = ..., due_ms: _Optional[int] = ..., tries: _Optional[int] = ..., attempts_total: _Optional[int] = ..., attempts: _Optional[_Iterable[_Union[CallRow, _Mapping]]] = ...) -> None: ...

class CallRow(_message.Message):
    __slots__ = ("at_ms", "status", "duration_ms", "error")
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    at_ms: int
    status: int
    duration_ms: int
    error: str
    def __init__(self, at_ms: _Optional[int] = ..., status: _Optional[int] = ..., duration_ms: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...

class EndpointRow(_message.Message):
    __slots__ = ("secrets", "changed_ms", "paused", "failing_since_ms", "disabled")
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    CHANGED_MS_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    FAILING_SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    DISABLED_FIELD_NUMBER: _ClassVar[int]
    secrets: _containers.RepeatedScalarFieldContainer[str]
    changed_ms: int
    paused: bool
    failing_since_ms: int
    disabled: bool
    def __init__(self, secrets: _Optional[_Iterable[str]] = ..., changed_ms: _Optional[int] = ..., paused: _Optional[bool] = ..., failing_since_ms: _Optional[int] = ..., disabled: _Optional[bool] = ...) -> None: ...

class TenantRow(_message.Message):
    __slots__ = ("limits", "created_total", "delivered_total", "completed_total", "failed_total", "accepted_bytes_total")
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    CREATED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    FAILED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    limits: LimitsRow
    created_total: int
    delivered_total: int
    completed_total: int
    failed_total: int
    accepted_bytes_total: int
    def __init__(self, limits: _Optional[_Union[LimitsRow, _Mapping]] = ..., created_total: _Optional[int] = ..., delivered_total: _Optional[int] = ..., completed_total: _Optional[int] = ..., failed_total: _Optional[int] = ..., accepted_bytes_total: _Optional[int] = ...) -> None: ...

class LimitsRow(_message.Message):
    __slots__ = ("producer", "worker", "admin", "producer_token", "worker_token", "admin_token", "waiting_tasks_max", "stored_bytes_max", "leases_max", "queues_max", "streams_max", "new_queues_per_minute")
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    ADMIN_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WORKER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ADMIN_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WAITING_TASKS_MAX_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    LEASES_MAX_FIELD_NUMBER: _ClassVar[int]
    QUEUES_MAX_FIELD_NUMBER: _ClassVar[int]
    STREAMS_MAX_FIELD_NUMBER: _ClassVar[int]
    NEW_QUEUES_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    producer: RateRow
    worker: RateRow
    admin: RateRow
    producer_token: RateRow
    worker_token: RateRow
    admin_token: RateRow
    waiting_tasks_max: int
    stored_bytes_max: int
    leases_max: int
    queues_max: int
    streams_max: int
    new_queues_per_minute: int
    def __init__(self, producer: _Optional[_Union[RateRow, _Mapping]] = ..., worker: _Optional[_Union[RateRow, _Mapping]] = ..., admin: _Optional[_Union[RateRow, _Mapping]] = ..., producer_token: _Optional[_Union[RateRow, _Mapping]] = ..., worker_token: _Optional[_Union[RateRow, _Mapping]] = ..., admin_token: _Optional[_Union[RateRow, _Mapping]] = ..., waiting_tasks_max: _Optional[int] = ..., stored_bytes_max: _Optional[int] = ..., leases_max: _Optional[int] = ..., queues_max: _Optional[int] = ..., streams_max: _Optional[int] = ..., new_queues_per_minute: _Optional[int] = ...) -> None: ...

class RateRow(_message.Message):
    __slots__ = ("requests_per_minute", "burst_size")
    REQUESTS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    BURST_SIZE_FIELD_NUMBER: _ClassVar[int]
    requests_per_minute: int
    burst_size: int
    def __init__(self, requests_per_minute: _Optional[int] = ..., burst_size: _Optional[int] = ...) -> None: ...

class TopicRow(_message.Message):
    __slots__ = ("tenant", "command", "policy", "version", "created_ms", "updated_ms")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    UPDATED_MS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    command: str
    policy: PolicyRow
    version: int
    created_ms: int
    updated_ms: int
    def __init__(self, tenant: _Optional[str] = ..., command: _Optional[str] = ..., policy: _Optional[_Union[PolicyRow, _Mapping]] = ..., version: _Optional[int] = ..., created_ms: _Optional[int] = ..., updated_ms: _Optional[int] = ...) -> None: ...

class PolicyRow(_message.Message):
    __slots__ = ("priority_tiers", "max_attempts", "dead_letter_topic_ref", "retention_seconds", "max_consumers", "default_priority", "completed_retention_seconds", "failed_retention_seconds", "dlq_retention_seconds", "default_lease_seconds", "default_expire_seconds", "backoff", "webhook", "payload_bytes_max", "payload_schema", "concurrency_per_key", "rate_per_second", "rate_burst", "rate_per_key_per_second", "at_key_limit", "concurrency_key_path", "rate_key_path", "ordering_key_path")
    PRIORITY_TIERS_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTER_TOPIC_REF_FIELD_NUMBER: _ClassVar[int]
    RETENTION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_CONSUMERS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_PRIORITY_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_RETENTION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FAILED_RETENTION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DLQ_RETENTION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_EXPIRE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BACKOFF_FIELD_NUMBER: _ClassVar[int]
    WEBHOOK_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_PER_KEY_FIELD_NUMBER: _ClassVar[int]
    RATE_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    RATE_BURST_FIELD_NUMBER: _ClassVar[int]
    RATE_PER_KEY_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    AT_KEY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_KEY_PATH_FIELD_NUMBER: _ClassVar[int]
    RATE_KEY_PATH_FIELD_NUMBER: _ClassVar[int]
    ORDERING_KEY_PATH_FIELD_NUMBER: _ClassVar[int]
    priority_tiers: _containers.RepeatedScalarFieldContainer[int]
    max_attempts: int
    dead_letter_topic_ref: str
    retention_seconds: int
    max_consumers: int
    default_priority: int
    completed_retention_seconds: int
    failed_retention_seconds: int
    dlq_retention_seconds: int
    default_lease_seconds: int
    default_expire_seconds: int
    backoff: BackoffRow
    webhook: str
    payload_bytes_max: int
    payload_schema: bytes
    concurrency_per_key: int
    rate_per_second: float
    rate_burst: int
    rate_per_key_per_second: float
    at_key_limit: str
    concurrency_key_path: str
    rate_key_path: str
    ordering_key_path: str
    def __init__(self, priority_tiers: _Optional[_Iterable[int]] = ..., max_attempts: _Optional[int] = ..., dead_letter_topic_ref: _Optional[str] = ..., retention_seconds: _Optional[int] = ..., max_consumers: _Optional[int] = ..., default_priority: _Optional[int] = ..., completed_retention_seconds: _Optional[int] = ..., failed_retention_seconds: _Optional[int] = ..., dlq_retention_seconds: _Optional[int] = ..., default_lease_seconds: _Optional[int] = ..., default_expire_seconds: _Optional[int] = ..., backoff: _Optional[_Union[BackoffRow, _Mapping]] = ..., webhook: _Optional[str] = ..., payload_bytes_max: _Optional[int] = ..., payload_schema: _Optional[bytes] = ..., concurrency_per_key: _Optional[int] = ..., rate_per_second: _Optional[float] = ..., rate_burst: _Optional[int] = ..., rate_per_key_per_second: _Optional[float] = ..., at_key_limit: _Optional[str] = ..., concurrency_key_path: _Optional[str] = ..., rate_key_path: _Optional[str] = ..., ordering_key_path: _Optional[str] = ...) -> None: ...

class BackoffRow(_message.Message):
    __slots__ = ("policy", "base_seconds", "max_seconds")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    BASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    policy: str
    base_seconds: int
    max_seconds: int
    def __init__(self, policy: _Optional[str] = ..., base_seconds: _Optional[int] = ..., max_seconds: _Optional[int] = ...) -> None: ...

class AuditRow(_message.Message):
    __slots__ = ("at_ms", "subject", "tenant", "call", "object", "before", "after", "outcome", "origin", "count")
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    at_ms: int
    subject: str
    tenant: str
    call: str
    object: str
    before: str
    after: str
    outcome: str
    origin: str
    count: int
    def __init__(self, at_ms: _Optional[int] = ..., subject: _Optional[str] = ..., tenant: _Optional[str] = ..., call: _Optional[str] = ..., object: _Optional[str] = ..., before: _Optional[str] = ..., after: _Optional[str] = ..., outcome: _Optional[str] = ..., origin: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class PurgeState(_message.Message):
    __slots__ = ("at_ms", "tails")
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    TAILS_FIELD_NUMBER: _ClassVar[int]
    at_ms: int
    tails: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, at_ms: _Optional[int] = ..., tails: _Optional[_Iterable[int]] = ...) -> None: ...

class LaneState(_message.Message):
    __slots__ = ("lane", "mark", "tail", "ready")
    LANE_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    lane: int
    mark: int
    tail: int
    ready: int
    def __init__(self, lane: _Optional[int] = ..., mark: _Optional[int] = ..., tail: _Optional[int] = ..., ready: _Optional[int] = ...) -> None: ...

class StateRow(_message.Message):
    __slots__ = ("ended_lsn", "ended_token", "outcome", "attempts", "abandons", "place", "place_lane", "place_at", "worker", "changed_ms", "status", "delay_ms", "error", "result", "subject", "progress", "redriven_lsn", "artifacts", "deliveries", "started_ms", "callbacks", "blocked", "ordering_number")
    ENDED_LSN_FIELD_NUMBER: _ClassVar[int]
    ENDED_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    ABANDONS_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    PLACE_LANE_FIELD_NUMBER: _ClassVar[int]
    PLACE_AT_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    CHANGED_MS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    REDRIVEN_LSN_FIELD_NUMBER: _ClassVar[int]
    ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    CALLBACKS_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    ORDERING_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ended_lsn: int
    ended_token: int
    outcome: int
    attempts: int
    abandons: int
    place: PlaceKind
    place_lane: int
    place_at: int
    worker: str
    changed_ms: int
    status: int
    delay_ms: int
    error: str
    result: bytes
    subject: str
    progress: bytes
    redriven_lsn: int
    artifacts: _containers.RepeatedCompositeFieldContainer[ArtifactRow]
    deliveries: _containers.RepeatedCompositeFieldContainer[DeliveryRow]
    started_ms: int
    callbacks: _containers.RepeatedScalarFieldContainer[int]
    blocked: bytes
    ordering_number: int
    def __init__(self, ended_lsn: _Optional[int] = ..., ended_token: _Optional[int] = ..., outcome: _Optional[int] = ..., attempts: _Optional[int] = ..., abandons: _Optional[int] = ..., place: _Optional[_Union[PlaceKind, str]] = ..., place_lane: _Optional[int] = ..., place_at: _Optional[int] = ..., worker: _Optional[str] = ..., changed_ms: _Optional[int] = ..., status: _Optional[int] = ..., delay_ms: _Optional[int] = ..., error: _Optional[str] = ..., result: _Optional[bytes] = ..., subject: _Optional[str] = ..., progress: _Optional[bytes] = ..., redriven_lsn: _Optional[int] = ..., artifacts: _Optional[_Iterable[_Union[ArtifactRow, _Mapping]]] = ..., deliveries: _Optional[_Iterable[_Union[DeliveryRow, _Mapping]]] = ..., started_ms: _Optional[int] = ..., callbacks: _Optional[_Iterable[int]] = ..., blocked: _Optional[bytes] = ..., ordering_number: _Optional[int] = ...) -> None: ...

class DeliveryRow(_message.Message):
    __slots__ = ("worker", "started_ms", "ended_ms", "end", "error")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    ENDED_MS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    worker: str
    started_ms: int
    ended_ms: int
    end: int
    error: str
    def __init__(self, worker: _Optional[str] = ..., started_ms: _Optional[int] = ..., ended_ms: _Optional[int] = ..., end: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...

class ArtifactRow(_message.Message):
    __slots__ = ("name", "url", "content_type", "file", "size", "sha256", "chunks")
    NAME_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    name: str
    url: str
    content_type: str
    file: bytes
    size: int
    sha256: bytes
    chunks: int
    def __init__(self, name: _Optional[str] = ..., url: _Optional[str] = ..., content_type: _Optional[str] = ..., file: _Optional[bytes] = ..., size: _Optional[int] = ..., sha256: _Optional[bytes] = ..., chunks: _Optional[int] = ...) -> None: ...

class LeaseRow(_message.Message):
    __slots__ = ("worker", "lease_ms", "claimed_ms", "queues", "homes", "places", "attempts", "subject")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    CLAIMED_MS_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    HOMES_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    worker: str
    lease_ms: int
    claimed_ms: int
    queues: _containers.RepeatedScalarFieldContainer[int]
    homes: _containers.RepeatedScalarFieldContainer[int]
    places: _containers.RepeatedScalarFieldContainer[int]
    attempts: _containers.RepeatedScalarFieldContainer[int]
    subject: str
    def __init__(self, worker: _Optional[str] = ..., lease_ms: _Optional[int] = ..., claimed_ms: _Optional[int] = ..., queues: _Optional[_Iterable[int]] = ..., homes: _Optional[_Iterable[int]] = ..., places: _Optional[_Iterable[int]] = ..., attempts: _Optional[_Iterable[int]] = ..., subject: _Optional[str] = ...) -> None: ...

class ExtensionRow(_message.Message):
    __slots__ = ("homes", "lease_ms", "queues")
    HOMES_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    homes: _containers.RepeatedScalarFieldContainer[int]
    lease_ms: _containers.RepeatedScalarFieldContainer[int]
    queues: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, homes: _Optional[_Iterable[int]] = ..., lease_ms: _Optional[_Iterable[int]] = ..., queues: _Optional[_Iterable[int]] = ...) -> None: ...

class EndedRow(_message.Message):
    __slots__ = ("lsn", "queues", "homes")
    LSN_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    HOMES_FIELD_NUMBER: _ClassVar[int]
    lsn: int
    queues: _containers.RepeatedScalarFieldContainer[int]
    homes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, lsn: _Optional[int] = ..., queues: _Optional[_Iterable[int]] = ..., homes: _Optional[_Iterable[int]] = ...) -> None: ...

class NameRow(_message.Message):
    __slots__ = ("queue", "home", "epoch", "digest", "batch", "batch_tasks", "batch_left", "meaning")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    HOME_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    BATCH_TASKS_FIELD_NUMBER: _ClassVar[int]
    BATCH_LEFT_FIELD_NUMBER: _ClassVar[int]
    MEANING_FIELD_NUMBER: _ClassVar[int]
    queue: int
    home: int
    epoch: int
    digest: bytes
    batch: str
    batch_tasks: int
    batch_left: int
    meaning: bytes
    def __init__(self, queue: _Optional[int] = ..., home: _Optional[int] = ..., epoch: _Optional[int] = ..., digest: _Optional[bytes] = ..., batch: _Optional[str] = ..., batch_tasks: _Optional[int] = ..., batch_left: _Optional[int] = ..., meaning: _Optional[bytes] = ...) -> None: ...

class ScheduleRow(_message.Message):
    __slots__ = ("cron", "every", "at_ms", "time_zone", "command", "payload", "priority", "max_attempts", "delay_ms", "expire_ms", "overlap", "misfire", "misfire_max", "jitter_ms", "start_ms", "end_ms", "paused", "generation", "created_ms", "updated_ms", "next_ms", "complete", "after_ms", "tzdata", "running", "queued_ms", "fired_total", "skipped_total", "missed_total", "resumed_ms")
    CRON_FIELD_NUMBER: _ClassVar[int]
    EVERY_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_MS_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    MISFIRE_FIELD_NUMBER: _ClassVar[int]
    MISFIRE_MAX_FIELD_NUMBER: _ClassVar[int]
    JITTER_MS_FIELD_NUMBER: _ClassVar[int]
    START_MS_FIELD_NUMBER: _ClassVar[int]
    END_MS_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    UPDATED_MS_FIELD_NUMBER: _ClassVar[int]
    NEXT_MS_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    TZDATA_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    QUEUED_MS_FIELD_NUMBER: _ClassVar[int]
    FIRED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    MISSED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    RESUMED_MS_FIELD_NUMBER: _ClassVar[int]
    cron: str
    every: str
    at_ms: int
    time_zone: str
    command: str
    payload: bytes
    priority: int
    max_attempts: int
    delay_ms: int
    expire_ms: int
    overlap: str
    misfire: str
    misfire_max: int
    jitter_ms: int
    start_ms: int
    end_ms: int
    paused: bool
    generation: int
    created_ms: int
    updated_ms: int
    next_ms: _containers.RepeatedScalarFieldContainer[int]
    complete: bool
    after_ms: int
    tzdata: str
    running: _containers.RepeatedScalarFieldContainer[str]
    queued_ms: int
    fired_total: int
    skipped_total: int
    missed_total: int
    resumed_ms: int
    def __init__(self, cron: _Optional[str] = ..., every: _Optional[str] = ..., at_ms: _Optional[int] = ..., time_zone: _Optional[str] = ..., command: _Optional[str] = ..., payload: _Optional[bytes] = ..., priority: _Optional[int] = ..., max_attempts: _Optional[int] = ..., delay_ms: _Optional[int] = ..., expire_ms: _Optional[int] = ..., overlap: _Optional[str] = ..., misfire: _Optional[str] = ..., misfire_max: _Optional[int] = ..., jitter_ms: _Optional[int] = ..., start_ms: _Optional[int] = ..., end_ms: _Optional[int] = ..., paused: _Optional[bool] = ..., generation: _Optional[int] = ..., created_ms: _Optional[int] = ..., updated_ms: _Optional[int] = ..., next_ms: _Optional[_Iterable[int]] = ..., complete: _Optional[bool] = ..., after_ms: _Optional[int] = ..., tzdata: _Optional[str] = ..., running: _Optional[_Iterable[str]] = ..., queued_ms: _Optional[int] = ..., fired_total: _Optional[int] = ..., skipped_total: _Optional[int] = ..., missed_total: _Optional[int] = ..., resumed_ms: _Optional[int] = ...) -> None: ...

class FireRow(_message.Message):
    __slots__ = ("instant_ms", "fired_ms", "kind", "task_id")
    INSTANT_MS_FIELD_NUMBER: _ClassVar[int]
    FIRED_MS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    instant_ms: int
    fired_ms: int
    kind: int
    task_id: str
    def __init__(self, instant_ms: _Optional[int] = ..., fired_ms: _Optional[int] = ..., kind: _Optional[int] = ..., task_id: _Optional[str] = ...) -> None: ...

class SubscriptionRow(_message.Message):
    __slots__ = ("url", "commands", "mode", "group", "interval_ms", "ttl_ms", "subject", "created_ms", "expires_ms")
    URL_FIELD_NUMBER: _ClassVar[int]
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_MS_FIELD_NUMBER: _ClassVar[int]
    url: str
    commands: _containers.RepeatedScalarFieldContainer[str]
    mode: SignalMode
    group: str
    interval_ms: int
    ttl_ms: int
    subject: str
    created_ms: int
    expires_ms: int
    def __init__(self, url: _Optional[str] = ..., commands: _Optional[_Iterable[str]] = ..., mode: _Optional[_Union[SignalMode, str]] = ..., group: _Optional[str] = ..., interval_ms: _Optional[int] = ..., ttl_ms: _Optional[int] = ..., subject: _Optional[str] = ..., created_ms: _Optional[int] = ..., expires_ms: _Optional[int] = ...) -> None: ...
