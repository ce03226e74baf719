import datetime

from buf.validate import validate_pb2 as _validate_pb2
from codeq.options.v1 import options_pb2 as _options_pb2
from codeq.v1 import error_pb2 as _error_pb2
from codeq.v1 import task_pb2 as _task_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WaitReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WAIT_REASON_UNSPECIFIED: _ClassVar[WaitReason]
    WAIT_REASON_QUEUED: _ClassVar[WaitReason]
    WAIT_REASON_PAUSED: _ClassVar[WaitReason]
    WAIT_REASON_DELAYED: _ClassVar[WaitReason]
    WAIT_REASON_NO_WORKER: _ClassVar[WaitReason]
    WAIT_REASON_LEASED: _ClassVar[WaitReason]
    WAIT_REASON_ENDED: _ClassVar[WaitReason]
    WAIT_REASON_PURGING: _ClassVar[WaitReason]
    WAIT_REASON_LIMITED: _ClassVar[WaitReason]
    WAIT_REASON_KEY: _ClassVar[WaitReason]

class KeyKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KEY_KIND_UNSPECIFIED: _ClassVar[KeyKind]
    KEY_KIND_CONCURRENCY: _ClassVar[KeyKind]
    KEY_KIND_RATE: _ClassVar[KeyKind]
    KEY_KIND_ORDERING: _ClassVar[KeyKind]
WAIT_REASON_UNSPECIFIED: WaitReason
WAIT_REASON_QUEUED: WaitReason
WAIT_REASON_PAUSED: WaitReason
WAIT_REASON_DELAYED: WaitReason
WAIT_REASON_NO_WORKER: WaitReason
WAIT_REASON_LEASED: WaitReason
WAIT_REASON_ENDED: WaitReason
WAIT_REASON_PURGING: WaitReason
WAIT_REASON_LIMITED: WaitReason
WAIT_REASON_KEY: WaitReason
KEY_KIND_UNSPECIFIED: KeyKind
KEY_KIND_CONCURRENCY: KeyKind
KEY_KIND_RATE: KeyKind
KEY_KIND_ORDERING: KeyKind

class CreateTaskRequest(_message.Message):
    __slots__ = ("spec",)
    SPEC_FIELD_NUMBER: _ClassVar[int]
    spec: _task_pb2.TaskSpec
    def __init__(self, spec: _Optional[_Union[_task_pb2.TaskSpec, _Mapping]] = ...) -> None: ...

class CreateTaskResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ...) -> None: ...

class BatchCreateTasksRequest(_message.Message):
    __slots__ = ("tasks", "atomic", "idempotency_key")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    ATOMIC_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[_task_pb2.TaskSpec]
    atomic: bool
    idempotency_key: str
    def __init__(self, tasks: _Optional[_Iterable[_Union[_task_pb2.TaskSpec, _Mapping]]] = ..., atomic: _Optional[bool] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class BatchCreateTasksResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[CreateTaskAnswer]
    def __init__(self, results: _Optional[_Iterable[_Union[CreateTaskAnswer, _Mapping]]] = ...) -> None: ...

class CreateTaskAnswer(_message.Message):
    __slots__ = ("task", "error")
    TASK_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    error: _error_pb2.ItemError
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ..., error: _Optional[_Union[_error_pb2.ItemError, _Mapping]] = ...) -> None: ...

class ClaimTaskRequest(_message.Message):
    __slots__ = ("commands", "lease_seconds", "wait_seconds")
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    commands: _containers.RepeatedScalarFieldContainer[str]
    lease_seconds: int
    wait_seconds: int
    def __init__(self, commands: _Optional[_Iterable[str]] = ..., lease_seconds: _Optional[int] = ..., wait_seconds: _Optional[int] = ...) -> None: ...

class ClaimTaskResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ...) -> None: ...

