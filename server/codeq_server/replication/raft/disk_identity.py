"""The identity of a disk: a random raft id, and the cluster that the disk belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from codeq_internal.v1 import raft_rows_pb2
from codeq_raft_core import conf_state

from codeq_server.core import keys
from codeq_server.storage.errors import StoreFormat
from codeq_server.storage.store import DurableRows

from . import log_rows, members
from .log_rows import Applied, GroupKeys
from .membership import founding

GROUP: Final = 0
"""Number of the group, which is the index of its shard."""
BASE: Final = (1, 1)
"""Index and term of the entry that stands for a founder's state before the first entry of the log."""
CLUSTER_ID_BYTES: Final = 16
RAFT_ID_BYTES: Final = 8


def raft_id_from(random: bytes) -> int:
    """Returns a raft id, never 0, from RAFT_ID_BYTES random bytes."""
    return int.from_bytes(random, "big") >> 1 | 1


def prepare(store: DurableRows, raft_id: int, name: str) -> raft_rows_pb2.NodeRow:
    """Returns the identity of the disk; a new disk gets `raft_id`, durably.

    Args:
        store: The store.
        raft_id: Random id for a new disk.
        name: Name of this node.

    Raises:
        StoreFormat: The store belongs to a single node, to a member with another name, or to a newer server.
        StoreDamaged: Durable rows are missing.
    """
    row = log_rows.load_node(store)
    if row is None and store.get(keys.IDENTITY) is not None:
        raise StoreFormat(
            "the store belongs to a single node; make it the first member of a cluster with "
            "`codeq cluster init --from-store`, or start with another path"
        )
    store.check_recovered(log_rows.read_written(store))
    if row is None:
        row = raft_rows_pb2.NodeRow(format=log_rows.FORMAT, raft_id=raft_id)
        store.write({log_rows.NODE: row.SerializeToString()})
    _check_name(row, GroupKeys(GROUP).load_members(store), name)
    # A killed process may have left entries and votes that a power cut could lose. They count only once they are
    # synced.
    store.sync()
    return row


def _check_name(row: raft_rows_pb2.NodeRow, table: raft_rows_pb2.MembersRow, name: str) -> None:
    """Rejects the disk of another member: the other members would mistake this node for that member.

    Raises:
        StoreFormat: The store belongs to another member.
    """
    owner = members.with_id(table, row.raft_id)
    if owner is not None and owner.name != name:
        raise StoreFormat(
            f"the store belongs to the member {owner.name} of the cluster {row.cluster_id.hex()}, and this node is "
            f"{name}: give each node its own volume back, or set RAFT_SELF_ID={owner.name}; names of members do not "
            "change"
        )


def founder_rows(
    row: raft_rows_pb2.NodeRow, cluster_id: bytes, name: str, peers: Mapping[str, str], lsn: int
) -> dict[bytes, bytes | None]:
    """Returns the rows that make a disk the first member of a new cluster.

    Args:
        row: Identity of the disk.
        cluster_id: Id of the cluster.
        name: Name of the node.
        peers: Addresses of the nodes that found the cluster, by name, including this node.
        lsn: Number of the last batch in the rows.
    """
    group = GroupKeys(GROUP)
    node = raft_rows_pb2.NodeRow(format=row.format, raft_id=row.raft_id, cluster_id=cluster_id)
    index, term = BASE
    return {
        log_rows.NODE: node.SerializeToString(),
        group.base: log_rows.base_value(index, term),
        group.hard_state: log_rows.hard_state_value((term, 0, index)),
        group.applied: log_rows.applied_value(Applied(index, term, lsn)),
        group.conf_state: conf_state([row.raft_id], []),
        group.members: founding(row.raft_id, name, peers).SerializeToString(),
    }
