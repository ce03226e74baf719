import datetime

from buf.validate import validate_pb2 as _validate_pb2
from codeq.options.v1 import options_pb2 as _options_pb2
from codeq.v1 import error_pb2 as _error_pb2
from codeq.v1 import producer_service_pb2 as _producer_service_pb2
from codeq.v1 import task_pb2 as _task_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WorkRequest(_message.Message):
    __slots__ = ("hello", "add_credits", "add_credit_bytes", "outcomes", "heartbeats", "drain", "progress", "artifacts", "token", "return_credits")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    ADD_CREDITS_FIELD_NUMBER: _ClassVar[int]
    ADD_CREDIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    HEARTBEATS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    RETURN_CREDITS_FIELD_NUMBER: _ClassVar[int]
    hello: WorkerHello
    add_credits: int
    add_credit_bytes: int
    outcomes: _containers.RepeatedCompositeFieldContainer[_task_pb2.Outcome]
    heartbeats: _containers.RepeatedCompositeFieldContainer[Heartbeat]
    drain: bool
    progress: _containers.RepeatedCompositeFieldContainer[Progress]
    artifacts: _containers.RepeatedCompositeFieldContainer[OutcomeArtifacts]
    token: str
    return_credits: int
    def __init__(self, hello: _Optional[_Union[WorkerHello, _Mapping]] = ..., add_credits: _Optional[int] = ..., add_credit_bytes: _Optional[int] = ..., outcomes: _Optional[_Iterable[_Union[_task_pb2.Outcome, _Mapping]]] = ..., heartbeats: _Optional[_Iterable[_Union[Heartbeat, _Mapping]]] = ..., drain: _Optional[bool] = ..., progress: _Optional[_Iterable[_Union[Progress, _Mapping]]] = ..., artifacts: _Optional[_Iterable[_Union[OutcomeArtifacts, _Mapping]]] = ..., token: _Optional[str] = ..., return_credits: _Optional[int] = ...) -> None: ...

class WorkResponse(_message.Message):
    __slots__ = ("welcome", "tasks", "settled", "outcome_errors", "extended", "lost", "cancelled", "notice", "returned_credits")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_ERRORS_FIELD_NUMBER: _ClassVar[int]
    EXTENDED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    RETURNED_CREDITS_FIELD_NUMBER: _ClassVar[int]
    welcome: WorkerWelcome
    tasks: _containers.RepeatedCompositeFieldContainer[_task_pb2.Task]
    settled: int
    outcome_errors: _containers.RepeatedCompositeFieldContainer[OutcomeError]
    extended: _containers.RepeatedCompositeFieldContainer[LeaseGrant]
    lost: _containers.RepeatedCompositeFieldContainer[LostLease]
    cancelled: _containers.RepeatedCompositeFieldContainer[LostLease]
    notice: _producer_service_pb2.StreamNotice
    returned_credits: int
    def __init__(self, welcome: _Optional[_Union[WorkerWelcome, _Mapping]] = ..., tasks: _Optional[_Iterable[_Union[_task_pb2.Task, _Mapping]]] = ..., settled: _Optional[int] = ..., outcome_errors: _Optional[_Iterable[_Union[OutcomeError, _Mapping]]] = ..., extended: _Optional[_Iterable[_Union[LeaseGrant, _Mapping]]] = ..., lost: _Optional[_Iterable[_Union[LostLease, _Mapping]]] = ..., cancelled: _Optional[_Iterable[_Union[LostLease, _Mapping]]] = ..., notice: _Optional[_Union[_producer_service_pb2.StreamNotice, _Mapping]] = ..., returned_credits: _Optional[int] = ...) -> None: ...

class WorkerHello(_message.Message):
    __slots__ = ("name", "commands", "lease_seconds", "client", "only_shard")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    ONLY_SHARD_FIELD_NUMBER: _ClassVar[int]
    name: str
    commands: _containers.RepeatedScalarFieldContainer[str]
    lease_seconds: int
    client: _producer_service_pb2.ClientInfo
    only_shard: ShardChoice
    def __init__(self, name: _Optional[str] = ..., commands: _Optional[_Iterable[str]] = ..., lease_seconds: _Optional[int] = ..., client: _Optional[_Union[_producer_service_pb2.ClientInfo, _Mapping]] = ..., only_shard: _Optional[_Union[ShardChoice, _Mapping]] = ...) -> None: ...

class ShardChoice(_message.Message):
    __slots__ = ("shard", "shards")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    shard: int
    shards: int
    def __init__(self, shard: _Optional[int] = ..., shards: _Optional[int] = ...) -> None: ...

class WorkerWelcome(_message.Message):
    __slots__ = ("tenant_id", "worker_id", "lease_seconds", "credits_max", "server_version", "protocol", "shard", "shards")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CREDITS_MAX_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    worker_id: str
    lease_seconds: int
    credits_max: int
    server_version: str
    protocol: int
    shard: int
    shards: int
    def __init__(self, tenant_id: _Optional[str] = ..., worker_id: _Optional[str] = ..., lease_seconds: _Optional[int] = ..., credits_max: _Optional[int] = ..., server_version: _Optional[str] = ..., protocol: _Optional[int] = ..., shard: _Optional[int] = ..., shards: _Optional[int] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("task_id", "lease_token", "extend_seconds")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXTEND_SECONDS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    lease_token: int
    extend_seconds: int
    def __init__(self, task_id: _Optional[str] = ..., lease_token: _Optional[int] = ..., extend_seconds: _Optional[int] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("task_id", "lease_token", "progress")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    lease_token: int
    progress: bytes
    def __init__(self, task_id: _Optional[str] = ..., lease_token: _Optional[int] = ..., progress: _Optional[bytes] = ...) -> None: ...

class OutcomeArtifacts(_message.Message):
    __slots__ = ("task_id", "lease_token", "artifacts")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    lease_token: int
    artifacts: _containers.RepeatedCompositeFieldContainer[_task_pb2.NewArtifact]
    def __init__(self, task_id: _Optional[str] = ..., lease_token: _Optional[int] = ..., artifacts: _Optional[_Iterable[_Union[_task_pb2.NewArtifact, _Mapping]]] = ...) -> None: ...

class LeaseGrant(_message.Message):
    __slots__ = ("task_id", "lease_token", "lease_until")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LEASE_UNTIL_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    lease_token: int
    lease_until: _timestamp_pb2.Timestamp
    def __init__(self, task_id: _Optional[str] = ..., lease_token: _Optional[int] = ..., lease_until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class LostLease(_message.Message):
    __slots__ = ("task_id", "lease_token", "reason")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    lease_token: int
    reason: _error_pb2.ErrorReason
    def __init__(self, task_id: _Optional[str] = ..., lease_token: _Optional[int] = ..., reason: _Optional[_Union[_error_pb2.ErrorReason, str]] = ...) -> None: ...

class OutcomeError(_message.Message):
    __slots__ = ("number", "task_id", "reason", "message")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    number: int
    task_id: str
    reason: _error_pb2.ErrorReason
    message: str
    def __init__(self, number: _Optional[int] = ..., task_id: _Optional[str] = ..., reason: _Optional[_Union[_error_pb2.ErrorReason, str]] = ..., message: _Optional[str] = ...) -> None: ...
