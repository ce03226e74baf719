from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RaftHello(_message.Message):
    __slots__ = ("protocol", "name", "raft_id", "cluster_id", "http", "grpc", "founds", "unsettled", "last_index", "joins")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    RAFT_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    GRPC_FIELD_NUMBER: _ClassVar[int]
    FOUNDS_FIELD_NUMBER: _ClassVar[int]
    UNSETTLED_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    JOINS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    name: str
    raft_id: int
    cluster_id: bytes
    http: str
    grpc: str
    founds: bool
    unsettled: bool
    last_index: int
    joins: bool
    def __init__(self, protocol: _Optional[int] = ..., name: _Optional[str] = ..., raft_id: _Optional[int] = ..., cluster_id: _Optional[bytes] = ..., http: _Optional[str] = ..., grpc: _Optional[str] = ..., founds: _Optional[bool] = ..., unsettled: _Optional[bool] = ..., last_index: _Optional[int] = ..., joins: _Optional[bool] = ...) -> None: ...

class RaftMessage(_message.Message):
    __slots__ = ("group_id", "from_id", "to_id", "content")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_ID_FIELD_NUMBER: _ClassVar[int]
    TO_ID_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    group_id: int
    from_id: int
    to_id: int
    content: bytes
    def __init__(self, group_id: _Optional[int] = ..., from_id: _Optional[int] = ..., to_id: _Optional[int] = ..., content: _Optional[bytes] = ...) -> None: ...

class DeliverRequest(_message.Message):
    __slots__ = ("hello", "messages")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    hello: RaftHello
    messages: _containers.RepeatedCompositeFieldContainer[RaftMessage]
    def __init__(self, hello: _Optional[_Union[RaftHello, _Mapping]] = ..., messages: _Optional[_Iterable[_Union[RaftMessage, _Mapping]]] = ...) -> None: ...

class DeliverResponse(_message.Message):
    __slots__ = ("hello",)
    HELLO_FIELD_NUMBER: _ClassVar[int]
    hello: RaftHello
    def __init__(self, hello: _Optional[_Union[RaftHello, _Mapping]] = ...) -> None: ...

class InstallSnapshotRequest(_message.Message):
    __slots__ = ("offer", "chunk")
    OFFER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    offer: SnapshotOffer
    chunk: SnapshotChunk
    def __init__(self, offer: _Optional[_Union[SnapshotOffer, _Mapping]] = ..., chunk: _Optional[_Union[SnapshotChunk, _Mapping]] = ...) -> None: ...

class SnapshotOffer(_message.Message):
    __slots__ = ("hello", "message", "manifest")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    hello: RaftHello
    message: RaftMessage
    manifest: bytes
    def __init__(self, hello: _Optional[_Union[RaftHello, _Mapping]] = ..., message: _Optional[_Union[RaftMessage, _Mapping]] = ..., manifest: _Optional[bytes] = ...) -> None: ...

class SnapshotChunk(_message.Message):
    __slots__ = ("file", "offset", "content")
    FILE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    file: int
    offset: int
    content: bytes
    def __init__(self, file: _Optional[int] = ..., offset: _Optional[int] = ..., content: _Optional[bytes] = ...) -> None: ...

class InstallSnapshotResponse(_message.Message):
    __slots__ = ("wanted", "installed")
    WANTED_FIELD_NUMBER: _ClassVar[int]
    INSTALLED_FIELD_NUMBER: _ClassVar[int]
    wanted: SnapshotPosition
    installed: bool
    def __init__(self, wanted: _Optional[_Union[SnapshotPosition, _Mapping]] = ..., installed: _Optional[bool] = ...) -> None: ...

class SnapshotPosition(_message.Message):
    __slots__ = ("file", "offset")
    FILE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    file: int
    offset: int
    def __init__(self, file: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...
