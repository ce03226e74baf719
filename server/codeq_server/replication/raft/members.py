"""The table of members, and its changes: the same change gives the same table on every member."""

from __future__ import annotations

from codeq_internal.v1 import raft_rows_pb2


def changed(
    table: raft_rows_pb2.MembersRow, change: raft_rows_pb2.MembersChange, voters: int
) -> raft_rows_pb2.MembersRow:
    """Returns the table after a change.

    Args:
        table: The table before; it is not modified.
        change: The change to apply.
        voters: Number of voters after the change.
    """
    gone = {member.raft_id for member in change.put} | set(change.removed)
    uninvited = {invitation.name for invitation in change.invited} | set(change.uninvited)
    new = raft_rows_pb2.MembersRow(
        members=[member for member in table.members if member.raft_id not in gone] + list(change.put),
        invitations=[i for i in table.invitations if i.name not in uninvited] + list(change.invited),
        founding_voters=0 if voters >= table.founding_voters else table.founding_voters,
    )
    new.members.sort(key=lambda member: member.name)
    return new


def named(table: raft_rows_pb2.MembersRow, name: str) -> raft_rows_pb2.Member | None:
    """Returns the member with a name; None: no such member."""
    return next((member for member in table.members if member.name == name), None)


def with_id(table: raft_rows_pb2.MembersRow, raft_id: int) -> raft_rows_pb2.Member | None:
    """Returns the member with a raft id; None: no such member."""
    return next((member for member in table.members if member.raft_id == raft_id), None)
