import datetime

from buf.validate import validate_pb2 as _validate_pb2
from codeq.options.v1 import options_pb2 as _options_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class QueuePolicy(_message.Message):
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
    backoff: Backoff
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
    def __init__(self, priority_tiers: _Optional[_Iterable[int]] = ..., max_attempts: _Optional[int] = ..., dead_letter_topic_ref: _Optional[str] = ..., retention_seconds: _Optional[int] = ..., max_consumers: _Optional[int] = ..., default_priority: _Optional[int] = ..., completed_retention_seconds: _Optional[int] = ..., failed_retention_seconds: _Optional[int] = ..., dlq_retention_seconds: _Optional[int] = ..., default_lease_seconds: _Optional[int] = ..., default_expire_seconds: _Optional[int] = ..., backoff: _Optional[_Union[Backoff, _Mapping]] = ..., webhook: _Optional[str] = ..., payload_bytes_max: _Optional[int] = ..., payload_schema: _Optional[bytes] = ..., concurrency_per_key: _Optional[int] = ..., rate_per_second: _Optional[float] = ..., rate_burst: _Optional[int] = ..., rate_per_key_per_second: _Optional[float] = ..., at_key_limit: _Optional[str] = ..., concurrency_key_path: _Optional[str] = ..., rate_key_path: _Optional[str] = ..., ordering_key_path: _Optional[str] = ...) -> None: ...

class Backoff(_message.Message):
    __slots__ = ("policy", "base_seconds", "max_seconds")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    BASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    policy: str
    base_seconds: int
    max_seconds: int
    def __init__(self, policy: _Optional[str] = ..., base_seconds: _Optional[int] = ..., max_seconds: _Optional[int] = ...) -> None: ...

class Topic(_message.Message):
    __slots__ = ("topic_id", "tenant_id", "topic_name", "policy", "version", "created_at", "updated_at", "created")
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_NAME_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    topic_id: str
    tenant_id: str
    topic_name: str
    policy: QueuePolicy
    version: int
    created_at: _timestamp_pb2.Timestamp
    updated_at: _timestamp_pb2.Timestamp
    created: bool
    def __init__(self, topic_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., topic_name: _Optional[str] = ..., policy: _Optional[_Union[QueuePolicy, _Mapping]] = ..., version: _Optional[int] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., updated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created: _Optional[bool] = ...) -> None: ...

class PutTopicRequest(_message.Message):
    __slots__ = ("command", "policy", "tenant")
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    command: str
    policy: QueuePolicy
    tenant: str
    def __init__(self, command: _Optional[str] = ..., policy: _Optional[_Union[QueuePolicy, _Mapping]] = ..., tenant: _Optional[str] = ...) -> None: ...

class PutTopicResponse(_message.Message):
    __slots__ = ("topic",)
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    topic: Topic
    def __init__(self, topic: _Optional[_Union[Topic, _Mapping]] = ...) -> None: ...

class GetTopicRequest(_message.Message):
    __slots__ = ("command", "tenant")
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    command: str
    tenant: str
    def __init__(self, command: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class GetTopicResponse(_message.Message):
    __slots__ = ("topic",)
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    topic: Topic
    def __init__(self, topic: _Optional[_Union[Topic, _Mapping]] = ...) -> None: ...

class ListTopicsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "tenant")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    tenant: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class ListTopicsResponse(_message.Message):
    __slots__ = ("topics", "next_page_token")
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    topics: _containers.RepeatedCompositeFieldContainer[Topic]
    next_page_token: str
    def __init__(self, topics: _Optional[_Iterable[_Union[Topic, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteTopicRequest(_message.Message):
    __slots__ = ("command", "deletion_policy", "tenant")
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    DELETION_POLICY_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    command: str
    deletion_policy: str
    tenant: str
    def __init__(self, command: _Optional[str] = ..., deletion_policy: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class DeleteTopicResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
