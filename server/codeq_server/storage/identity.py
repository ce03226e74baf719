"""Identity of a store: format, shard, installation and epoch. Each opening of the store raises the epoch.

The epoch follows the clock (Unix seconds / 8) as well as the stored epoch, so that a store restored from a backup jumps
past every id and lease token issued since the backup was made.

Steps of an opening: read the LSN of the rows, `Durability.check_recovered`, `next_identity`, `save`, then serve.
"""

from __future__ import annotations

from typing import Final

from codeq_internal.v1 import rows_pb2
from google.protobuf.message import DecodeError

from codeq_server.core import ids, keys
from codeq_server.core.parsing import RowReader

from .errors import StoreDamaged, StoreFailed, StoreFormat
from .store import DurableRows

CLUSTER_ID_BYTES: Final = 16
EPOCH_SECONDS: Final = 8
"""Seconds of the clock per epoch; 30 bits of epochs last until the year 2242."""


def next_identity(
    rows: RowReader, num_shards: int, unix_seconds: int, random16: bytes, *, shard: int = 0, is_node: bool = False
) -> rows_pb2.IdentityRow:
    """Returns the identity with which to open the store now; writes nothing.

    Args:
        rows: Rows of the store.
        num_shards: Number of shards in the configuration.
        unix_seconds: Current time.
        random16: 16 random bytes: the installation id of a new store.
        shard: Index of the shard that is to be in the store.
        is_node: Whether the shards are those of the nodes of a static cluster.

    Raises:
        StoreFormat: The store has a newer format or another number of shards.
        StoreDamaged: The identity is unreadable, or missing although there are rows.
        StoreFailed: All epochs are used up.
    """
    stored = load_identity(rows)
    if stored is None:
        if rows.scan(b"", b"\xff", 1):
            raise StoreDamaged("the store has rows but no identity; restore a backup")
        stored = rows_pb2.IdentityRow(
            format=keys.FORMAT, shard=shard, num_shards=num_shards, cluster_id=random16, epoch=0
        )
    if stored.num_shards != num_shards or stored.shard != shard:
        remedy = f"set numShards to {stored.num_shards}, or cluster.enabled if it is the store of a node"
        if is_node:
            remedy = "a node must keep its name, its store and the list of all nodes"
        elif stored.num_shards == num_shards:
            remedy = f"move it to the folder of shard {stored.shard}"
        raise StoreFormat(
            f"the store is shard {stored.shard} of {stored.num_shards}, but it is opened as shard {shard} of "
            f"{num_shards}; {remedy}"
        )
    epoch = max(stored.epoch + 1, unix_seconds // EPOCH_SECONDS)
    if epoch > ids.EPOCH_MAX:
        raise StoreFailed(f"the store cannot be opened again: epoch {epoch} is above the last one, {ids.EPOCH_MAX}")
    stored.epoch = epoch
    stored.format = keys.FORMAT
    return stored


def load_identity(rows: RowReader) -> rows_pb2.IdentityRow | None:
    """Returns the stored identity, None in a new store.

    Raises:
        StoreFormat: The store has a newer format.
        StoreDamaged: The identity is unreadable.
    """
    value = rows.get(keys.IDENTITY)
    if value is None:
        return None
    try:
        identity = rows_pb2.IdentityRow.FromString(value)
    except DecodeError as error:
        raise StoreDamaged("the store's identity is unreadable; restore a backup") from error
    if identity.format > keys.FORMAT:
        raise StoreFormat(
            f"the store has format {identity.format}, but this server knows only formats up to {keys.FORMAT}; "
            "run the newer server that wrote it"
        )
    if identity.format == 0 or len(identity.cluster_id) != CLUSTER_ID_BYTES:
        raise StoreDamaged("the store's identity is unreadable; restore a backup")
    return identity


def save(store: DurableRows, identity: rows_pb2.IdentityRow) -> None:
    """Writes an identity and makes it durable; nothing may be served before that."""
    store.write({keys.IDENTITY: identity.SerializeToString()})
    store.sync()
