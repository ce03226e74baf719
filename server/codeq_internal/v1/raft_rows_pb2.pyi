from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NodeRow(_message.Message):
    __slots__ = ("format", "raft_id", "cluster_id")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    RAFT_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    format: int
    raft_id: int
    cluster_id: bytes
    def __init__(self, format: _Optional[int] = ..., raft_id: _Optional[int] = ..., cluster_id: _Optional[bytes] = ...) -> None: ...

class MembersRow(_message.Message):
    __slots__ = ("members", "invitations", "founding_voters")
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    INVITATIONS_FIELD_NUMBER: _ClassVar[int]
    FOUNDING_VOTERS_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    invitations: _containers.RepeatedCompositeFieldContainer[Invitation]
    founding_voters: int
    def __init__(self, members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., invitations: _Optional[_Iterable[_Union[Invitation, _Mapping]]] = ..., founding_voters: _Optional[int] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("raft_id", "name", "address")
    RAFT_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    raft_id: int
    name: str
    address: str
    def __init__(self, raft_id: _Optional[int] = ..., name: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class Invitation(_message.Message):
    __slots__ = ("name", "address", "replaces")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REPLACES_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    replaces: int
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., replaces: _Optional[int] = ...) -> None: ...

class MembersChange(_message.Message):
    __slots__ = ("put", "removed", "invited", "uninvited")
    PUT_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    INVITED_FIELD_NUMBER: _ClassVar[int]
    UNINVITED_FIELD_NUMBER: _ClassVar[int]
    put: _containers.RepeatedCompositeFieldContainer[Member]
    removed: _containers.RepeatedScalarFieldContainer[int]
    invited: _containers.RepeatedCompositeFieldContainer[Invitation]
    uninvited: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, put: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., removed: _Optional[_Iterable[int]] = ..., invited: _Optional[_Iterable[_Union[Invitation, _Mapping]]] = ..., uninvited: _Optional[_Iterable[str]] = ...) -> None: ...

class SnapshotData(_message.Message):
    __slots__ = ("lsn", "members")
    LSN_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    lsn: int
    members: MembersRow
    def __init__(self, lsn: _Optional[int] = ..., members: _Optional[_Union[MembersRow, _Mapping]] = ...) -> None: ...
