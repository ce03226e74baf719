"""Artifacts of results, as described by state rows. Their contents are in files, which the caller manages."""

from __future__ import annotations

from collections.abc import Sequence

from codeq_internal.v1 import rows_pb2

from . import keys
from .model import Lane, Queue
from .parsing import parsed
from .shard import Shard


def keep(shard: Shard, home: Lane, position: int, artifacts: Sequence[rows_pb2.ArtifactRow]) -> None:
    """Adds artifacts to the state row of a task whose end is being decided."""
    key = keys.place_key(home.state_prefix, position)
    row = shard.batch.rows[key] or b""
    shard.batch.rows[key] = row + rows_pb2.StateRow(artifacts=artifacts).SerializeToString()
    if any(each.file for each in artifacts):
        home.queue.filed += 1


def same(kept: Sequence[rows_pb2.ArtifactRow], said: Sequence[rows_pb2.ArtifactRow]) -> bool:
    """Returns whether a repeated outcome has the same artifacts as the stored one, regardless of file names."""
    return len(kept) == len(said) and all(_known(a) == _known(b) for a, b in zip(kept, said, strict=True))


def let_go(shard: Shard, queue: Queue, key: bytes, state: rows_pb2.StateRow) -> None:
    """Releases the files of a task whose end, recorded in the state row with this key, is being forgotten."""
    files = [each.file for each in state.artifacts if each.file]
    if files:
        queue.filed -= 1
        shard.touch(queue)
        shard.affect().gone_files += [(keys.home_of(key), file) for file in files]


def is_kept(shard: Shard, home: bytes, file: bytes) -> bool:
    """Returns whether the task with this home (as in keys) has an artifact in this file.

    Raises:
        CorruptRows: The state row is unreadable.
    """
    key = keys.state_key(home)
    value = shard.get(key)
    return value is not None and any(each.file == file for each in parsed(rows_pb2.StateRow, key, value).artifacts)


def _known(artifact: rows_pb2.ArtifactRow) -> tuple[str, str, str, int, bytes]:
    return artifact.name, artifact.url, artifact.content_type, artifact.size, artifact.sha256
