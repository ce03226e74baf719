"""The messages of Raft as Python protobuf classes, so that tests can read and forge the messages between nodes."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

TYPES = tuple(
    """MsgHup MsgBeat MsgPropose MsgAppend MsgAppendResponse MsgRequestVote MsgRequestVoteResponse MsgSnapshot
    MsgHeartbeat MsgHeartbeatResponse MsgUnreachable MsgSnapStatus MsgCheckQuorum MsgTransferLeader MsgTimeoutNow
    MsgReadIndex MsgReadIndexResp MsgRequestPreVote MsgRequestPreVoteResponse""".split()  # noqa: SIM905
)
LOCAL = frozenset({"MsgHup", "MsgBeat", "MsgUnreachable", "MsgSnapStatus", "MsgCheckQuorum"})
"""Types that nodes never send."""
FORWARDS = frozenset({"MsgPropose", "MsgTransferLeader", "MsgReadIndex", "MsgReadIndexResp"})
"""Types with which followers forward requests to the leader."""

_FIELDS = {
    "Entry": "u32 entry_type 1, u64 term 2, u64 index 3, bytes data 4, bytes context 6",
    "ConfState": "*u64 voters 1, *u64 learners 2, *u64 voters_outgoing 3, *u64 learners_next 4, bool auto_leave 5",
    "SnapshotMetadata": "ConfState conf_state 1, u64 index 2, u64 term 3",
    "Snapshot": "bytes data 1, SnapshotMetadata metadata 2",
    "Message": "u32 msg_type 1, u64 to 2, u64 from_ 3, u64 term 4, u64 log_term 5, u64 index 6, *Entry entries 7, "
    "u64 commit 8, Snapshot snapshot 9, bool reject 10, u64 reject_hint 11, bytes context 12, u64 request_snapshot 13, "
    "u64 deprecated_priority 14, u64 commit_term 15, i64 priority 16",
}
_SCALARS = {"u32": 13, "u64": 4, "i64": 3, "bool": 8, "bytes": 12}


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="raft_wire.proto", package="raft_wire", syntax="proto3")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for line in fields.split(", "):
            kind, field, number = line.split()
            added = message.field.add(name=field, number=int(number), label=3 if kind.startswith("*") else 1)
            kind = kind.removeprefix("*")
            if kind in _SCALARS:
                added.type = _SCALARS[kind]  # type: ignore[assignment]
            else:
                added.type, added.type_name = 11, f".raft_wire.{kind}"  # type: ignore[assignment]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"raft_wire.{name}")) for name in _FIELDS}


_MADE = _classes()
Entry, ConfState, Snapshot, Message = (_MADE[name] for name in ("Entry", "ConfState", "Snapshot", "Message"))


def message(kind: str, **fields: Any) -> bytes:
    """Returns a message of a type, as bytes."""
    return Message(msg_type=TYPES.index(kind), **fields).SerializeToString()


def read(encoded: bytes) -> Any:
    """Returns a message as an object."""
    return Message.FromString(encoded)
