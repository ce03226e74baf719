from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class AwaitWorkRequest(_message.Message):
    __slots__ = ("commands", "wait_ms")
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    commands: _containers.RepeatedScalarFieldContainer[str]
    wait_ms: int
    def __init__(self, commands: _Optional[_Iterable[str]] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class AwaitWorkResponse(_message.Message):
    __slots__ = ("priority",)
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    priority: int
    def __init__(self, priority: _Optional[int] = ...) -> None: ...

class ReturnTasksRequest(_message.Message):
    __slots__ = ("lease_token", "task_ids")
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TASK_IDS_FIELD_NUMBER: _ClassVar[int]
    lease_token: int
    task_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, lease_token: _Optional[int] = ..., task_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ReturnTasksResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
