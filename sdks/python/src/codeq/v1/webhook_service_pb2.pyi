import datetime

from buf.validate import validate_pb2 as _validate_pb2
from codeq.options.v1 import options_pb2 as _options_pb2
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

class CallbackState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CALLBACK_STATE_UNSPECIFIED: _ClassVar[CallbackState]
    CALLBACK_STATE_PENDING: _ClassVar[CallbackState]
    CALLBACK_STATE_DELIVERED: _ClassVar[CallbackState]
    CALLBACK_STATE_GAVE_UP: _ClassVar[CallbackState]

class HostHold(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HOST_HOLD_UNSPECIFIED: _ClassVar[HostHold]
    HOST_HOLD_PAUSED: _ClassVar[HostHold]
    HOST_HOLD_DISABLED: _ClassVar[HostHold]
    HOST_HOLD_FAILING: _ClassVar[HostHold]
CALLBACK_STATE_UNSPECIFIED: CallbackState
CALLBACK_STATE_PENDING: CallbackState
CALLBACK_STATE_DELIVERED: CallbackState
CALLBACK_STATE_GAVE_UP: CallbackState
HOST_HOLD_UNSPECIFIED: HostHold
HOST_HOLD_PAUSED: HostHold
HOST_HOLD_DISABLED: HostHold
HOST_HOLD_FAILING: HostHold

class HeldHost(_message.Message):
    __slots__ = ("host", "reason", "since", "until")
    HOST_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    host: str
    reason: HostHold
    since: _timestamp_pb2.Timestamp
    until: _timestamp_pb2.Timestamp
    def __init__(self, host: _Optional[str] = ..., reason: _Optional[_Union[HostHold, str]] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CallbackAttempt(_message.Message):
    __slots__ = ("at", "status", "duration_ms", "error")
    AT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    status: int
    duration_ms: int
    error: str
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., status: _Optional[int] = ..., duration_ms: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...

class Callback(_message.Message):
    __slots__ = ("delivery_id", "task_id", "status", "completed_at", "url", "state", "attempts_total", "next_attempt_at", "attempts")
    DELIVERY_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_AT_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    NEXT_ATTEMPT_AT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    delivery_id: str
    task_id: str
    status: _task_pb2.TaskStatus
    completed_at: _timestamp_pb2.Timestamp
    url: str
    state: CallbackState
    attempts_total: int
    next_attempt_at: _timestamp_pb2.Timestamp
    attempts: _containers.RepeatedCompositeFieldContainer[CallbackAttempt]
    def __init__(self, delivery_id: _Optional[str] = ..., task_id: _Optional[str] = ..., status: _Optional[_Union[_task_pb2.TaskStatus, str]] = ..., completed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., url: _Optional[str] = ..., state: _Optional[_Union[CallbackState, str]] = ..., attempts_total: _Optional[int] = ..., next_attempt_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., attempts: _Optional[_Iterable[_Union[CallbackAttempt, _Mapping]]] = ...) -> None: ...

class ListTaskCallbacksRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class ListTaskCallbacksResponse(_message.Message):
    __slots__ = ("callbacks",)
    CALLBACKS_FIELD_NUMBER: _ClassVar[int]
    callbacks: _containers.RepeatedCompositeFieldContainer[Callback]
    def __init__(self, callbacks: _Optional[_Iterable[_Union[Callback, _Mapping]]] = ...) -> None: ...

class ListCallbacksRequest(_message.Message):
    __slots__ = ("command", "state", "page_size", "page_token", "tenant")
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    command: str
    state: CallbackState
    page_size: int
    page_token: str
    tenant: str
    def __init__(self, command: _Optional[str] = ..., state: _Optional[_Union[CallbackState, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class ListCallbacksResponse(_message.Message):
    __slots__ = ("callbacks", "next_page_token", "paused_hosts", "held_hosts")
    CALLBACKS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PAUSED_HOSTS_FIELD_NUMBER: _ClassVar[int]
    HELD_HOSTS_FIELD_NUMBER: _ClassVar[int]
    callbacks: _containers.RepeatedCompositeFieldContainer[Callback]
    next_page_token: str
    paused_hosts: _containers.RepeatedScalarFieldContainer[str]
    held_hosts: _containers.RepeatedCompositeFieldContainer[HeldHost]
    def __init__(self, callbacks: _Optional[_Iterable[_Union[Callback, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., paused_hosts: _Optional[_Iterable[str]] = ..., held_hosts: _Optional[_Iterable[_Union[HeldHost, _Mapping]]] = ...) -> None: ...

class RetryTaskCallbacksRequest(_message.Message):
    __slots__ = ("task_id", "tenant")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    tenant: str
    def __init__(self, task_id: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class RetryTaskCallbacksResponse(_message.Message):
    __slots__ = ("retried",)
    RETRIED_FIELD_NUMBER: _ClassVar[int]
    retried: int
    def __init__(self, retried: _Optional[int] = ...) -> None: ...

class RetryCallbacksRequest(_message.Message):
    __slots__ = ("command", "to", "page_token", "tenant")
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    command: str
    to: _timestamp_pb2.Timestamp
    page_token: str
    tenant: str
    def __init__(self, command: _Optional[str] = ..., to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page_token: _Optional[str] = ..., tenant: _Optional[str] = ..., **kwargs) -> None: ...

class RetryCallbacksResponse(_message.Message):
    __slots__ = ("retried", "next_page_token")
    RETRIED_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    retried: int
    next_page_token: str
    def __init__(self, retried: _Optional[int] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WebhookSecrets(_message.Message):
    __slots__ = ("endpoint", "fingerprints", "changed_at")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINTS_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    fingerprints: _containers.RepeatedScalarFieldContainer[str]
    changed_at: _timestamp_pb2.Timestamp
    def __init__(self, endpoint: _Optional[str] = ..., fingerprints: _Optional[_Iterable[str]] = ..., changed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class PutWebhookSecretsRequest(_message.Message):
    __slots__ = ("endpoint", "secrets", "tenant")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    secrets: _containers.RepeatedScalarFieldContainer[str]
    tenant: str
    def __init__(self, endpoint: _Optional[str] = ..., secrets: _Optional[_Iterable[str]] = ..., tenant: _Optional[str] = ...) -> None: ...

class PutWebhookSecretsResponse(_message.Message):
    __slots__ = ("secrets",)
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    secrets: WebhookSecrets
    def __init__(self, secrets: _Optional[_Union[WebhookSecrets, _Mapping]] = ...) -> None: ...

class GetWebhookSecretsRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class GetWebhookSecretsResponse(_message.Message):
    __slots__ = ("endpoints",)
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    endpoints: _containers.RepeatedCompositeFieldContainer[WebhookSecrets]
    def __init__(self, endpoints: _Optional[_Iterable[_Union[WebhookSecrets, _Mapping]]] = ...) -> None: ...

class DeleteWebhookSecretsRequest(_message.Message):
    __slots__ = ("endpoint", "tenant")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    tenant: str
    def __init__(self, endpoint: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class DeleteWebhookSecretsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PauseWebhooksRequest(_message.Message):
    __slots__ = ("host", "tenant")
    HOST_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    host: str
    tenant: str
    def __init__(self, host: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class PauseWebhooksResponse(_message.Message):
    __slots__ = ("paused_hosts",)
    PAUSED_HOSTS_FIELD_NUMBER: _ClassVar[int]
    paused_hosts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, paused_hosts: _Optional[_Iterable[str]] = ...) -> None: ...

class ResumeWebhooksRequest(_message.Message):
    __slots__ = ("host", "tenant")
    HOST_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    host: str
    tenant: str
    def __init__(self, host: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class ResumeWebhooksResponse(_message.Message):
    __slots__ = ("paused_hosts",)
    PAUSED_HOSTS_FIELD_NUMBER: _ClassVar[int]
    paused_hosts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, paused_hosts: _Optional[_Iterable[str]] = ...) -> None: ...

class TestWebhookRequest(_message.Message):
    __slots__ = ("url", "tenant")
    URL_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    url: str
    tenant: str
    def __init__(self, url: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class TestWebhookResponse(_message.Message):
    __slots__ = ("status", "error", "duration_ms", "excerpt")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    EXCERPT_FIELD_NUMBER: _ClassVar[int]
    status: int
    error: str
    duration_ms: int
    excerpt: str
    def __init__(self, status: _Optional[int] = ..., error: _Optional[str] = ..., duration_ms: _Optional[int] = ..., excerpt: _Optional[str] = ...) -> None: ...
