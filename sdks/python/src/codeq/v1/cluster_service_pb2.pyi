from buf.validate import validate_pb2 as _validate_pb2
from codeq.options.v1 import options_pb2 as _options_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RaftRole(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RAFT_ROLE_UNSPECIFIED: _ClassVar[RaftRole]
    RAFT_ROLE_FOLLOWER: _ClassVar[RaftRole]
    RAFT_ROLE_PRE_CANDIDATE: _ClassVar[RaftRole]
    RAFT_ROLE_CANDIDATE: _ClassVar[RaftRole]
    RAFT_ROLE_LEADER: _ClassVar[RaftRole]
    RAFT_ROLE_LEARNER: _ClassVar[RaftRole]
RAFT_ROLE_UNSPECIFIED: RaftRole
RAFT_ROLE_FOLLOWER: RaftRole
RAFT_ROLE_PRE_CANDIDATE: RaftRole
RAFT_ROLE_CANDIDATE: RaftRole
RAFT_ROLE_LEADER: RaftRole
RAFT_ROLE_LEARNER: RaftRole

class RaftMember(_message.Message):
    __slots__ = ("id", "raft_addr", "http_addr", "grpc_addr", "role", "voter", "is_leader", "is_self", "match_index", "lag", "active", "problem")
    ID_FIELD_NUMBER: _ClassVar[int]
    RAFT_ADDR_FIELD_NUMBER: _ClassVar[int]
    HTTP_ADDR_FIELD_NUMBER: _ClassVar[int]
    GRPC_ADDR_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    VOTER_FIELD_NUMBER: _ClassVar[int]
    IS_LEADER_FIELD_NUMBER: _ClassVar[int]
    IS_SELF_FIELD_NUMBER: _ClassVar[int]
    MATCH_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    id: str
    raft_addr: str
    http_addr: str
    grpc_addr: str
    role: RaftRole
    voter: bool
    is_leader: bool
    is_self: bool
    match_index: int
    lag: int
    active: bool
    problem: str
    def __init__(self, id: _Optional[str] = ..., raft_addr: _Optional[str] = ..., http_addr: _Optional[str] = ..., grpc_addr: _Optional[str] = ..., role: _Optional[_Union[RaftRole, str]] = ..., voter: _Optional[bool] = ..., is_leader: _Optional[bool] = ..., is_self: _Optional[bool] = ..., match_index: _Optional[int] = ..., lag: _Optional[int] = ..., active: _Optional[bool] = ..., problem: _Optional[str] = ...) -> None: ...

class RaftGroup(_message.Message):
    __slots__ = ("shard_idx", "is_leader", "self_id", "self_addr", "leader_id", "leader_addr", "leader_http_addr", "has_leader", "role", "term", "commit_index", "applied_index", "first_index", "last_index", "lag", "snapshot_index", "elections", "members")
    SHARD_IDX_FIELD_NUMBER: _ClassVar[int]
    IS_LEADER_FIELD_NUMBER: _ClassVar[int]
    SELF_ID_FIELD_NUMBER: _ClassVar[int]
    SELF_ADDR_FIELD_NUMBER: _ClassVar[int]
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    LEADER_ADDR_FIELD_NUMBER: _ClassVar[int]
    LEADER_HTTP_ADDR_FIELD_NUMBER: _ClassVar[int]
    HAS_LEADER_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_INDEX_FIELD_NUMBER: _ClassVar[int]
    ELECTIONS_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    shard_idx: int
    is_leader: bool
    self_id: str
    self_addr: str
    leader_id: str
    leader_addr: str
    leader_http_addr: str
    has_leader: bool
    role: RaftRole
    term: int
    commit_index: int
    applied_index: int
    first_index: int
    last_index: int
    lag: int
    snapshot_index: int
    elections: int
    members: _containers.RepeatedCompositeFieldContainer[RaftMember]
    def __init__(self, shard_idx: _Optional[int] = ..., is_leader: _Optional[bool] = ..., self_id: _Optional[str] = ..., self_addr: _Optional[str] = ..., leader_id: _Optional[str] = ..., leader_addr: _Optional[str] = ..., leader_http_addr: _Optional[str] = ..., has_leader: _Optional[bool] = ..., role: _Optional[_Union[RaftRole, str]] = ..., term: _Optional[int] = ..., commit_index: _Optional[int] = ..., applied_index: _Optional[int] = ..., first_index: _Optional[int] = ..., last_index: _Optional[int] = ..., lag: _Optional[int] = ..., snapshot_index: _Optional[int] = ..., elections: _Optional[int] = ..., members: _Optional[_Iterable[_Union[RaftMember, _Mapping]]] = ...) -> None: ...

class RaftStatus(_message.Message):
    __slots__ = ("enabled", "num_groups", "groups", "fsync")
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    NUM_GROUPS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    FSYNC_FIELD_NUMBER: _ClassVar[int]
    enabled: bool
    num_groups: int
    groups: _containers.RepeatedCompositeFieldContainer[RaftGroup]
    fsync: bool
    def __init__(self, enabled: _Optional[bool] = ..., num_groups: _Optional[int] = ..., groups: _Optional[_Iterable[_Union[RaftGroup, _Mapping]]] = ..., fsync: _Optional[bool] = ...) -> None: ...

class GetRaftStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetRaftStatusResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: RaftStatus
    def __init__(self, status: _Optional[_Union[RaftStatus, _Mapping]] = ...) -> None: ...

class GetTopologyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetTopologyResponse(_message.Message):
    __slots__ = ("topology",)
    TOPOLOGY_FIELD_NUMBER: _ClassVar[int]
    topology: Topology
    def __init__(self, topology: _Optional[_Union[Topology, _Mapping]] = ...) -> None: ...

class Topology(_message.Message):
    __slots__ = ("raft_enabled", "leader_id", "leader_grpc_addr", "leader_http_addr", "members")
    RAFT_ENABLED_FIELD_NUMBER: _ClassVar[int]
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    LEADER_GRPC_ADDR_FIELD_NUMBER: _ClassVar[int]
    LEADER_HTTP_ADDR_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    raft_enabled: bool
    leader_id: str
    leader_grpc_addr: str
    leader_http_addr: str
    members: _containers.RepeatedCompositeFieldContainer[TopologyMember]
    def __init__(self, raft_enabled: _Optional[bool] = ..., leader_id: _Optional[str] = ..., leader_grpc_addr: _Optional[str] = ..., leader_http_addr: _Optional[str] = ..., members: _Optional[_Iterable[_Union[TopologyMember, _Mapping]]] = ...) -> None: ...

class TopologyMember(_message.Message):
    __slots__ = ("id", "grpc_addr", "http_addr", "is_leader")
    ID_FIELD_NUMBER: _ClassVar[int]
    GRPC_ADDR_FIELD_NUMBER: _ClassVar[int]
    HTTP_ADDR_FIELD_NUMBER: _ClassVar[int]
    IS_LEADER_FIELD_NUMBER: _ClassVar[int]
    id: str
    grpc_addr: str
    http_addr: str
    is_leader: bool
    def __init__(self, id: _Optional[str] = ..., grpc_addr: _Optional[str] = ..., http_addr: _Optional[str] = ..., is_leader: _Optional[bool] = ...) -> None: ...

class AddMemberRequest(_message.Message):
    __slots__ = ("id", "raft_addr", "replace")
    ID_FIELD_NUMBER: _ClassVar[int]
    RAFT_ADDR_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    id: str
    raft_addr: str
    replace: bool
    def __init__(self, id: _Optional[str] = ..., raft_addr: _Optional[str] = ..., replace: _Optional[bool] = ...) -> None: ...

class AddMemberResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: RaftStatus
    def __init__(self, status: _Optional[_Union[RaftStatus, _Mapping]] = ...) -> None: ...

class RemoveMemberRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RemoveMemberResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: RaftStatus
    def __init__(self, status: _Optional[_Union[RaftStatus, _Mapping]] = ...) -> None: ...

class TransferLeadershipRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class TransferLeadershipResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: RaftStatus
    def __init__(self, status: _Optional[_Union[RaftStatus, _Mapping]] = ...) -> None: ...