class ClaimTasksRequest(_message.Message):
    __slots__ = ("commands", "lease_seconds", "wait_seconds", "count")
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    commands: _containers.RepeatedScalarFieldContainer[str]
    lease_seconds: int
    wait_seconds: int
    count: int
    def __init__(self, commands: _Optional[_Iterable[str]] = ..., lease_seconds: _Optional[int] = ..., wait_seconds: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class ClaimTasksResponse(_message.Message):
    __slots__ = ("tasks",)
    TASKS_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[_task_pb2.Task]
    def __init__(self, tasks: _Optional[_Iterable[_Union[_task_pb2.Task, _Mapping]]] = ...) -> None: ...

class HeartbeatTaskRequest(_message.Message):
    __slots__ = ("task_id", "lease_token", "extend_seconds")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXTEND_SECONDS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    lease_token: int
    extend_seconds: int
    def __init__(self, task_id: _Optional[str] = ..., lease_token: _Optional[int] = ..., extend_seconds: _Optional[int] = ...) -> None: ...

class HeartbeatTaskResponse(_message.Message):
    __slots__ = ("lease_token", "lease_until")
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LEASE_UNTIL_FIELD_NUMBER: _ClassVar[int]
    lease_token: int
    lease_until: _timestamp_pb2.Timestamp
    def __init__(self, lease_token: _Optional[int] = ..., lease_until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class SubmitResultRequest(_message.Message):
    __slots__ = ("task_id", "lease_token", "status", "result", "error", "worker_id", "artifacts")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    lease_token: int
    status: _task_pb2.TaskStatus
    result: bytes
    error: str
    worker_id: str
    artifacts: _containers.RepeatedCompositeFieldContainer[_task_pb2.NewArtifact]
    def __init__(self, task_id: _Optional[str] = ..., lease_token: _Optional[int] = ..., status: _Optional[_Union[_task_pb2.TaskStatus, str]] = ..., result: _Optional[bytes] = ..., error: _Optional[str] = ..., worker_id: _Optional[str] = ..., artifacts: _Optional[_Iterable[_Union[_task_pb2.NewArtifact, _Mapping]]] = ...) -> None: ...

class SubmitResultResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: _task_pb2.TaskResult
    def __init__(self, result: _Optional[_Union[_task_pb2.TaskResult, _Mapping]] = ...) -> None: ...

class BatchSubmitResultsRequest(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[SubmitResultRequest]
    def __init__(self, results: _Optional[_Iterable[_Union[SubmitResultRequest, _Mapping]]] = ...) -> None: ...

class BatchSubmitResultsResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[SubmitResultAnswer]
    def __init__(self, results: _Optional[_Iterable[_Union[SubmitResultAnswer, _Mapping]]] = ...) -> None: ...

class SubmitResultAnswer(_message.Message):
    __slots__ = ("task_id", "result", "error")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    result: _task_pb2.TaskResult
    error: _error_pb2.ItemError
    def __init__(self, task_id: _Optional[str] = ..., result: _Optional[_Union[_task_pb2.TaskResult, _Mapping]] = ..., error: _Optional[_Union[_error_pb2.ItemError, _Mapping]] = ...) -> None: ...

class NackTaskRequest(_message.Message):
    __slots__ = ("task_id", "lease_token", "delay_seconds", "reason")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    DELAY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    lease_token: int
    delay_seconds: int
    reason: str
    def __init__(self, task_id: _Optional[str] = ..., lease_token: _Optional[int] = ..., delay_seconds: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class NackTaskResponse(_message.Message):
    __slots__ = ("status", "delay_seconds")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DELAY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    status: _task_pb2.TaskStatus
    delay_seconds: int
    def __init__(self, status: _Optional[_Union[_task_pb2.TaskStatus, str]] = ..., delay_seconds: _Optional[int] = ...) -> None: ...

class AbandonTaskRequest(_message.Message):
    __slots__ = ("task_id", "lease_token", "delay_seconds", "park_key")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    DELAY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PARK_KEY_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    lease_token: int
    delay_seconds: int
    park_key: bool
    def __init__(self, task_id: _Optional[str] = ..., lease_token: _Optional[int] = ..., delay_seconds: _Optional[int] = ..., park_key: _Optional[bool] = ...) -> None: ...

class AbandonTaskResponse(_message.Message):
    __slots__ = ("status", "delay_seconds")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DELAY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    status: _task_pb2.TaskStatus
    delay_seconds: int
    def __init__(self, status: _Optional[_Union[_task_pb2.TaskStatus, str]] = ..., delay_seconds: _Optional[int] = ...) -> None: ...

class ReportProgressRequest(_message.Message):
    __slots__ = ("task_id", "lease_token", "progress", "extend_seconds")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    EXTEND_SECONDS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    lease_token: int
    progress: bytes
    extend_seconds: int
    def __init__(self, task_id: _Optional[str] = ..., lease_token: _Optional[int] = ..., progress: _Optional[bytes] = ..., extend_seconds: _Optional[int] = ...) -> None: ...

class ReportProgressResponse(_message.Message):
    __slots__ = ("lease_token", "lease_until")
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LEASE_UNTIL_FIELD_NUMBER: _ClassVar[int]
    lease_token: int
    lease_until: _timestamp_pb2.Timestamp
    def __init__(self, lease_token: _Optional[int] = ..., lease_until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CancelTaskRequest(_message.Message):
    __slots__ = ("task_id", "reason")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    reason: str
    def __init__(self, task_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class CancelTaskResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ...) -> None: ...

class GetTaskRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class GetTaskResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ...) -> None: ...

class GetTaskResultRequest(_message.Message):
    __slots__ = ("task_id", "wait_seconds")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    wait_seconds: int
    def __init__(self, task_id: _Optional[str] = ..., wait_seconds: _Optional[int] = ...) -> None: ...

class GetTaskResultResponse(_message.Message):
    __slots__ = ("task", "result")
    TASK_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    result: _task_pb2.TaskResult
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ..., result: _Optional[_Union[_task_pb2.TaskResult, _Mapping]] = ...) -> None: ...

class ListTasksRequest(_message.Message):
    __slots__ = ("command", "status", "created_from", "created_to", "page_size", "page_token", "order_by")
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CREATED_FROM_FIELD_NUMBER: _ClassVar[int]
    CREATED_TO_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ORDER_BY_FIELD_NUMBER: _ClassVar[int]
    command: str
    status: _containers.RepeatedScalarFieldContainer[_task_pb2.TaskStatus]
    created_from: _timestamp_pb2.Timestamp
    created_to: _timestamp_pb2.Timestamp
    page_size: int
    page_token: str
    order_by: str
    def __init__(self, command: _Optional[str] = ..., status: _Optional[_Iterable[_Union[_task_pb2.TaskStatus, str]]] = ..., created_from: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., order_by: _Optional[str] = ...) -> None: ...

class ListTasksResponse(_message.Message):
    __slots__ = ("tasks", "next_page_token")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[_task_pb2.Task]
    next_page_token: str
    def __init__(self, tasks: _Optional[_Iterable[_Union[_task_pb2.Task, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ExplainTaskRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class KeyWait(_message.Message):
    __slots__ = ("kind", "key", "limit", "holders", "position", "parked_until")
    KIND_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    PARKED_UNTIL_FIELD_NUMBER: _ClassVar[int]
    kind: KeyKind
    key: str
    limit: float
    holders: int
    position: int
    parked_until: _timestamp_pb2.Timestamp
    def __init__(self, kind: _Optional[_Union[KeyKind, str]] = ..., key: _Optional[str] = ..., limit: _Optional[float] = ..., holders: _Optional[int] = ..., position: _Optional[int] = ..., parked_until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ExplainTaskResponse(_message.Message):
    __slots__ = ("task_id", "status", "reason", "paused", "ahead", "delay_seconds", "worker_id", "lease_until", "expire_at", "limit", "limit_max", "limit_used", "key_wait")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    DELAY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_UNTIL_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_AT_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    LIMIT_MAX_FIELD_NUMBER: _ClassVar[int]
    LIMIT_USED_FIELD_NUMBER: _ClassVar[int]
    KEY_WAIT_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    status: _task_pb2.TaskStatus
    reason: WaitReason
    paused: bool
    ahead: int
    delay_seconds: float
    worker_id: str
    lease_until: _timestamp_pb2.Timestamp
    expire_at: _timestamp_pb2.Timestamp
    limit: str
    limit_max: int
    limit_used: int
    key_wait: KeyWait
    def __init__(self, task_id: _Optional[str] = ..., status: _Optional[_Union[_task_pb2.TaskStatus, str]] = ..., reason: _Optional[_Union[WaitReason, str]] = ..., paused: _Optional[bool] = ..., ahead: _Optional[int] = ..., delay_seconds: _Optional[float] = ..., worker_id: _Optional[str] = ..., lease_until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., limit: _Optional[str] = ..., limit_max: _Optional[int] = ..., limit_used: _Optional[int] = ..., key_wait: _Optional[_Union[KeyWait, _Mapping]] = ...) -> None: ...

class RedriveTaskRequest(_message.Message):
    __slots__ = ("task_id", "tenant")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    tenant: str
    def __init__(self, task_id: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class RedriveTaskResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ...) -> None: ...

class CleanupTasksRequest(_message.Message):
    __slots__ = ("limit", "before", "page_token", "tenant")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    before: _timestamp_pb2.Timestamp
    page_token: str
    tenant: str
    def __init__(self, limit: _Optional[int] = ..., before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page_token: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class CleanupTasksResponse(_message.Message):
    __slots__ = ("deleted", "before", "limit", "next_page_token")
    DELETED_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    deleted: int
    before: _timestamp_pb2.Timestamp
    limit: int
    next_page_token: str
    def __init__(self, deleted: _Optional[int] = ..., before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., limit: _Optional[int] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetTaskArtifactRequest(_message.Message):
    __slots__ = ("task_id", "name")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    name: str
    def __init__(self, task_id: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class GetTaskArtifactResponse(_message.Message):
    __slots__ = ("name", "content_type", "content", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    content_type: str
    content: bytes
    sha256: str
    def __init__(self, name: _Optional[str] = ..., content_type: _Optional[str] = ..., content: _Optional[bytes] = ..., sha256: _Optional[str] = ...) -> None: ...
