"""Checks the rows with contents of artifacts: each content is whole, and belongs to a result or is undecided."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from codeq_internal.v1 import rows_pb2

from codeq_server.core import content_keys, keys


class ContentRows:
    """Processes undecided rows, then chunks, then state rows."""

    def __init__(self) -> None:
        self._undecided: dict[tuple[bytes, bytes], int] = {}
        self._stored: dict[tuple[bytes, bytes], tuple[int, int]] = {}
        """Number of chunks and bytes of each content that may belong to a result."""

    def undecided(self, key: bytes, value: bytes) -> None:
        """Processes the row of an undecided content."""
        self._undecided[content_keys.split_undecided_key(key)] = content_keys.split_undecided_value(value)

    def chunk(self, key: bytes, value: bytes) -> Iterator[str]:
        """Yields what is wrong with a chunk."""
        home, file, number = content_keys.split_content_key(key)
        chunks = self._undecided.get((home, file))
        if chunks is not None:
            if number >= chunks:
                yield f"chunk {number} of an undecided content with {chunks}"
            return
        count, size = self._stored.get((home, file), (0, 0))
        if number != count:
            yield f"chunk {number} after {count} chunks"
        self._stored[home, file] = count + 1, size + len(value)

    def state(self, key: bytes, state: rows_pb2.StateRow) -> Iterator[str]:
        """Yields what is wrong with the contents of a result."""
        for each in state.artifacts:
            if not each.chunks:
                continue
            stored = self._stored.pop((keys.home_of(key), each.file), (0, 0))
            if stored != (each.chunks, each.size):
                yield (
                    f"the content of artifact {each.name!r} has {stored[1]} bytes in {stored[0]} chunks, "
                    f"not {each.size} in {each.chunks}"
                )

    def finish(self) -> Iterable[tuple[bytes, str]]:
        """Returns the contents that belong to no result."""
        return [
            (content_keys.content_key(*name, 0), "belongs to no result, and is not undecided") for name in self._stored
        ]
