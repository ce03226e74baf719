from codeq.v1 import worker_service_pb2 as _worker_service_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ShardCaller(_message.Message):
    __slots__ = ("authorization", "client_certificate", "origin")
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    authorization: str
    client_certificate: bytes
    origin: str
    def __init__(self, authorization: _Optional[str] = ..., client_certificate: _Optional[bytes] = ..., origin: _Optional[str] = ...) -> None: ...

class WorkOnShardRequest(_message.Message):
    __slots__ = ("hello", "work", "pull", "leaving")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    PULL_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    hello: ShardWorkHello
    work: _worker_service_pb2.WorkRequest
    pull: ShardPull
    leaving: ShardLeaving
    def __init__(self, hello: _Optional[_Union[ShardWorkHello, _Mapping]] = ..., work: _Optional[_Union[_worker_service_pb2.WorkRequest, _Mapping]] = ..., pull: _Optional[_Union[ShardPull, _Mapping]] = ..., leaving: _Optional[_Union[ShardLeaving, _Mapping]] = ...) -> None: ...

class ShardWorkHello(_message.Message):
    __slots__ = ("caller", "worker")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    caller: ShardCaller
    worker: _worker_service_pb2.WorkerHello
    def __init__(self, caller: _Optional[_Union[ShardCaller, _Mapping]] = ..., worker: _Optional[_Union[_worker_service_pb2.WorkerHello, _Mapping]] = ...) -> None: ...

class ShardPull(_message.Message):
    __slots__ = ("number", "count", "bytes", "delivered")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    number: int
    count: int
    bytes: int
    delivered: int
    def __init__(self, number: _Optional[int] = ..., count: _Optional[int] = ..., bytes: _Optional[int] = ..., delivered: _Optional[int] = ...) -> None: ...

class ShardLeaving(_message.Message):
    __slots__ = ("delivered",)
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    delivered: int
    def __init__(self, delivered: _Optional[int] = ...) -> None: ...

class WorkOnShardResponse(_message.Message):
    __slots__ = ("accepted", "pulled", "settled", "outcome_errors", "rest", "ready", "draining")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    PULLED_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_ERRORS_FIELD_NUMBER: _ClassVar[int]
    REST_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    accepted: bool
    pulled: ShardPulled
    settled: int
    outcome_errors: _containers.RepeatedCompositeFieldContainer[_worker_service_pb2.OutcomeError]
    rest: bytes
    ready: ShardReady
    draining: bool
    def __init__(self, accepted: _Optional[bool] = ..., pulled: _Optional[_Union[ShardPulled, _Mapping]] = ..., settled: _Optional[int] = ..., outcome_errors: _Optional[_Iterable[_Union[_worker_service_pb2.OutcomeError, _Mapping]]] = ..., rest: _Optional[bytes] = ..., ready: _Optional[_Union[ShardReady, _Mapping]] = ..., draining: _Optional[bool] = ...) -> None: ...

class ShardPulled(_message.Message):
    __slots__ = ("tasks", "count", "bytes", "ready", "next_priority", "leased")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    NEXT_PRIORITY_FIELD_NUMBER: _ClassVar[int]
    LEASED_FIELD_NUMBER: _ClassVar[int]
    tasks: bytes
    count: int
    bytes: int
    ready: bool
    next_priority: int
    leased: int
    def __init__(self, tasks: _Optional[bytes] = ..., count: _Optional[int] = ..., bytes: _Optional[int] = ..., ready: _Optional[bool] = ..., next_priority: _Optional[int] = ..., leased: _Optional[int] = ...) -> None: ...

class ShardReady(_message.Message):
    __slots__ = ("next_priority",)
    NEXT_PRIORITY_FIELD_NUMBER: _ClassVar[int]
    next_priority: int
    def __init__(self, next_priority: _Optional[int] = ...) -> None: ...
