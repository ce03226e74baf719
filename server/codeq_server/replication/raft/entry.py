"""Entries of the log: batches of rows, and changes of the table of members.

The first byte is the version of the entry, the second its kind. An unknown version is never skipped: it ends the
process, because otherwise a member would silently apply less than the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
from codeq_internal.v1 import raft_rows_pb2

from codeq_server.core.batch import SealedBatch

VERSION: Final = 1
BATCH: Final = 0
MEMBERS: Final = 1
ENTRY_BYTES_MAX: Final = 126 << 20
"""Maximum bytes of an entry. A longer entry would never reach the other members, and neither would anything after it. A
batch has 16 MiB plus the changes of its last call, which may return thousands of tasks with 64 KiB of progress each."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, int, int, int, int, dict[bytes, bytes | None]]).decode


class UnknownEntry(Exception):  # noqa: N818 - what it is
    """An entry has a version or kind that this server does not know."""


class EntryTooLong(Exception):  # noqa: N818 - what it is
    """An entry is too long for any message."""


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """A batch as stored in the log.

    Attributes:
        term: Term of the leadership that decided the batch.
        lsn: Number of the batch.
        previous: Number of the previous batch.
        epoch: Epoch of the shard that decided the batch.
        wall_ms: Wall clock of the leader.
        rows: Rows; None deletes.
    """

    term: int
    lsn: int
    previous: int
    epoch: int
    wall_ms: int
    rows: dict[bytes, bytes | None]


def encode_batch(term: int, batch: SealedBatch) -> bytes:
    """Returns the entry of a batch decided in a term.

    Raises:
        EntryTooLong: The entry has more than ENTRY_BYTES_MAX.
    """
    body = _encode((term, batch.lsn, batch.previous_lsn, batch.epoch, batch.wall_ms, batch.rows))
    if len(body) >= ENTRY_BYTES_MAX:
        raise EntryTooLong(f"the entry has {len(body)} bytes")
    return bytes((VERSION, BATCH)) + body


def encode_members(change: raft_rows_pb2.MembersChange) -> bytes:
    """Returns the entry of a change of the table of members."""
    return bytes((VERSION, MEMBERS)) + change.SerializeToString()


def decode(data: bytes) -> BatchEntry | raft_rows_pb2.MembersChange:
    """Returns the content of an entry.

    Raises:
        UnknownEntry: A newer server wrote the entry.
    """
    version, kind = data[0], data[1]
    if version != VERSION or kind not in (BATCH, MEMBERS):
        raise UnknownEntry(
            f"the log has an entry of version {version}, kind {kind}; run the newer server that wrote it"
        )
    body = memoryview(data)[2:]
    if kind == MEMBERS:
        return raft_rows_pb2.MembersChange.FromString(bytes(body))
    return BatchEntry(*_decode(body))
