"""Artifacts of results, as described by state rows.

A content is in a file, which the caller manages, or in rows: a replicated shard stores it there, chunk by chunk, before
the result is decided. Until then a row says that the content is undecided, so that whoever serves the shard next can
remove what its predecessor left.
"""

from __future__ import annotations

from collections.abc import Sequence

from codeq_internal.v1 import rows_pb2

from . import content_keys, keys
from .model import Lane, Queue
from .parsing import parsed, unpacked
from .shard import Shard


def keep(shard: Shard, home: Lane, position: int, artifacts: Sequence[rows_pb2.ArtifactRow]) -> None:
    """Adds artifacts to the state row of a task whose end is being decided."""
    key = keys.place_key(home.state_prefix, position)
    rows = shard.batch.rows
    row = rows[key] or b""
    rows[key] = row + rows_pb2.StateRow(artifacts=artifacts).SerializeToString()
    if any(each.file for each in artifacts):
        home.queue.filed += 1
    for each in artifacts:
        if each.chunks:
            rows[content_keys.undecided_key(keys.home_of(key), each.file)] = None


def same(kept: Sequence[rows_pb2.ArtifactRow], said: Sequence[rows_pb2.ArtifactRow]) -> bool:
    """Returns whether a repeated outcome has the same artifacts as the stored one, regardless of file names."""
    return len(kept) == len(said) and all(_known(a) == _known(b) for a, b in zip(kept, said, strict=True))


def let_go(shard: Shard, queue: Queue, key: bytes, state: rows_pb2.StateRow) -> None:
    """Releases the contents of a task whose end, recorded in the state row with this key, is being forgotten."""
    kept = [each for each in state.artifacts if each.file]
    if not kept:
        return
    queue.filed -= 1
    shard.touch(queue)
    home = keys.home_of(key)
    for each in kept:
        if each.chunks:
            _remove(shard, home, each.file, each.chunks)
    if files := [each.file for each in kept if not each.chunks]:
        shard.affect().gone_files += [(home, file) for file in files]


def is_kept(shard: Shard, home: bytes, file: bytes) -> bool:
    """Returns whether the task with this home (as in keys) has an artifact in this file.

    Raises:
        CorruptRows: The state row is unreadable.
    """
    key = keys.state_key(home)
    value = shard.get(key)
    return value is not None and any(each.file == file for each in parsed(rows_pb2.StateRow, key, value).artifacts)


def put_chunk(shard: Shard, home: bytes, file: bytes, number: int, chunk: bytes, of: int) -> None:
    """Stores a chunk of a content whose result is to be decided next.

    Args:
        shard: The shard.
        home: Home of the task, as in keys.
        file: Name of the content's rows.
        number: Number of the chunk; chunks are stored in order, from 0.
        chunk: The chunk.
        of: Number of the content's chunks.
    """
    if not number:
        shard.batch.rows[content_keys.undecided_key(home, file)] = content_keys.undecided_value(of)
    shard.batch.rows[content_keys.content_key(home, file, number)] = chunk
    shard.batch.size += len(chunk)


def drop_undecided(shard: Shard, home: bytes, file: bytes) -> None:
    """Removes a content, as far as it is stored, unless its result is decided.

    Raises:
        CorruptRows: The row of the content is unreadable.
    """
    key = content_keys.undecided_key(home, file)
    value = shard.get(key)
    if value is not None:
        _remove(shard, home, file, unpacked(content_keys.split_undecided_value, key, value))
        shard.batch.rows[key] = None


def _remove(shard: Shard, home: bytes, file: bytes, chunks: int) -> None:
    shard.batch.rows.update(dict.fromkeys([content_keys.content_key(home, file, number) for number in range(chunks)]))


def _known(artifact: rows_pb2.ArtifactRow) -> tuple[str, str, str, int, bytes]:
    return artifact.name, artifact.url, artifact.content_type, artifact.size, artifact.sha256
