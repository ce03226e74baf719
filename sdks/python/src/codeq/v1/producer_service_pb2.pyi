from buf.validate import validate_pb2 as _validate_pb2
from codeq.options.v1 import options_pb2 as _options_pb2
from codeq.v1 import error_pb2 as _error_pb2
from codeq.v1 import task_pb2 as _task_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ProduceRequest(_message.Message):
    __slots__ = ("hello", "tasks", "token")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    hello: ProducerHello
    tasks: _containers.RepeatedCompositeFieldContainer[_task_pb2.TaskSpec]
    token: str
    def __init__(self, hello: _Optional[_Union[ProducerHello, _Mapping]] = ..., tasks: _Optional[_Iterable[_Union[_task_pb2.TaskSpec, _Mapping]]] = ..., token: _Optional[str] = ...) -> None: ...

class ProduceResponse(_message.Message):
    __slots__ = ("welcome", "acks", "notice")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    welcome: ProducerWelcome
    acks: _containers.RepeatedCompositeFieldContainer[FrameAck]
    notice: StreamNotice
    def __init__(self, welcome: _Optional[_Union[ProducerWelcome, _Mapping]] = ..., acks: _Optional[_Iterable[_Union[FrameAck, _Mapping]]] = ..., notice: _Optional[_Union[StreamNotice, _Mapping]] = ...) -> None: ...

class ProducerHello(_message.Message):
    __slots__ = ("client_name", "client")
    CLIENT_NAME_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    client_name: str
    client: ClientInfo
    def __init__(self, client_name: _Optional[str] = ..., client: _Optional[_Union[ClientInfo, _Mapping]] = ...) -> None: ...

class ClientInfo(_message.Message):
    __slots__ = ("sdk", "version", "protocol")
    SDK_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    sdk: str
    version: str
    protocol: int
    def __init__(self, sdk: _Optional[str] = ..., version: _Optional[str] = ..., protocol: _Optional[int] = ...) -> None: ...

class ProducerWelcome(_message.Message):
    __slots__ = ("tenant_id", "subject", "unacked_frames_max", "unacked_bytes_max", "frame_tasks_max", "frame_bytes_max", "server_version", "protocol", "shard", "shards")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    UNACKED_FRAMES_MAX_FIELD_NUMBER: _ClassVar[int]
    UNACKED_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    FRAME_TASKS_MAX_FIELD_NUMBER: _ClassVar[int]
    FRAME_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    subject: str
    unacked_frames_max: int
    unacked_bytes_max: int
    frame_tasks_max: int
    frame_bytes_max: int
    server_version: str
    protocol: int
    shard: int
    shards: int
    def __init__(self, tenant_id: _Optional[str] = ..., subject: _Optional[str] = ..., unacked_frames_max: _Optional[int] = ..., unacked_bytes_max: _Optional[int] = ..., frame_tasks_max: _Optional[int] = ..., frame_bytes_max: _Optional[int] = ..., server_version: _Optional[str] = ..., protocol: _Optional[int] = ..., shard: _Optional[int] = ..., shards: _Optional[int] = ...) -> None: ...

class FrameAck(_message.Message):
    __slots__ = ("task_ids", "errors", "duplicates")
    TASK_IDS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    task_ids: _containers.RepeatedScalarFieldContainer[str]
    errors: _containers.RepeatedCompositeFieldContainer[_error_pb2.ItemError]
    duplicates: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, task_ids: _Optional[_Iterable[str]] = ..., errors: _Optional[_Iterable[_Union[_error_pb2.ItemError, _Mapping]]] = ..., duplicates: _Optional[_Iterable[int]] = ...) -> None: ...

class StreamNotice(_message.Message):
    __slots__ = ("reason", "grace_ms", "leader")
    REASON_FIELD_NUMBER: _ClassVar[int]
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    reason: _error_pb2.ErrorReason
    grace_ms: int
    leader: str
    def __init__(self, reason: _Optional[_Union[_error_pb2.ErrorReason, str]] = ..., grace_ms: _Optional[int] = ..., leader: _Optional[str] = ...) -> None: ...
